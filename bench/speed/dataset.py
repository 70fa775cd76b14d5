"""One synthetic data set of Severstal's size and class mix, in the form that each side reads."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.speed.worker import ROOT, Worker

SHARD_SIZE = 100
"""Images per shard, of every format."""


@dataclass(frozen=True)
class Dataset:
    """Folders of one data set; `root` may not exist yet."""

    root: Path

    @property
    def images(self) -> str:
        """Folder of the images as they were made."""
        return str(self.root / "synth" / "train_images")

    @property
    def annotations(self) -> str:
        """Their run lengths, as Kaggle has them."""
        return str(self.root / "synth" / "train.csv")

    def folder(self, name: str) -> str:
        """`ours`, `webdataset`, `litdata` or `mosaic`."""
        return str(self.root / name)

    @property
    def shard_names(self) -> list[str]:
        """Our tars."""
        return sorted(path.name for path in (self.root / "ours").glob("*.tar"))

    @property
    def png(self) -> dict[str, Any]:
        """How the peers' PNG masks were written, and the milliseconds that OpenCV needs for one."""
        return json.loads((self.root / "webdataset" / "png.json").read_text())


def make_dataset(root: Path, num_images: int) -> Dataset:
    """Make what is missing of the images and our shards; each folder appears once it is complete."""
    made = Dataset(root)
    root.mkdir(parents=True, exist_ok=True)
    _make(root / "synth", lambda out: _run("steel.cli", "synth", str(out), "--num-train", str(num_images)))
    source = ("--images", made.images, "--labels", made.annotations, "--shard-size", str(SHARD_SIZE))
    _make(root / "ours", lambda out: _run("data_prep", *source, "--out", str(out)))
    return made


def make_peers_formats(made: Dataset, start_peers: Callable[[], Worker]) -> None:
    """Make what is missing of the same samples in the peers' formats."""
    root = made.root
    if all((root / name).exists() for name in ("webdataset", "litdata", "mosaic")):
        return
    with start_peers() as peers:
        _make(root / "webdataset", lambda out: _write_webdataset(peers, made, out))
        for name in ("litdata", "mosaic"):
            _make(root / name, partial(_ask_for, peers, f"write_{name}", made))


def _ask_for(peers: Worker, task: str, made: Dataset, out: Path) -> None:
    peers.ask(task, shards=made.folder("ours"), out=str(out), shard_size=SHARD_SIZE)


def _make(final: Path, write: Callable[[Path], object]) -> None:
    if final.exists():
        return
    tqdm.write(f"making {final}")
    unfinished = final.with_name(f"{final.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    write(unfinished)
    unfinished.rename(final)


def _run(module: str, *arguments: str) -> None:
    code = f"import sys; from {module} import main; sys.exit(main())" if module == "steel.cli" else None
    start = ["-c", code] if code else ["-m", module]
    subprocess.run([sys.executable, *start, *arguments], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def _write_webdataset(peers: Worker, made: Dataset, out: Path) -> None:
    source = {"images": made.images, "annotations": made.annotations}
    png = peers.ask("fastest_png", **source)
    peers.ask(
        "write_webdataset",
        **source,
        out=str(out),
        shard_size=SHARD_SIZE,
        level=png["level"],
        strategy=png["strategy"],
    )
    (out / "png.json").write_text(json.dumps(png))
