"""An environment of the peers' own, made on first use, that borrows the project's packages: one torch on all sides."""

import os
import site
import subprocess
import sys
from pathlib import Path

from tqdm import tqdm

PEERS = ("pytorch-lightning==2.6.6", "monai==1.6.1", "pytorch-ignite==0.5.5")


def peers_python(folder: Path) -> Path:
    """The interpreter of the environment in `folder`, which is made or brought up to date if need be."""
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    if stamp.exists() and stamp.read_text().split() == [*PEERS]:
        return python
    tqdm.write(f"making the peers' environment in {folder}")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (own,) = folder.glob("lib/python*/site-packages")
    (own / "borrowed.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PEERS]
    subprocess.run(install, check=True, env={**os.environ, "PIP_USER": "0"})
    stamp.write_text("\n".join(PEERS) + "\n")
    return python
