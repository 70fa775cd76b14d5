"""Reads back what trackers have recorded."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from steel.metrics.curves import ThresholdCurve
from steel.tracking.items import Confusion, Files, ImageTable, MaskedImage, MaskedImages, PrecisionRecall, Summary

NAMES = ("spot", "scratch")
_TRUE, _SAID = np.zeros((8, 16), np.uint8), np.zeros((8, 16), np.uint8)
_TRUE[:2, :4], _TRUE[:2, 2:6], _SAID[4:, 8:] = 1, 3, 2  # a spot, half of it beneath a scratch; a scratch said elsewhere
IMAGE = MaskedImage(
    *("a.jpg", "a.jpg · predicted: scratch"),
    *(np.full((8, 16), 90, np.uint8), _TRUE, _SAID, np.full((8, 16), 128, np.uint8)),
)
EXAMPLES = MaskedImages("val/examples", NAMES, [IMAGE])
CURVE = ThresholdCurve(np.array([4] * 129 + [2] * 127 + [0]), np.array([6] * 129 + [1] * 127 + [0]))
"""Of 4 positives and 6 negatives: all are above 128 of 256, then half of the positives and one negative."""


def items(folder: Path) -> list[Any]:
    """One of each; files lie in `folder`."""
    checkpoint = folder / "model.safetensors"
    checkpoint.write_bytes(b"weights")
    return [
        EXAMPLES,
        ImageTable("val/worst", NAMES, [IMAGE], [{"image_id": "a.jpg", "dice": 0.25, "true": "spot"}]),
        PrecisionRecall("val/precision_recall", {"spot": CURVE}),
        Confusion("val/confusion", ["none", *NAMES], np.arange(9).reshape(3, 3)),
        Summary({"tuned": {"mean_dice": 0.75, "dice_per_class": {"spot": 0.5, "scratch": None}}, "verdict": "better"}),
        Files("dataset", "shards-1", "data", texts={"manifest.json": "{}"}, metadata={"images": 9}, is_input=True),
        Files("model", "run-model", "weights", [checkpoint], metadata={"mean_dice": 0.75}),
    ]


def records_of(file: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file: a 7-byte header, then LevelDB's log format in blocks of 32 KiB."""
    content, position, parts = file.read_bytes(), 7, b""
    assert content[:4] == b":W&B"
    while position + 7 <= len(content):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield parts
            parts = b""


def read_offline_run(run_dir: Path) -> list[Any]:
    """The records of the only offline run in a run folder."""
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = (run_dir / "wandb").glob("offline-run-*/*.wandb")
    return [Record.FromString(data) for data in records_of(file)]


def items_of(update: Any) -> dict[str, Any]:
    """Names and values of a record."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


class OfflineRun:
    """What an offline Weights & Biases run holds."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = next((run_dir / "wandb").glob("offline-run-*"))
        self.records = read_offline_run(run_dir)
        (self.run,) = [r.run for r in self.records if r.HasField("run")]
        self.history = [items_of(r.history.item) for r in self.records if r.HasField("history")]
        self.metrics = {r.metric.name or r.metric.glob_name: r.metric for r in self.records if r.HasField("metric")}
        self._artifacts = [r.artifact for r in self.records if r.HasField("artifact")]
        self._artifacts += [r.request.log_artifact.artifact for r in self.records if r.request.HasField("log_artifact")]
        self.artifacts = {artifact.type: artifact for artifact in self._artifacts}

    def values(self, name: str) -> list[Any]:
        """All that was logged under a name, in order: plain values, or what a picture or a table consists of."""
        found = []
        for row in self.history:
            parts = {key.removeprefix(f"{name}/"): value for key, value in row.items() if key.startswith(f"{name}/")}
            found += [row[name]] if name in row else [parts] if "_type" in parts else []
        return found

    def media(self, path: str) -> Path:
        """A file that a logged value names."""
        return self.folder / "files" / path

    def table(self, name: str) -> dict[str, Any]:
        """Columns and data of the only table under a name, with the pictures in it."""
        (file,) = [
            entry.local_path
            for artifact in self._artifacts
            for entry in artifact.manifest.contents
            if entry.path == f"{name}.table.json"
        ]
        return json.loads(Path(file).read_text())

    @property
    def config(self) -> dict[str, Any]:
        """What the run was started with, and the charts that it defines."""
        updates: dict[str, Any] = {}
        for record in self.records:
            if record.HasField("run"):
                updates |= items_of(record.run.config.update)
            if record.HasField("config"):
                updates |= items_of(record.config.update)
        return updates

    @property
    def summary(self) -> dict[str, Any]:
        """The final values."""
        final: dict[str, Any] = {}
        for record in self.records:
            if record.HasField("summary"):
                final |= items_of(record.summary.update)
        return final
