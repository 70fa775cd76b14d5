"""Whether the folds of a set differ in their gray levels, as far as its manifest tells."""

from collections.abc import Sequence
from dataclasses import dataclass

from scipy.special import fdtrc

from steel.shards.format import FoldLevels

STANDARD_RANGE = 51
"""Gray levels of 255 that an image may be made darker or brighter by at a strength of 1."""
_SIGNIFICANCE = 0.01
_MOST_STRENGTH = 2.0
"""Beyond that little is left of the contrast, which changes as much."""
LEAST_DIFFERENCE = 2
"""Gray levels of 255 between the darkest and the brightest fold; what is less would be seen by nobody."""


@dataclass(frozen=True)
class LevelDifference:
    """How far the mean gray levels of folds lie apart, and how likely chance would part them so."""

    lowest: float
    """Of the darkest fold, in 0..255."""
    highest: float
    """Of the brightest."""
    p_value: float
    """Of folds that were dealt from images of one kind, the share whose F is at least as large."""

    @property
    def is_visible(self) -> bool:
        """Whether it is large enough to matter, by chance or not."""
        return self.highest - self.lowest >= LEAST_DIFFERENCE

    @property
    def is_real(self) -> bool:
        """Whether the folds are taken to differ: visibly, and by more than chance."""
        return self.is_visible and self.p_value < _SIGNIFICANCE

    @property
    def strength(self) -> float:
        """Of changes of brightness that reach from each fold to any other; the standard one where that is enough."""
        needed = (self.highest - self.lowest) / STANDARD_RANGE if self.is_real else 0.0
        return round(min(max(1.0, needed), _MOST_STRENGTH), 2)


def level_difference(folds: Sequence[FoldLevels] | None) -> LevelDifference | None:
    """One-way analysis of variance of images' mean gray levels, by fold.

    The F test takes images for independent. Those of a coil look alike, and groups of duplicates lie in one fold: so it
    finds more differences than chance would make, which errs to the safe side of varying the brightness. Of few images
    it finds large differences alone.

    Args:
        folds: as the manifest has them; None where it does not.

    Returns:
        What is found, or None where nothing can be: without levels, or without two folds that have images and one of
        them more than one.
    """
    held = [fold for fold in folds or () if fold.num_images]
    num_images = sum(fold.num_images for fold in held)
    between_freedom, within_freedom = len(held) - 1, num_images - len(held)
    if between_freedom < 1 or within_freedom < 1:
        return None
    mean = sum(fold.num_images * fold.mean for fold in held) / num_images
    between = sum(fold.num_images * (fold.mean - mean) ** 2 for fold in held) / between_freedom
    within = sum(fold.num_images * fold.std**2 for fold in held) / within_freedom
    if within > 0:
        p_value = float(fdtrc(between_freedom, within_freedom, between / within))
    else:
        p_value = 0.0 if between > 0 else 1.0
    means = [255 * fold.mean for fold in held]
    return LevelDifference(min(means), max(means), p_value)
