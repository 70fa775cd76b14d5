"""What is predicted for one image: masks, labels, regions, a picture, and files of them. Without torch."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePath
from typing import Any, NamedTuple

import numpy as np

from steel import storage
from steel.decision import Decision, apply_decision, labels
from steel.errors import InputError
from steel.images.geometry import restore_size
from steel.images.pictures import draw_overlay, encode_picture
from steel.images.png import encode_png
from steel.inference.region_tags import mark_regions, mean_prob_of, tags_of
from steel.labels.polygon import Part, find_parts, trace_part

DIGITS = 4
"""Of probabilities that are written as numbers; quantised ones are told apart by three."""


class Region(NamedTuple):
    """A part of a class's mask that hangs together: pixels that share edges."""

    class_id: int
    """From 1."""
    class_name: str
    area: int
    """Pixels."""
    box: tuple[int, int, int, int]
    """Left, top, width and height in pixels, from the image's top left corner."""
    polygon: np.ndarray
    """(n, 2) int64, x and y along the edges of the pixels; holes are joined by a cut."""
    mean_prob: float
    """Of the class, over the region's pixels."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "class": self.class_name,
            "class_id": self.class_id,
            "area": self.area,
            "box": list(self.box),
            "mean_probability": round(self.mean_prob, DIGITS),
            "polygon": self.polygon.tolist(),
        }


@dataclass(frozen=True, eq=False)
class Prediction:
    """The prediction for one image, at its original size. What costs time is made when it is first asked for."""

    image_id: str
    """Its path in the folder, the path or URL that it was given by, or its number among arrays."""
    image: np.ndarray
    """(H, W) gray or (H, W, 3) RGB uint8: what the network was shown, before any resizing."""
    class_names: tuple[str, ...]
    decision: Decision
    network_probs: np.ndarray
    """(C, h, w) uint8: quantised probabilities at the size that the network saw."""
    label_probs: np.ndarray
    """(1 + C,) uint8, 255 for certainty: any defect, then each class, by the classification head."""

    @property
    def num_pixels(self) -> int:
        """Of the image."""
        return self.image.shape[0] * self.image.shape[1]

    @cached_property
    def mask_probs(self) -> np.ndarray:
        """(C, H, W) uint8, 255 for certainty."""
        return restore_size(self.network_probs, *self.image.shape[:2])

    @cached_property
    def masks(self) -> np.ndarray:
        """(C, H, W) bool: where each class is, by the decision."""
        return apply_decision(self.decision, self.mask_probs, self.label_probs)

    @property
    def labels(self) -> np.ndarray:
        """(1 + C,) bool: what the classification head says of any defect and of each class, by the decision."""
        return labels(self.decision, self.label_probs)

    @cached_property
    def class_ids(self) -> tuple[int, ...]:
        """The classes, from 1, of which there is a mask. The image is defective where there is any."""
        return tuple(k for k, mask in enumerate(self.masks, 1) if mask.any())

    def regions(self) -> list[Region]:
        """The parts of the masks, by class and then in the order of their first pixel by rows."""
        return list(self._regions)

    @cached_property
    def _regions(self) -> tuple[Region, ...]:
        return tuple(
            self._region(class_id, part)
            for class_id in self.class_ids
            for part in find_parts(self.masks[class_id - 1].view(np.uint8))
        )

    def _region(self, class_id: int, part: Part) -> Region:
        height, width = part.inside.shape
        mean_prob = mean_prob_of(part, self.mask_probs[class_id - 1])
        box = (part.left, part.top, width, height)
        return Region(class_id, self.class_names[class_id - 1], part.area, box, trace_part(part), mean_prob)

    def overlay(self) -> np.ndarray:
        """(H, W, 3) uint8 RGB: the image with its masks, the names of their classes and the mean probabilities."""
        marks = mark_regions(self.masks, self.mask_probs)
        return draw_overlay(self.image, self.masks, tags_of(marks, self.class_names))

    def label_map(self) -> np.ndarray:
        """(H, W) uint8: the class of each pixel, from 1, and 0 for none; where classes overlap, the likelier one."""
        label_map, best = (np.zeros(self.image.shape[:2], np.uint8) for _ in range(2))
        for class_id, (mask, probs) in enumerate(zip(self.masks, self.mask_probs, strict=True), 1):
            likelier = mask & (probs > best)  # a mask has no probability of 0; of equal ones the first class has it
            np.copyto(label_map, np.uint8(class_id), where=likelier)
            np.copyto(best, probs, where=likelier)
        return label_map

    def to_dict(self) -> dict[str, Any]:
        """Everything but pixels as plain JSON values: a line of `predictions.jsonl`."""
        height, width = self.image.shape[:2]
        probs = [round(float(prob) / 255, DIGITS) for prob in self.label_probs]
        return {
            "image": self.image_id,
            "height": height,
            "width": width,
            "verdict": "defective" if self.class_ids else "clean",
            "classes": [self.class_names[k - 1] for k in self.class_ids],
            "probabilities": {"any": probs[0], "classes": dict(zip(self.class_names, probs[1:], strict=True))},
            "regions": [region.to_dict() for region in self._regions],
        }

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a path or URL, by the ending: `.jpg` the overlay, `.png` the label map, `.json` all but pixels.

        Raises:
            InputError: another ending.
        """
        ending = PurePath(os.fspath(path)).suffix.lower()
        if ending not in _FILES:
            raise InputError(f"{os.fspath(path)}: give a name that ends in {', '.join(_FILES)}")
        storage.make_folder(os.fspath(path).rpartition("/")[0] or ".")
        storage.write_bytes(path, _FILES[ending](self))


_FILES: dict[str, Callable[[Prediction], bytes]] = {
    ".jpg": lambda prediction: encode_picture(prediction.overlay(), ".jpg"),
    ".png": lambda prediction: encode_png(prediction.label_map()),
    ".json": lambda prediction: f"{json.dumps(prediction.to_dict(), ensure_ascii=False)}\n".encode(),
}
"""What is written under a name of each ending."""
