"""launch/Dockerfile: what it names is there; its steps, run anew, end in a program that serves or trains."""

import os
import re
import shlex
import shutil
import site
import subprocess
import sys
import sysconfig
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from tests.paths import ROOT

TEXT = (ROOT / "launch" / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def instructions(name: str) -> list[str]:
    """What stands behind each instruction of that name, in order."""
    return re.findall(rf"^{name} (.*)$", TEXT, re.MULTILINE)


def arguments(text: str = TEXT) -> dict[str, str]:
    """The build arguments, by default."""
    return dict(re.findall(r"^ARG (\w+)=(.*)$", text, re.MULTILINE))


def run_steps(steps: list[str], folder: Path, environment: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """RUN steps one after the other, as `docker build` does: by sh, with the arguments in the environment."""
    return [
        subprocess.run(["sh", "-c", step], cwd=folder, env=environment, check=True, capture_output=True, text=True)
        for step in steps
    ]


def test_what_it_names_is_there() -> None:
    kinds = {line.split()[0] for line in TEXT.splitlines() if line and not line.startswith("#")}
    assert kinds == {"ARG", "FROM", "ENV", "WORKDIR", "COPY", "RUN", "CMD"}, "what the test below understands"
    used = set(re.findall(r"\$\{?([A-Z]+)", " ".join([*instructions("FROM"), *instructions("RUN")])))
    assert used == arguments().keys() | {"VENV"}
    extras = PROJECT["optional-dependencies"].keys()
    assert extras >= set(arguments()["EXTRAS"].split(",")) | set(re.findall(r"EXTRAS=([\w,]+)", TEXT)[0].split(","))
    assert SpecifierSet(PROJECT["requires-python"]).contains(arguments()["PYTHON"])
    assert "://" not in TEXT
    (image,) = set(re.findall(r"image: (steel-defects\S+)", (ROOT / "launch/kubernetes/train.yaml").read_text()))
    assert image in TEXT and image == f"steel-defects:{PROJECT['version']}"
    assert instructions("WORKDIR") == ["/app"], "where kubernetes/train.yaml looks for the checkout"
    (venv,) = re.findall(r"VENV=(/\S+)", instructions("ENV")[0])
    assert f"PATH={venv}/bin:$PATH" in TEXT


def test_what_is_left_out_of_the_image_is_what_git_leaves_out() -> None:
    lines = (ROOT / "launch" / "Dockerfile.dockerignore").read_text().split()
    patterns = [line.removeprefix("**/") for line in lines]
    ignored = [name.strip("/") for name in (ROOT / ".gitignore").read_text().split()]
    assert [name for name in ignored if not any(fnmatch(name, pattern) for pattern in patterns)] == []
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    parts = {Path(name).parts[0] for name in tracked}
    assert [part for part in parts if any(fnmatch(part, pattern) for pattern in patterns)] == []


def check_out(folder: Path) -> Path:
    """What `COPY . .` puts into the image."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in names.split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def image_environment(venv: Path, **given: str) -> dict[str, str]:
    """The variables of the steps: build arguments, by default or as given, and what ENV says, for another place."""
    bare = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV", "MAKEFLAGS")}
    pythons = [f"{venv}/bin", str(Path(sys.base_prefix) / "bin"), bare["PATH"]]
    of_steps = arguments(TEXT.partition("\nFROM ")[2])  # those before it are for FROM alone
    return {**bare, **of_steps, "VENV": str(venv), "PATH": ":".join(pythons), **given}


@pytest.mark.slow
def test_its_steps_make_a_program_that_serves(tmp_path: Path) -> None:
    """With what a line needs, in a fresh environment."""
    checkout, venv = check_out(tmp_path / "app"), tmp_path / "venv"
    environment = image_environment(venv, EXTRAS="onnx,serve")
    steps = run_steps(instructions("RUN"), checkout, environment)
    assert "serve" in steps[-1].stdout
    (command,) = instructions("CMD")
    assert shlex.split(command.strip("[]").replace(",", " ")) == ["steel", "--help"]
    code = "import importlib.util as u, onnxruntime, uvicorn, steel; print(steel.__file__, u.find_spec('torch'))"
    line = [str(venv / "bin" / "python"), "-c", code]
    told = subprocess.run(line, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True).stdout
    assert told == f"{checkout}/steel/__init__.py None\n"
    absent = [str(venv / "bin" / "steel"), "serve", "none.onnx", "--port", "0"]
    done = subprocess.run(absent, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: none.onnx: no such file\n")


def lend_packages(venv: Path, folder: Path) -> None:
    """Show an environment the packages of this one, but for this project and pip, as if they had been fetched."""
    folder.mkdir()
    for path in site.getsitepackages():
        for entry in Path(path).iterdir():
            if not re.match(r"pip\b|steel_defects|__editable__|.*\.pth$", entry.name):
                (folder / entry.name).symlink_to(entry)
    own = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    for old in own.glob("setuptools*"):  # the one that Python 3.11 brings would come first
        shutil.rmtree(old)
    (own / "lent.pth").write_text(f"{folder}\n")


@pytest.mark.slow
def test_its_steps_make_a_program_that_trains(tmp_path: Path) -> None:
    """With the default extras, which take 3.3 GB: from the packages that are here, no index is asked but for pip's."""
    for package in ("torch", "onnxruntime", "uvicorn", "setuptools"):
        pytest.importorskip(package)
    checkout, venv, wheels = check_out(tmp_path / "app"), tmp_path / "venv", tmp_path / "wheels"
    line = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
    subprocess.run([*line, "-c", str(checkout / "constraints.txt"), "pip"], check=True)
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels), "PIP_NO_BUILD_ISOLATION": "0"}
    environment = image_environment(venv, **offline)
    first, *others = instructions("RUN")
    run_steps([first], checkout, environment)
    lend_packages(venv, tmp_path / "lent")
    steps = run_steps(others, checkout, environment)
    assert "serve" in steps[-1].stdout
    code = "import torch, accelerate, onnxruntime, uvicorn, steel; print(steel.__file__)"
    told = subprocess.run(
        ["python", "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert told == f"{checkout}/steel/__init__.py\n"
    line = ["python", "-m", "train", "--data", "none", "--out", "run"]
    done = subprocess.run(line, cwd=checkout, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: none")
