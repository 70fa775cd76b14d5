"""Which classes each synthetic image holds: exact quotas instead of draws, so small sets have the shares asked for."""

from collections.abc import Sequence

import numpy as np

from steel.errors import InputError
from steel.synthetic.masks import NUM_CLASSES

REAL_SHARES = (897 / 12568, 247 / 12568, 5150 / 12568, 801 / 12568)
"""Share of the real training images that hold each class."""
REAL_DEFECTIVE = 6666 / 12568
"""Share of the real training images that hold any."""


def plan_classes(
    rng: np.random.Generator, num_images: int, class_share: Sequence[float] | None, defect_share: float | None
) -> list[set[int]]:
    """Deal classes to images.

    Args:
        rng: source of all choices.
        num_images: images to deal to.
        class_share: share of images that hold each class; the real ones when None, scaled by `defect_share`.
        defect_share: share of images with any class; see `synthesize`.

    Returns:
        The class ids, from 1, of each image.

    Raises:
        InputError: shares that no set of images can have.
    """
    shares, defective = _shares(class_share, defect_share)
    quotas = _round_to_sum([share * num_images for share in shares])
    num_defective = max(max(quotas), min(round(defective * num_images), sum(quotas), num_images))
    labels = [class_id for class_id, quota in enumerate(quotas, start=1) for _ in range(quota)]
    images: list[set[int]] = [set() for _ in range(num_images)]
    order = rng.permutation(num_images)[:num_defective]
    for position, label in enumerate(rng.permutation(labels).tolist()):
        if position < num_defective:
            images[order[position]].add(label)
        else:  # a second class for an image that lacks it
            index = int(order[rng.integers(num_defective)])
            while label in images[index]:  # ends, as no class has more labels than there are defective images
                index = int(order[rng.integers(num_defective)])
            images[index].add(label)
    return images


def _shares(class_share: Sequence[float] | None, defect_share: float | None) -> tuple[tuple[float, ...], float]:
    if defect_share is not None and not 0 <= defect_share <= 1:
        raise InputError(f"synth: defect share {defect_share} is not in [0, 1]")
    if class_share is None:
        defective = REAL_DEFECTIVE if defect_share is None else defect_share
        return tuple(share * defective / REAL_DEFECTIVE for share in REAL_SHARES), defective
    if len(class_share) != NUM_CLASSES or not all(0 <= share <= 1 for share in class_share):
        raise InputError(f"synth: class shares {list(class_share)} are not {NUM_CLASSES} numbers in [0, 1]")
    total = sum(class_share)
    if defect_share is None:
        return tuple(class_share), min(1.0, max(*class_share, total * REAL_DEFECTIVE / sum(REAL_SHARES)))
    if not max(class_share) - 1e-9 <= defect_share <= total + 1e-9:
        raise InputError(
            f"synth: a defect share of {defect_share} cannot go with class shares {list(class_share)}; "
            f"give one from {max(class_share):g} to {min(1.0, total):g}"
        )
    return tuple(class_share), defect_share


def _round_to_sum(values: Sequence[float]) -> list[int]:
    """Whole numbers near `values` whose sum is the rounded sum of `values` (largest remainders)."""
    floors = [int(value) for value in values]
    missing = round(sum(values)) - sum(floors)
    by_remainder = sorted(range(len(values)), key=lambda i: floors[i] - values[i])
    for index in by_remainder[:missing]:
        floors[index] += 1
    return floors
