"""The heads of the network: what reads the encoder's and decoder's features, by name.

The segmentation head is the architecture's own (segmentation-models-pytorch builds it); the others are in `HEADS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

SEGMENTATION = "segmentation"
"""The head that gives the masks: (n, C, H, W) logits."""
CLASSIFICATION = "classification"
"""The head that names the labels: (n, 1 + C) logits, any defect first."""


class Features(NamedTuple):
    """What a head reads, of n images padded to whole strides."""

    size: tuple[int, int]
    """Height and width of the padded images."""
    decoded: Tensor
    """(n, D, h, w): what the decoder made, at the images' size or a whole part of it."""
    encoded: Tensor
    """(n, F, h', w'): the encoder's last, coarsest feature."""
    masks: Tensor
    """(n, C, H, W): logits of the segmentation head."""


@dataclass(frozen=True)
class HeadShape:
    """What a head is built for."""

    num_classes: int
    decoded_channels: int
    """D of `Features.decoded`."""
    encoded_channels: int
    """F of `Features.encoded`."""
    dropout: float
    """As `NetworkConfig.dropout`."""


class ClassificationHead(nn.Module):
    """Reads the last encoder feature, and for each class also its own mask.

    A class's logit is that of one linear layer over the pooled feature, plus the largest logit of the class's mask
    times what the class has learnt to rely on it, at first nothing. The masks show in which images a class is long
    before the pooled feature does, and with them the two heads say the same. The encoder alone answers for any defect.
    """

    def __init__(self, shape: HeadShape) -> None:
        super().__init__()
        self.dropout = nn.Dropout(shape.dropout)
        self.linear = nn.Linear(2 * shape.encoded_channels, 1 + shape.num_classes)
        self.reliance = nn.Parameter(torch.zeros(shape.num_classes))
        """(C,): what the largest logit of each class's mask counts."""

    def forward(self, features: Features) -> Tensor:
        """(n, 1 + C) logits."""
        return self.classify(pool(features.encoded), features.masks.amax(dim=(2, 3)))

    def classify(self, pooled: Tensor, peaks: Tensor) -> Tensor:
        """(n, 2F) as `pool` gives them and (n, C) largest logits of the masks -> (n, 1 + C) logits."""
        logits = self.linear(self.dropout(pooled))
        return torch.cat([logits[:, :1], logits[:, 1:] + self.reliance * peaks], dim=1)

    def any_defect(self, encoded: Tensor) -> Tensor:
        """(n, 1) logits, the first of `forward`, from the encoder's last feature alone."""
        return self.linear(self.dropout(pool(encoded)))[:, :1]


def pool(feature: Tensor) -> Tensor:
    """(n, F, h, w) -> (n, 2F): averages and maxima side by side.

    The average sees how much of an image looks defective, the maximum a spot of a few pixels.
    """
    return torch.cat([feature.mean(dim=(2, 3)), feature.amax(dim=(2, 3))], dim=1)


class FeaturePool:
    """What `ClassificationHead.classify` reads of an image that is seen in parts, which cover it once."""

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._peak: Tensor | None = None
        self._mask_peak: Tensor | None = None
        self._count = 0

    def add(self, feature: Tensor, masks: Tensor) -> None:
        """Take in a part of the encoder's last feature, (1, F, h, w), and of the masks' logits, (1, C, h', w')."""
        total, peak, mask_peak = feature.float().sum(dim=(2, 3)), _peaks(feature), _peaks(masks)
        self._total = total if self._total is None else self._total + total
        self._peak = peak if self._peak is None else torch.maximum(self._peak, peak)
        self._mask_peak = mask_peak if self._mask_peak is None else torch.maximum(self._mask_peak, mask_peak)
        self._count += feature.shape[2] * feature.shape[3]

    def pooled(self) -> tuple[Tensor, Tensor]:
        """(1, 2F), as `pool` has it of a whole feature, and (1, C), the largest logits of whole masks."""
        assert self._total is not None and self._peak is not None and self._mask_peak is not None
        return torch.cat([self._total / self._count, self._peak], dim=1), self._mask_peak


def _peaks(planes: Tensor) -> Tensor:
    return planes.float().amax(dim=(2, 3))


@dataclass(frozen=True)
class HeadKind:
    """A head that a network may have beside the segmentation's."""

    meaning: str
    """In a few words, for `--help`."""
    build: Callable[[HeadShape], nn.Module]
    """A module from `Features` to logits: (n, K), or (n, K, H, W) at the size of the padded images."""


HEADS: dict[str, HeadKind] = {
    CLASSIFICATION: HeadKind("names the labels: any defect, then each class", ClassificationHead),
}
"""Every head by name. A network has the segmentation's, the classification's and those that `--model.heads` names; what
it trains on is in `steel.model.losses.LOSS_TERMS`."""
