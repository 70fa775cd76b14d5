"""What a tracker is shown beside figures: pictures with masks, tables, curves, summaries and files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from steel.images.tags import Tag
from steel.metrics.curves import ThresholdCurve

Kind = Literal["dataset", "model", "report"]


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image with what is true of it and what is said of it; nobody changes its arrays any more."""

    image_id: str
    """The same whatever is said of it: where its pictures of all validations belong."""
    caption: str
    image: np.ndarray
    """(H, W) gray or (H, W, 3) RGB uint8."""
    true: np.ndarray
    """(H, W) bitmask of unsigned integers: bit k = class k + 1."""
    predicted: np.ndarray
    """The same, as decided."""
    probability: np.ndarray
    """(H, W) uint8, of the likeliest class."""
    tags: Sequence[Tag] = ()
    """Names and probabilities of predicted regions."""
    true_tags: Sequence[Tag] = ()
    """Names of true ones."""

    @property
    def nbytes(self) -> int:
        """Size of the arrays."""
        return sum(array.nbytes for array in (self.image, self.true, self.predicted, self.probability))


@dataclass(frozen=True, eq=False)
class MaskedImages:
    """Images that are shown side by side."""

    name: str
    class_names: Sequence[str]
    images: Sequence[MaskedImage]

    @property
    def nbytes(self) -> int:
        """Size of all images."""
        return sum(image.nbytes for image in self.images)


@dataclass(frozen=True, eq=False)
class ImageTable:
    """A line of values beside each image."""

    name: str
    class_names: Sequence[str]
    images: Sequence[MaskedImage]
    lines: Sequence[Mapping[str, Any]]
    """Of each image; all have the same keys, numbers or text under them."""

    @property
    def nbytes(self) -> int:
        """Size of all images."""
        return sum(image.nbytes for image in self.images)


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Curves of precision over recall."""

    name: str
    curves: Mapping[str, ThresholdCurve]
    """By label; each has some positive."""
    nbytes: int = 0


@dataclass(frozen=True, eq=False)
class Confusion:
    """What is taken for what."""

    name: str
    labels: Sequence[str]
    counts: np.ndarray
    """(n, n) int64 by [true, predicted] label."""
    nbytes: int = 0


@dataclass(frozen=True)
class Summary:
    """Final values of the run, nested by name; numbers and text."""

    values: Mapping[str, Any]
    nbytes: int = 0


@dataclass(frozen=True)
class Files:
    """A versioned thing that a run has read or made: a data set, a checkpoint, a report."""

    kind: Kind
    name: str
    description: str
    paths: Sequence[Path] = ()
    """Files that stay as they are."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Contents of further files by name."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    is_input: bool = False
    """The run has read it."""
    nbytes: int = 0


Item = MaskedImages | ImageTable | PrecisionRecall | Confusion | Summary | Files
