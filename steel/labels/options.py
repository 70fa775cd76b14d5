"""How labels are read, whatever their format, and what reading them comes to."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from steel.errors import InputError
from steel.labels.classes import ClassTable


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about labels; each field is an option of `python -m data_prep`, named in refusals."""

    classes: ClassTable | None = None
    """The classes and what stands for each in the labels; found there when None."""
    ignore_value: int | None = None
    """Pixel value of masks whose truth is not known."""
    mask_threshold: float | None = None
    """Mask values from here up are inside; None when masks hold labels."""
    missing_is_clean: bool = False
    """An image without labels has no defect; else that is a mistake."""
    resize_masks: bool = False
    """Labels made at another size of the same image are brought to the image's."""
    any_case: bool = False
    """Labels may name their image in other capitals."""
    skip_stray: bool = False
    """Labels of other images, of unknown classes and shapes without any pixel are left out; else mistakes."""

    def __post_init__(self) -> None:
        if self.ignore_value == 0:
            raise InputError("--ignore-value cannot be 0, the background")


class MaskSource(Protocol):
    """Where the masks of images come from. Small enough to be sent to workers."""

    @property
    def ignore(self) -> bool:
        """Whether some pixels may be without a truth."""

    def class_ids(self, image_id: str) -> frozenset[int] | None:
        """The image's classes, from 1; None when only its masks can tell."""

    def planes(self, image_id: str, height: int, width: int) -> dict[int, np.ndarray]:
        """Masks (height, width) of uint8 0/1 by class; under 0 the ignored pixels. Absent classes are left out."""

    def subset(self, image_ids: Collection[str]) -> "MaskSource":
        """The same for some of the images."""


class FoundLabels(NamedTuple):
    """What a format's reader makes of its files."""

    classes: ClassTable
    source: MaskSource
    left_out: tuple[str, ...] = ()
    """What `skip_stray` has left out, a line a kind, for the user to see."""
