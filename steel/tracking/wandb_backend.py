"""Weights & Biases: a run is an attempt of a job. Attempts share a group and the axis `global_step`."""

import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any, Literal

import numpy as np

from steel.config import TrackingConfig
from steel.errors import told_url
from steel.tracking.items import Confusion, Files, ImageTable, Item, MaskedImage, MaskedImages, PrecisionRecall, Summary
from steel.tracking.queue import FINISH_SECONDS, Status, flatten

logger = logging.getLogger(__name__)

START_SECONDS = 15.0
"""How long Weights & Biases may take to accept an online run before it is recorded offline."""
AXIS = "global_step"
NAMESPACES = ("train", "val", "system")
BEST = {"val/mean_dice_cross_fitted": "max", "val/mean_dice": "max", "val/loss": "min", "train/loss": "min"}
"""Of these the run's summary holds the best value, not the last."""
_CURVE_POINTS = 100
"""Of a curve of precision over recall."""


class WandbBackend:
    """One Weights & Biases run.

    Without an API key, or when the server does not accept the run, it is recorded offline and a line says so.
    """

    def __init__(self, config: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], attempt: int) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # its shutdown waits for a server that does not answer
        # What an offline run's tables and artifacts consist of stays beside it, not in a home that a node may lose.
        os.environ.setdefault("WANDB_DATA_DIR", str(run_dir.resolve() / "wandb"))
        sys.argv[1:] = map(told_url, sys.argv[1:])  # the library records the command line, which is parsed by now
        import wandb

        run_name = run_dir.resolve().name

        def start(mode: Literal["online", "offline"]) -> Any:
            return wandb.init(
                project=valid_name(config.project, _NOT_IN_PROJECTS),
                group=valid_name(config.group or run_name),
                name=valid_name(f"{run_name}-{attempt}"),
                job_type="train",
                dir=str(run_dir),
                config={**run_config, "attempt": attempt},
                mode=mode,
                settings=wandb.Settings(
                    console="off", silent=True, init_timeout=START_SECONDS, finish_timeout=FINISH_SECONDS * 0.8
                ),
            )

        later = f"recording offline; `wandb sync {quote(str(run_dir / 'wandb'))}/offline-*` uploads it later"
        if wandb.setup().settings.mode in ("offline", "dryrun"):
            logger.warning("Weights & Biases: %s", later)
            self._run = start("offline")
        elif not wandb.login(prompt=False, verify=False):
            logger.warning("Weights & Biases: no API key (WANDB_API_KEY or `wandb login`), %s", later)
            self._run = start("offline")
        else:
            try:
                self._run = start("online")
                logger.info("Weights & Biases: %s", self._run.url)
            except Exception as error:
                logger.warning("Weights & Biases: %s, %s", str(error).splitlines()[0], later)
                self._run = start("offline")
        self._wandb = wandb
        for name in (AXIS, "epoch"):
            self._run.define_metric(name, hidden=True)
        for namespace in NAMESPACES:
            self._run.define_metric(f"{namespace}/*", step_metric=AXIS)
        for name, best in BEST.items():
            self._run.define_metric(name, step_metric=AXIS, summary=best)

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Record figures on the axis."""
        self._run.log({**flatten(record), AXIS: step})

    def show(self, item: Item, step: int) -> None:
        """Record pictures, tables, charts, a summary or an artifact."""
        match item:
            case Summary():
                self._run.summary.update(flatten(item.values))
            case Files():
                self._log_files(item)
            case MaskedImages():
                self._run.log({item.name: self._pictures(item.images, item.class_names), AXIS: step})
            case ImageTable():
                columns = list(item.lines[0]) if item.lines else []
                pictures = self._pictures(item.images, item.class_names)
                rows = [[p, *line.values()] for p, line in zip(pictures, item.lines, strict=True)]
                self._run.log({item.name: self._wandb.Table(columns=["image", *columns], data=rows), AXIS: step})
            case PrecisionRecall():
                self._run.log({item.name: self._curve_chart(item), AXIS: step})
            case Confusion():
                self._run.log({item.name: self._confusion_chart(item), AXIS: step})

    def finish(self, status: Status) -> None:
        """Close the run and Weights & Biases' own service, which would else be waited for when the process exits."""
        exit_code = 0 if status == "finished" else 1
        try:
            self._run.summary["status"] = status
            if status == "interrupted":
                self._run.mark_preempting()
            self._run.finish(exit_code=exit_code)
        finally:
            self._wandb.teardown(exit_code)

    def _pictures(self, images: Sequence[MaskedImage], class_names: Sequence[str]) -> list[Any]:
        """With the masks as layers that can be toggled, as a whole and class by class."""
        ids, labels = label_masks([mask for image in images for mask in (image.true, image.predicted)], class_names)

        def picture(image: MaskedImage) -> Any:
            layers = {"true": ids[image.true], "predicted": ids[image.predicted]}
            masks = {name: {"mask_data": mask, "class_labels": labels} for name, mask in layers.items()}
            masks["probability"] = {"mask_data": image.probability // 26, "class_labels": _TENTHS}
            return self._wandb.Image(image.image, caption=image.caption, masks=masks)

        return [picture(image) for image in images]

    def _curve_chart(self, item: PrecisionRecall) -> Any:
        rows = []
        for label, curve in item.curves.items():
            places = np.stack([curve.precision, curve.recall], axis=1)[np.isfinite(curve.precision)]
            steps = places[np.append(True, (np.diff(places, axis=0) != 0).any(axis=1))]
            some = np.unique(np.linspace(0, len(steps) - 1, _CURVE_POINTS).round().astype(int))[::-1]
            rows += [[label, *place] for place in steps[some].round(4).tolist()]
        return self._wandb.plot_table(
            data_table=self._wandb.Table(columns=["class", "precision", "recall"], data=rows),
            vega_spec_name="wandb/area-under-curve/v0",  # as wandb.plot.pr_curve, whose samples we do not keep
            fields={"x": "recall", "y": "precision", "class": "class"},
            string_fields={"title": "Precision over recall", "x-axis-title": "Recall", "y-axis-title": "Precision"},
        )

    def _confusion_chart(self, item: Confusion) -> Any:
        rows = [
            [true, said, int(item.counts[i, j])]
            for i, true in enumerate(item.labels)
            for j, said in enumerate(item.labels)
        ]
        return self._wandb.plot_table(
            data_table=self._wandb.Table(columns=["Actual", "Predicted", "nPredictions"], data=rows),
            vega_spec_name="wandb/confusion_matrix/v1",  # as wandb.plot.confusion_matrix, from counts
            fields={name: name for name in ("Actual", "Predicted", "nPredictions")},
            string_fields={"title": "Images: true and predicted classes"},
        )

    def _log_files(self, item: Files) -> None:
        """As an artifact, without copies of the files: what the run has read is an input of it, where there is a server
        to say so."""
        name = valid_name(item.name, _NOT_IN_ARTIFACTS)
        artifact = self._wandb.Artifact(
            name, type=item.kind, description=item.description, metadata=dict(item.metadata)
        )
        for path in item.paths:
            artifact.add_file(str(path), policy="immutable", skip_cache=True)
        for file_name, text in item.texts.items():
            with artifact.new_file(file_name) as file:
                file.write(text)
        if item.is_input and not self._run.offline:
            self._run.use_artifact(artifact)
        else:
            self._run.log_artifact(artifact)


_TENTHS = {tenth: f"{10 * tenth} to {10 * tenth + 10} %" for tenth in range(10)}


def label_masks(bitmasks: Iterable[np.ndarray], class_names: Sequence[str]) -> tuple[np.ndarray, dict[int, str]]:
    """Numbers for a tracker whose masks hold a class per pixel: a class's own, and one for each overlap that occurs.

    Args:
        bitmasks: (H, W) each, all that is shown.
        class_names: C names.

    Returns:
        (2^16,) uint8, the number of each bitmask, 0 for none; the names of the numbers.
    """
    numbers, labels = np.zeros(1 << 16, np.uint8), {0: "no defect"}
    for k, name in enumerate(class_names):
        numbers[1 << k], labels[1 + k] = 1 + k, name
    seen = sorted({int(value) for bitmask in bitmasks for value in np.unique(bitmask)})
    for value in seen:
        parts = [name for k, name in enumerate(class_names) if value >> k & 1]
        known = value & ((1 << len(class_names)) - 1)  # without the bit of ignored pixels
        if len(parts) > 1 and numbers[known] == 0 and len(labels) < 255:
            numbers[known], labels[len(labels)] = len(labels), " + ".join(parts)
        numbers[value] = numbers[known]
    return numbers, labels


_NOT_IN_ARTIFACTS = re.compile(r"[^a-zA-Z0-9_.-]")
_NOT_IN_PROJECTS = re.compile(r"[/\\#?%:\r\n]")
_NOT_TEXT = re.compile("[\ud800-\udfff]")
"""How Python spells bytes of a file name that are not UTF-8."""
_NAME_LENGTH = 128


def valid_name(wanted: str, forbidden: re.Pattern[str] = _NOT_TEXT) -> str:
    """`wanted` if Weights & Biases takes it; else as much of it as it takes, and a mark that tells it from others."""
    name = forbidden.sub("-", _NOT_TEXT.sub("-", wanted))
    if name == wanted and len(name) <= _NAME_LENGTH:
        return name
    mark = hashlib.sha256(wanted.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - len(mark) - 1]}-{mark}"


def kill_wandb_service() -> None:
    """Kill this process's wandb service, which retries for minutes; what it received is in the run's file on disk."""
    for children in Path("/proc/self/task").glob("*/children"):
        for child in children.read_text(encoding="ascii").split():
            if Path(f"/proc/{child}/comm").read_bytes().strip() == b"wandb-core":
                os.kill(int(child), signal.SIGKILL)
