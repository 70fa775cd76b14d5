"""Gates by name: what, beside its area, decides whether the pixels of a class are kept in an image.

A gate's rule, what the search varies for it and what it must beat stand here and nowhere else:

- it may want that the classification head is sure enough of any defect (`asks_any`) and of the class (`asks_class`);
  the search then tries a threshold for each, see `steel.thresholds.gate_search`;
- it may make more or less of a predicted area by what the head says of the class (`weigh_area`), before that is
  compared with the class's minimum;
- it is chosen only if it gains more than noise over each of the gates that it is richer than (`simpler`).

| gate           | the class is kept in an image when its area is within `min_area..max_area` and ...          |
|----------------|--------------------------------------------------------------------------------------------|
| `none`         | (nothing more: segmentation alone)                                                         |
| `binary`       | P(any defect) reaches `binary_threshold` (a binary classifier first)                       |
| `class`        | P(class) reaches the class's `label_threshold` (a multi-label classifier first)            |
| `binary+class` | both                                                                                       |
| `soft`         | the minimum is scaled by the odds against the class: area >= min_area * (1 - p) / p        |

So with `soft` a class the head is sure of needs hardly any area, one at p = 0.5 needs `min_area`, and one at p = 0.1
nine times as much; the maximum is not scaled.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

NO_LIMIT = int(np.iinfo(np.int64).max)
"""More pixels than any area or minimum has."""


def _as_it_is(areas: np.ndarray, class_probs: np.ndarray) -> np.ndarray:
    return areas


def soft_areas(areas: np.ndarray, class_probs: np.ndarray) -> np.ndarray:
    """The largest minimum that each area passes when that is scaled by the odds against the class.

    `area >= minimum * (1 - p) / p`, or `minimum <= floor(area * q / (255 - q))` for the quantised q of p: so all is
    in integers, and tuning and prediction cannot disagree.

    Args:
        areas: int64, of any shape.
        class_probs: int64 quantised probabilities q, of a shape that broadcasts with it; 255 passes every minimum.
    """
    against = 255 - class_probs
    return np.where(against == 0, NO_LIMIT, areas * class_probs // np.maximum(against, 1))


@dataclass(frozen=True)
class Gate:
    """A rule for keeping the pixels of a class in an image."""

    meaning: str
    """In plain words; `{any}` stands for the probability of any defect that it wants."""
    asks_any: bool = False
    """Whether the head must call the image defective: P(any defect) reaches the decision's `binary_threshold`."""
    asks_class: bool = False
    """Whether the head must name the class: P(class) reaches the class's `label_threshold`."""
    weigh_area: Callable[[np.ndarray, np.ndarray], np.ndarray] = _as_it_is
    """From predicted areas and the head's quantised P(class), both int64, to what is compared with `min_area`; the
    maximum is compared with the area itself."""
    simpler: tuple[str, ...] = ("none",)
    """The gates that it must beat to be chosen."""


GATES: dict[str, Gate] = {
    "none": Gate("the segmentation alone decides", simpler=()),
    "binary": Gate("only images with P(any defect) of at least {any} are answered", asks_any=True),
    "class": Gate("only classes that the classification head sees are answered", asks_class=True),
    "binary+class": Gate(
        "only images with P(any defect) of at least {any}, and in them only classes that the classification head sees, "
        "are answered",
        asks_any=True,
        asks_class=True,
        simpler=("none", "binary", "class"),
    ),
    "soft": Gate(
        "the surer the classification head is of a class, the less area it needs; minima are those at P(class) = 0.5",
        weigh_area=soft_areas,
    ),
}
"""Every gate by name, in the order in which they are tried; the first of equals wins."""
