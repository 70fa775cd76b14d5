"""A second environment, into which pip installs this package as a stranger's machine gets it: from a wheel."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from tests.paths import ROOT


def make_wheel(folder: Path, wheels: Path) -> None:
    """Build this checkout's wheel into `wheels`, from a copy in `folder`: building leaves files beside the source."""
    source = shutil.copytree(ROOT / "steel", folder / "source" / "steel").parent
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "-q", "--no-deps", "-w", wheels, source], check=True, timeout=600)


def make_environment(folder: Path) -> dict[str, str]:
    """The variables under which `pip`, `python` and `steel` are those of a new, empty environment in `folder`, and pip
    takes the pinned versions."""
    venv.create(folder, with_pip=True)
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    paths = f"{folder / 'bin'}{os.pathsep}{kept['PATH']}"
    return kept | {"PATH": paths, "PIP_CONSTRAINT": str(ROOT / "constraints.txt"), "PIP_QUIET": "1"}
