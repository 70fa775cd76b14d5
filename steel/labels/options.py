"""How labels are read, whatever their format, and what reading them comes to."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from steel.errors import InputError
from steel.images.listing import TiffPages
from steel.labels.classes import ClassTable, parse_class_names
from steel.plain import to_dict

AUTO = "auto"
"""Names no format: it is found."""


@dataclass(frozen=True)
class LabelOptions:
    """What the user says about labels; each field is an option of the command line, named in refusals."""

    format: str = AUTO
    """One of `steel.labels.formats.FORMATS`, or `auto`."""
    class_names: Sequence[str] | None = None
    """Names of the classes, for the ids 1, 2, ... or, written `10=name`, for others, or `#ff0000=name` for colours;
    found in the labels when None."""
    ignore_value: int | None = None
    """Pixel value of masks whose truth is not known."""
    missing_mask: Literal["error", "clean"] = "error"
    """What an image without any label is."""
    mask_threshold: float | None = None
    """Mask values from here up are inside; None when masks hold labels."""
    resize_masks: bool = False
    """Labels made at another size of the same image are brought to the image's."""
    any_case: bool = False
    """Labels may name their image in other capitals."""
    stray_labels: Literal["error", "skip"] = "error"
    """What becomes of labels of other images or of unknown classes, and of shapes that cover no pixel."""

    tiff_pages: TiffPages = "refuse"
    """What an image file of several pages is."""

    def __post_init__(self) -> None:
        if self.ignore_value == 0:
            raise InputError("--ignore-value cannot be 0, the background")
        if self.mask_threshold is not None and not 0 < self.mask_threshold < math.inf:
            raise InputError(f"--mask-threshold {self.mask_threshold:g}: must be above 0, the background")

        _ = self.classes  # refuses names that make none

    @cached_property
    def classes(self) -> ClassTable | None:
        """The classes and what stands for each in the labels; to be found there when None."""
        return None if self.class_names is None else parse_class_names(self.class_names)

    def recorded(self) -> dict[str, Any]:
        """What changes the masks that are read from the same files, as plain JSON values; the format as it was found,
        `Labels.format`, comes to it."""
        values = to_dict(self)
        del values["format"]
        return values


AS_FOUND = LabelOptions()
"""Nothing said: all of it is found in the labels."""


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
    """What `stray_labels` has left out, a line a kind, for the user to see."""
