"""A stranger's extension: one of everything that training has tables of, without a change to the package.

A label format stands in `boxes.py`: sharding needs no torch.
"""

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import albumentations as A
import torch.nn.functional as F
from torch import Tensor, nn

from steel.config import LossConfig, PhaseConfig, TrackingConfig, TransformConfig
from steel.extensions import register
from steel.gates import GATES, Gate, soft_areas
from steel.loading.augment import TRANSFORMS, Transform
from steel.metrics.counts import INTERSECTION, TRUE
from steel.metrics.table import METRICS, Metric, MetricInputs
from steel.model.heads import HEADS, Features, HeadKind, HeadShape
from steel.model.losses import LOSS_TERMS, LossTerm
from steel.model.lr_schedule import SCHEDULES, Schedule
from steel.tracking.items import Files, Item, MaskedImages
from steel.tracking.trackers import TRACKERS, TrackerKind


def restraint(logits: Tensor, masks: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    """A loss term: the mean square of the logits over the valid pixels, so that none grows without end."""
    return (logits.float().square() * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)


class OutlineHead(nn.Module):
    """A second decoder head: where a class begins or ends."""

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.conv = nn.Conv2d(shape.decoded_channels, shape.num_classes, kernel_size=3, padding=1)

    def forward(self, features: Features) -> Tensor:
        """(n, C, H, W) logits."""
        return F.interpolate(self.conv(features.decoded), features.size, mode="bilinear", align_corners=False)


def outline(logits: Tensor, masks: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    """Its loss: cross-entropy against the pixels of a class that have one without it beside them."""
    inside = -F.max_pool2d(-masks.float(), kernel_size=3, stride=1, padding=1)
    losses = F.binary_cross_entropy_with_logits(logits.float(), masks.float() - inside, reduction="none")
    return (losses * valid).sum(dim=(2, 3)) / valid.sum(dim=(2, 3)).clamp(min=1)


def found_share(inputs: MetricInputs) -> float:
    """A metric: the share of all true pixels that were found."""
    intersection, true = (inputs.outcome.counts[..., kind].sum() for kind in (INTERSECTION, TRUE))
    return float(intersection / true) if true else float("nan")


def invert(given: TransformConfig, crop: tuple[int, int], num_classes: int) -> A.BasicTransform:
    """A transform: black is white."""
    return A.InvertImg(p=given.p)


def stairs(step: int, total_steps: int, phase: PhaseConfig) -> float:
    """A schedule: a quarter of the rate in the second half. Where the test asks for it, the job is told to stop."""
    if os.environ.get("PLANT_STOPS_AT") == f"{phase.name} {step}" and os.environ.get("RANK") == "0":
        os.kill(os.getpid(), signal.SIGTERM)
    return phase.lr if 2 * step < total_steps else phase.lr / 4


class Lines:
    """A tracker's backend: a line of JSON per record."""

    def __init__(self, config: TrackingConfig, run_dir: Path, run_config: Mapping[str, Any], attempt: int) -> None:
        self.path = run_dir / f"{config.project}-{attempt}.jsonl"

    def _write(self, values: Mapping[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")

    def log(self, record: Mapping[str, Any], step: int) -> None:
        """Figures."""
        self._write({**record, "at": step})

    def show(self, item: Item, step: int) -> None:
        """How many pictures; the checkpoint's name."""
        if isinstance(item, MaskedImages):
            self._write({"images": len(item.images), "at": step})
        elif isinstance(item, Files) and item.kind == "model":
            self._write({"checkpoint": item.paths[0].name})

    def finish(self, status: str) -> None:
        """The end."""
        self._write({"status": status})


register(LOSS_TERMS, "restraint", LossTerm("keeps the logits small", restraint))
register(HEADS, "outline", HeadKind("where a class begins or ends", OutlineHead))
register(LOSS_TERMS, "outline", LossTerm("cross-entropy of the outline head", outline, head="outline"))
register(
    METRICS,
    "found_share",
    Metric("share of all true pixels that were found", found_share, heading="found", curve="found pixels"),
)
register(TRANSFORMS, "invert", Transform("black is white", invert))
register(SCHEDULES, "stairs", Schedule("two steps", stairs))
register(TRACKERS, "lines", TrackerKind("lines of JSON in the run folder", "Lines", Lines))
register(
    GATES,
    "class_soft",
    Gate(
        "only classes that the head sees are answered, and the surer it is the less area they need",
        asks_class=True,
        weigh_area=soft_areas,
        simpler=("none", "class", "soft"),
    ),
)
