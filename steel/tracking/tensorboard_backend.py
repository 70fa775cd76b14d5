"""TensorBoard event files in a folder of the attempt's own; the attempts lie side by side on the same step axis."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steel.images.bitmask import unpack_masks
from steel.images.pictures import draw_comparison
from steel.tracking.items import Confusion, Files, ImageTable, Item, MaskedImage, MaskedImages, PrecisionRecall, Summary
from steel.tracking.queue import Status, flatten


class TensorboardBackend:
    """One attempt's event files."""

    def __init__(self, folder: Path, run_config: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), flush_secs=10)
        self._writer.add_text("config", _as_json(run_config))

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures; values that are no numbers are left out."""
        for name, value in flatten(record).items():
            if isinstance(value, bool | int | float):
                self._writer.add_scalar(name, value, step)

    def show(self, item: Item, step: int) -> None:
        """Record pictures and curves as such, numbers of a summary as scalars, all else as text."""
        match item:
            case MaskedImages():
                for image in item.images:
                    self._show_image(f"{item.name}/{image.image_id}", image, item.class_names, step)
            case ImageTable():
                rows = [[str(value) for value in line.values()] for line in item.lines]
                self._writer.add_text(item.name, _as_table([list(item.lines[0]), *rows] if rows else []), step)
                for number, image in enumerate(item.images, start=1):
                    self._show_image(f"{item.name}/{number} {image.caption}", image, item.class_names, step)
            case PrecisionRecall():
                for label, c in item.curves.items():
                    self._writer.add_pr_curve_raw(
                        f"{item.name}/{label}",
                        *(c.found, c.false, c.negatives - c.false, c.positives - c.found),
                        *(c.precision, c.recall),
                        global_step=step,
                        num_thresholds=len(c.found),
                    )
            case Confusion():
                rows = [[label, *map(str, counts)] for label, counts in zip(item.labels, item.counts, strict=True)]
                self._writer.add_text(item.name, _as_table([["true, predicted:", *item.labels], *rows]), step)
            case Summary():
                self.log(item.values, step)
                self._writer.add_text("summary", _as_json(item.values), step)
            case Files():
                paths = [str(path) for path in item.paths]
                self._writer.add_text(item.kind, _as_json({"files": paths, **item.metadata}), step)

    def finish(self, status: Status) -> None:
        """Record how the run ended and close the file."""
        self._writer.add_text("status", status)
        self._writer.close()

    def _show_image(self, name: str, image: MaskedImage, class_names: Sequence[str], step: int) -> None:
        """Truth above prediction; then the probability."""
        true, predicted = (unpack_masks(mask, len(class_names)) for mask in (image.true, image.predicted))
        picture = draw_comparison(image.image, predicted, true, tags=image.tags, true_tags=image.true_tags)
        self._writer.add_image(name, picture, step, dataformats="HWC")
        self._writer.add_image(f"{name}, probability", image.probability, step, dataformats="HW")


def _as_json(values: Mapping[str, Any]) -> str:
    return f"```json\n{json.dumps(values, indent=2, default=str)}\n```"


def _as_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([*lines[:1], "|" + "---|" * len(rows[0]), *lines[1:]]) if rows else ""
