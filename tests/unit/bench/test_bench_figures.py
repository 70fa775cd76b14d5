"""Figures in documents are those of the committed tables, and the tables those of the JSON beside them.

After a table has been made anew, this test says of each sentence of `QUOTES` what it has to be (`tests.quotes`).
"""

import json
import statistics
from collections.abc import Iterator
from typing import Any

import pytest

from bench.speed.report import PROGRAMS, committed
from tests.paths import ROOT
from tests.quotes import Quote, check

TABLES = {name: json.loads((ROOT / "bench" / f"{name}.json").read_text()) for name in PROGRAMS}
STEP = "Unet resnet18, 192x192, batch 16"


def _side(table: str, row: str, label: str = "") -> dict[str, Any]:
    """A side of a row, each by its name or the start of it; our side without a label."""
    return _sides(table, row, label)[0]


def _sides(table: str, row: str, label: str) -> list[dict[str, Any]]:
    """The one of that name, else all whose names begin so."""
    sides = _row(table, row)["sides"]
    return [side for side in sides if side["label"] == label] or [
        side for side in sides if side["label"].startswith(label)
    ]


def _row(table: str, row: str) -> dict[str, Any]:
    (found,) = (each for each in TABLES[table]["rows"] if each["name"] == row)
    return found


def _ratio(table: str, row: str, label: str) -> float:
    """As the table has it: how many times as fast ours is; the least where several sides have that start."""
    return min(statistics.median(side["ratios"]) for side in _sides(table, row, label))


def _between(table: str, row: str, label: str, other: str) -> float:
    """How many times as fast one side is as another, the median of the ratios within each repeat; the least where
    several others have that start."""
    own = _side(table, row, label)["rates"]
    return min(
        statistics.median(a / b for a, b in zip(own, side["rates"], strict=True)) for side in _sides(table, row, other)
    )


def _milliseconds(row: str) -> float:
    return 1000 / statistics.median(_side("speed", row)["rates"])


def _quotes() -> Iterator[Quote]:
    readme, warm, made_up = "bench/README.md", "raw-warm", f"made-up {STEP}"
    webdataset, mosaic, litdata = "webdataset, sequential", "mosaicml-streaming, shuffle", "LitData, shuffle"
    gray = "webdataset + albumentations, uint8, gray"
    pread, slices = "os.pread", "slices of mapped files"
    peers = ("plain loop, channels_last", "plain loop, NCHW", "PyTorch Lightning", "MONAI")
    yield Quote(
        readme,
        "Webdataset at {} times (8 asked) and mosaicml-streaming at {} (5 asked) are missed",
        (_ratio("speed", warm, webdataset), _ratio("speed", warm, mosaic)),
    )
    yield Quote(
        readme,
        "`os.pread` and nothing else, are {:.1f} and {:.1f} times as fast as they are",
        (_between("speed", warm, pread, webdataset), _between("speed", warm, pread, mosaic)),
    )
    yield Quote(
        readme,
        "LitData at {} (1.5 asked) is missed, too: it copies from mapped files, and those calls are {} times as fast",
        (_ratio("speed", warm, litdata), _between("speed", warm, pread, litdata)),
    )
    yield Quote(
        readme,
        "Slices of mapped files would allow {:.1f} times LitData and {:.1f} times mosaicml-streaming",
        tuple(_between("speed", warm, slices, side) for side in (litdata, mosaic)),
    )
    yield Quote(
        readme,
        "*Batches* at {} times webdataset that decodes gray (2 asked) are missed by a hair",
        (_ratio("speed", "batches", gray),),
    )
    yield Quote(
        readme,
        "A sure network's images take {} ms, an unsure network's {} and an untrained network's {}",
        tuple(_milliseconds(f"statistics-{network}") for network in ("sure", "unsure", "untrained")),
    )
    yield Quote(
        readme,
        "ours is {} times the plain loop in channels_last, {} times the one in NCHW, {} times PyTorch Lightning and {} "
        "times MONAI",
        tuple(_ratio("train_step", made_up, peer) for peer in peers),
    )
    pairs = [(f"kept {row} {STEP}", peer) for row in ("made-up", "loader") for peer in peers]
    single = [ratio for pair in pairs for side in _sides("train_step", *pair) for ratio in side["ratios"]]
    yield Quote(
        readme,
        "Where all keep it ours is {}, {}, {} and {} times as fast, and fed by the loader {}, {}, {} and {} times, "
        "with single rounds from {} to {}",
        (*(_ratio("train_step", *pair) for pair in pairs), min(single), max(single)),
    )
    yield Quote(
        readme,
        "has the C library's allocator as they have it, and is {}, {}, {} and {} times as fast as they are",
        tuple(_between("train_step", made_up, "ours, freed memory not kept", peer) for peer in peers),
    )
    yield Quote(
        readme,
        "Two gloo ranks of one thread are {} times as fast as one process of two (0.9 asked)",
        (_ratio("train_step", f"ranks {STEP}", "one process"),),
    )
    nchw = _side("train_step", made_up, "ours, NCHW")["ratios"]
    yield Quote(
        "steel/config.py",
        "being {} times as fast as NCHW ({} to {}, `bench/train_step.md`) in float32 and {} times in bfloat16",
        (statistics.median(nchw), min(nchw), max(nchw), _ratio("train_step", f"kept bf16 {STEP}", "ours, NCHW")),
    )
    ddp = next(side for side in _row("train_step", f"ddp {STEP}")["sides"] if side["label"] == "ours")["ratios"]
    yield Quote(
        readme,
        "DDP around one rank {} times as fast as none (0.97 asked, {} to {} in single rounds)",
        (statistics.median(ddp), min(ddp), max(ddp)),
    )
    yield Quote(
        readme,
        "there ours is {} times the plain loop in channels_last, {} times the one in NCHW and {} times PyTorch "
        "Lightning",
        tuple(_ratio("train_step", f"kept bf16 {STEP}", peer) for peer in peers[:3]),
    )


QUOTES = tuple(_quotes())
MISSED = {
    ("speed", "raw-warm", "webdataset, sequential"),
    ("speed", "raw-warm", "LitData, shuffle"),
    ("speed", "raw-warm", "mosaicml-streaming, shuffle"),
    ("speed", "batches", "webdataset + albumentations, uint8, gray"),
    ("train_step", f"kept made-up {STEP}", "plain loop, NCHW"),
    ("train_step", f"kept bf16 {STEP}", "plain loop, NCHW"),
    ("train_step", f"kept loader {STEP}", "plain loop, NCHW"),
}
"""The targets that no table reaches: bench/README.md says of each that it is missed, and why."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_table_is_what_its_json_gives(name: str) -> None:
    markdown, text = committed(name)
    assert markdown.read_text() == text, f"bench/{name}.md: run `python -m bench.speed.report`, and commit what changes"


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote.words[:40])
def test_a_sentence_has_the_figures_of_its_table(quote: Quote) -> None:
    check(quote)


def test_what_is_missed_is_known() -> None:
    """A target that is missed, or reached again, changes what bench/README.md has to say."""
    missed = {
        (name, row["name"], side["label"])
        for name, table in TABLES.items()
        for row in table["rows"]
        for side in row["sides"]
        if side["reached"] is False
    }
    assert missed == MISSED, "say so in bench/README.md, then edit MISSED in this test"
