"""What predictors share, whatever runs the network: images in, predictions out. Without torch."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from steel.config import TilingConfig
from steel.decision import Decision, check_covers, clears
from steel.errors import InputError, NotFiniteError
from steel.gates import GATES
from steel.images.pixel_format import Depth
from steel.inference.batching import Cleared, ImageProbs, Prepared, group_by_size, make_batch, prepare
from steel.inference.prediction import Prediction
from steel.inference.sources import Source, named_images


class BasePredictor(ABC):
    """A model, or several whose probabilities are averaged, ready to predict.

    How many images and views share a forward pass depends on their padded size and the predictor's options alone
    (`images_per_pass`), and the last ones are black if need be: an image's prediction is the same, to the last bit,
    whatever it is predicted together with.
    """

    class_names: tuple[str, ...]
    decision: Decision
    is_tuned: bool
    """Whether the decision was tuned; thresholds are one half otherwise."""
    tta: tuple[str, ...]
    """The flipped views that are averaged with the plain one."""
    in_channels: int
    stride: int
    input_size: tuple[int, int] | None
    """Height and width that images are resized to; None for images as they are."""
    depth: Depth
    tiling: TilingConfig
    """Which images go through the network in tiles, and in which."""
    pixels_per_pass: int
    passes_at_once: int = 1
    """Forward passes that run beside each other, given images enough."""
    device: Any
    """What the network runs on; `str` names it."""
    precision: str
    """`no`, `bf16`, `fp16` or `int8`."""
    header: Mapping[str, Any] | None = None
    """What the file that it was loaded from says of itself, as `read_any_header` had it: the path may meanwhile hold
    another file. None where it was not loaded from one."""
    file_digest: str | None = None
    """What tells that file from all others, as `digest_source` has it."""

    def __init__(self, pixels_per_pass: int | None, default: int) -> None:
        """Take so many pixels in a pass, `default` when None."""
        if pixels_per_pass is not None and pixels_per_pass < 1:
            raise InputError(f"pixels-per-pass: {pixels_per_pass} is not at least 1")
        self.pixels_per_pass = pixels_per_pass or default
        self.on_tile: Callable[[int, int], None] = lambda done, total: None
        """Called, while a large image is taken in tiles, with the tiles done and in all."""

    def predict(self, images: Source, decision: Decision | None = None) -> list[Prediction]:
        """Predictions for images of any sizes, by `decision` or the predictor's own.

        Args:
            images: a folder, an image file, an array, or any iterable of files, folders and arrays, see `Source`.
                Arrays are (H, W) gray or (H, W, 3) RGB uint8, or uint16 where those trained on were.
            decision: in place of the predictor's own.

        Returns:
            One for each image, in their order.

        Raises:
            InputError: an image of another shape or type, or that cannot be read; a decision for other classes.
            NotFiniteError: names an image of which the network says nothing.
            OutOfMemoryError: says what needs less.
        """
        return list(self.predict_stream(images, decision))

    def predict_stream(
        self, images: Source, decision: Decision | None = None, *, masks_only: bool = False
    ) -> Iterator[Prediction]:
        """As `predict`, one by one in the order of `images`, which are taken only as far as needed: to fill the passes
        that are under way at once before the first of them is waited for.

        Args:
            images: as `predict` has them.
            decision: likewise.
            masks_only: nobody asks for probabilities outside of masks: but for that of any defect, those of an image
                that the gate clears may be 0, and its decoder need not run.
        """
        decision = decision or self.decision
        check_covers(decision, len(self.class_names))
        cleared = partial(clears, decision) if masks_only and GATES[decision.gate].asks_any else None
        begun: deque[list[Prepared]] = deque()
        done: dict[int, Prediction] = {}
        next_number = 0

        def batches() -> Iterator[np.ndarray]:
            shape = (self.pixels_per_pass, self.tiling.budget, self.views_at_once)
            for group in group_by_size(self._prepare(images), *shape):
                begun.append(group)
                yield make_batch(group, *shape)

        for probs in self._stream(batches(), cleared):
            for place, prepared in enumerate(begun.popleft()):
                done[prepared.number] = self._predicted(prepared, probs, place, decision)
            while next_number in done:
                yield done.pop(next_number)
                next_number += 1

    def not_finite(self, image_id: str) -> NotFiniteError:
        """What is to be raised where `ImageProbs.is_finite` does not hold for an image."""
        helps = (
            "its numbers are too large for that: --precision bf16 or no (in training --runtime.precision) has room"
            if self.precision == "fp16"
            else "its weights are damaged, or its training has failed: take another checkpoint"
        )
        in_precision = "" if self.precision == "no" else f" in {self.precision}"
        return NotFiniteError(f"{image_id}: the network's answer is not finite{in_precision}; {helps}")

    @property
    def views_at_once(self) -> int:
        """Views of an image that may share a forward pass."""
        return 1

    @abstractmethod
    def model_digest(self) -> str:
        """What tells the model as it is, its weights above all, from others; thresholds and views are not in it."""

    @abstractmethod
    def _stream(self, batches: Iterable[np.ndarray], cleared: Cleared | None) -> Iterator[ImageProbs]:
        """The probabilities of batches (B, c, H, W) uint8 of whole strides, in their order.

        Masks of images that are `cleared`, where that is given, are not needed.
        """

    def _prepare(self, images: Source) -> Iterator[Prepared]:
        for number, image in enumerate(named_images(images)):
            yield prepare(number, image, self.in_channels, self.depth, self.input_size, self.stride)

    def _predicted(self, prepared: Prepared, probs: ImageProbs, place: int, decision: Decision) -> Prediction:
        """The prediction for the image that has a place in a batch."""
        height, width = prepared.size
        if not probs.is_finite[place]:
            raise self.not_finite(prepared.image_id)
        network_probs = probs.mask_probs[place, :, :height, :width]
        return Prediction(
            prepared.image_id, prepared.image, self.class_names, decision, network_probs, probs.label_probs[place]
        )
