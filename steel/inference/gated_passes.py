"""Forward passes in two halves: encoders first, decoders only where any defect is likely enough.

Where a decision asks a classifier first, most images of a line that runs well need no masks. Encoders, decoders and
averages are those of a whole pass, so what comes out is the same to the last bit.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from itertools import chain

import torch
from torch import Tensor

from steel.inference.batching import Cleared
from steel.model.host_copy import HostCopy
from steel.model.network import Encoded, UnifiedModel
from steel.model.passes import Passes
from steel.model.tta import Axes, average, average_probs, flip_views, probs_of_labels, probs_of_views

MOST_PIXELS = 1 << 22
"""Pixels of all views of a batch whose features are held between the halves: about 100 bytes each for a ResNet."""
_Modes = Callable[[], AbstractContextManager[None]]
_Views = tuple[UnifiedModel, Sequence[Axes]]


def begin_gated(
    images: Tensor, views: Sequence[_Views], passes: Passes, cleared: Cleared, *, modes: _Modes
) -> Callable[[], Callable[[], tuple[Tensor, Tensor, Tensor]]]:
    """Begin the first half of the passes over a batch.

    Args:
        images: (B, c, H, W), normalised, of whole strides.
        views: members, each with the axes to flip for the views that share a pass.
        passes: where passes run.
        cleared: by P(any defect), which images have no masks.
        modes: a context for every computation, in whatever thread it runs.

    Returns:
        What sees to it that all of the first half is under way, and gives what waits for P(any defect), and for nothing
        that was launched after it, and does the second half: to what `average_probs` gives; where all of the batch is
        cleared, probabilities are 0 but for any defect.
    """
    pixels = len(images) * images.shape[-2] * images.shape[-1]
    begun = [passes.begin(partial(_encode, model, flips, images, modes), pixels) for model, flips in views]

    def ask() -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
        halves = [result() for result in begun]
        any_probs, is_finite = average(chain.from_iterable(probs for _, probs in halves))
        on_host = HostCopy(any_probs[:, 0])

        def finish() -> tuple[Tensor, Tensor, Tensor]:
            if cleared(on_host.tensor().numpy()).all():
                num_classes = views[0][0].network.num_classes
                masks = any_probs.new_zeros(len(images), num_classes, *images.shape[-2:])
                return masks, torch.nn.functional.pad(any_probs, (0, num_classes)), is_finite
            results = [
                passes.begin(partial(_decode, model, flips, encoded, modes), pixels)
                for (model, flips), (encoded, _) in zip(views, halves, strict=True)
            ]
            return average_probs(chain.from_iterable(result() for result in results))

        return finish

    return ask


def _encode(
    model: UnifiedModel, flips: Sequence[Axes], images: Tensor, modes: _Modes
) -> tuple[Encoded, Sequence[Tensor]]:
    """The first half of `view_probs`: features of all views, and P(any defect) (B, 1) float32 of each."""
    with modes():  # again, as it may be in a thread of its own
        encoded = model.encode(flip_views(images, flips))
        any_probs = probs_of_labels(model.classification_head.any_defect(encoded.features[-1]))
        return encoded, any_probs.chunk(len(flips))


def _decode(model: UnifiedModel, flips: Sequence[Axes], encoded: Encoded, modes: _Modes) -> list[tuple[Tensor, Tensor]]:
    """The second half: of each view mask_probs (B, C, H, W) in the images' orientation and label_probs (B, 1 + C), both
    float32."""
    with modes():
        masks, features = model.decode(encoded)
        return probs_of_views(masks, model.classification_head(features), flips)
