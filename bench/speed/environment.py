"""The peers' own Python environment, made on first use: their pins (numpy < 2.2) would hold the project's back.

It gets a torch of its own: 6 GB, but nothing of one environment can reach the other. torch, torchvision, OpenCV,
albumentations and webdataset are of the versions that the project's environment has, so that none wins by a newer
codec.
"""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from tqdm import tqdm

PEERS = (
    "litdata==0.2.76",
    "mosaicml-streaming==0.13.0",
    "pycocotools==2.0.11",
    "pandas==3.1.1",
)
SAME_AS_OURS = ("torch", "torchvision", "opencv-python-headless", "albumentations", "webdataset")


def peers_python(folder: Path) -> Path:
    """The interpreter of the peers' environment in `folder`, which is made or brought up to date if need be."""
    wanted = sorted([*PEERS, *(f"{name}=={version(name)}" for name in SAME_AS_OURS)])
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text().split() == wanted:
        return python
    tqdm.write(f"making the peers' environment in {folder} (6 GB; a few minutes)")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    subprocess.run(install, check=True, env={**os.environ, "PIP_USER": "0"})
    stamp.write_text("\n".join(wanted) + "\n")
    return python
