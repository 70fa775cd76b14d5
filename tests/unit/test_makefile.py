"""What `make` installs, in which order, under which constraints; pip lists for real and only notes what to install."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.paths import ROOT

PYTHON = """#!/bin/sh
case "$*" in
  *"pip install"*) echo "$*" >> {noted} ;;
  *) PYTHONPATH={packages} exec {python} "$@" ;;
esac
"""


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment whose Python sees what is in `packages` before anything else."""
    (tmp_path / "packages").mkdir()
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    places = {"noted": tmp_path / "noted", "packages": tmp_path / "packages", "python": sys.executable}
    python.write_text(PYTHON.format(**places))
    python.chmod(0o755)
    return tmp_path


def installed_by(venv: Path, target: str) -> list[str]:
    """What `make` asks pip for on the way to `target`, each with pip's options taken off."""
    line = ["make", f"VENV={venv}", f"PYTHON={sys.executable}", target]
    subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True)
    start = f"-m pip install --disable-pip-version-check -c {venv}/constraints.txt "
    lines = (venv / "noted").read_text().splitlines()
    assert all(line.startswith(start) for line in lines)
    return [line.removeprefix(start) for line in lines]


def pretend(venv: Path, **versions: str) -> None:
    """Let Python find these distributions."""
    for name, version in versions.items():
        metadata = venv / "packages" / f"{name}-{version}.dist-info" / "METADATA"
        metadata.parent.mkdir()
        metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_the_demo_waits_for_no_test_tool(venv: Path) -> None:
    pretend(venv, torch="2.12.0", torchvision="0.27.0")
    assert installed_by(venv, f"{venv}/.installed-user") == ["pip", "-e .[train,onnx,serve]"]
    assert installed_by(venv, "setup") == ["pip", "-e .[train,onnx,serve]", "-e .[train,dev]"]
    assert len(installed_by(venv, "setup")) == 3, "what is there is not installed again"
    assert (venv / "constraints.txt").read_text() == (ROOT / "constraints.txt").read_text()


def test_a_wheel_holds_nothing_of_an_earlier_build(tmp_path: Path) -> None:
    """setuptools packs whatever a build before has left, modules that are gone since among it."""
    (tmp_path / ".installed-user").touch()
    line = ["make", "--dry-run", "--no-print-directory", f"VENV={tmp_path}", "wheel"]
    said = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    build = f"{tmp_path}/bin/python -m pip wheel --disable-pip-version-check --no-deps -w wheels ."
    assert said[-3:] == ["rm -rf build", build, "rm -rf build"]


def test_a_pytorch_of_ones_own_choice_is_kept(venv: Path) -> None:
    """As PyTorch's CPU build is: its version has a label."""
    pretend(venv, torch="2.99.1+cpu", torchvision="0.99.0+cpu", timm="0.1")
    installed_by(venv, f"{venv}/.installed-user")
    ours = (ROOT / "constraints.txt").read_text().splitlines()
    kept = (venv / "constraints.txt").read_text().splitlines()
    assert sorted(kept[:2]) == ["torch==2.99.1+cpu", "torchvision==0.99.0+cpu"]
    assert kept[2:] == [line for line in ours if not line.startswith(("torch==", "torchvision=="))]


def test_the_commit_hooks_are_what_make_check_runs() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\ncheck:")[1].split("\n\n")[0]
    checks = [line.strip().removeprefix("$(BIN)/") for line in recipe.splitlines() if line.startswith("\t$(BIN)/")]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [hook["entry"].removeprefix(".venv/bin/") for hook in repository["hooks"]] == checks
    assert len(checks) == 4


def test_tests_take_all_cores_and_numbers_are_tested_under_two_instruction_sets(venv: Path) -> None:
    line = ["make", "-n", f"VENV={venv}", f"PYTHON={sys.executable}", "test"]
    recipe = subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    whole, numbers = (command for command in recipe.splitlines() if "-m pytest" in command)
    assert "-n auto" in whole and "tests/" not in whole
    assert numbers.startswith("ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 ")
    files = numbers.split()[-3:]
    assert [Path(file).name for file in files] == ["test_golden.py", "test_gradients.py", "test_worlds.py"]
    assert all((ROOT / file).is_file() for file in files)
    told, fetched = (recipe.index(words) for words in ("== Fetching train,onnx,serve", "-e '.[train,onnx,serve]'"))
    assert told < fetched
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
