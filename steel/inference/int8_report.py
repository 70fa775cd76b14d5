"""What a graph of 8 bits says of itself: how it was made, and what it is worth beside that of float32."""

from dataclasses import dataclass

NUM_IMAGES = 100
"""That give the ranges, at most, unless told otherwise."""
MAX_LOSS = 0.005
"""Of mean or positive Dice, beyond which no file is written unless told otherwise."""


@dataclass(frozen=True)
class GraphScore:
    """What a graph is worth on the images that both were measured on, and how fast it is on that CPU."""

    mean_dice: float
    positive_dice: float
    """The mean over the pairs of an image and a class with a true mask."""
    images_per_second: float
    """Through the network alone, in the passes of `steel predict`."""


@dataclass(frozen=True)
class Int8Report:
    """`int8` in the metadata of a graph."""

    calibration_folds: tuple[int, ...]
    """Images of these gave the ranges of the numbers."""
    calibration_images: int
    scored_folds: tuple[int, ...]
    """All images of these were scored."""
    scored_images: int
    threads: int
    float32: GraphScore
    int8: GraphScore

    @property
    def loss(self) -> float:
        """What is lost of mean Dice or of positive Dice, whichever lost more; negative where both gain."""
        before, after = self.float32, self.int8
        return max(before.mean_dice - after.mean_dice, before.positive_dice - after.positive_dice)
