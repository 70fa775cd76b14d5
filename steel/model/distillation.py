"""Learning from another model's probabilities: knowledge distillation (Hinton et al. 2015), for masks and labels.

Labels say where a defect is; a teacher also says how sure it is, and says it of pixels and images without a label.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from steel.config import LossConfig
from steel.model.heads import CLASSIFICATION, SEGMENTATION
from steel.model.losses import LOSS_TERMS, binary_cross_entropy, classification_loss, weigh_classes


class SoftTargets(NamedTuple):
    """What a teacher says of a micro-batch, in 0..1."""

    masks: Tensor
    """(m, C, h, w) float32."""
    labels: Tensor
    """(m, 1 + C) float32: any defect, then each class."""


def blend_with_teacher(
    losses: Mapping[str, Tensor], outputs: Mapping[str, Tensor], soft: SoftTargets, config: LossConfig, share: float
) -> dict[str, Tensor]:
    """What each head loses by the labels and by the teacher.

    By the teacher: cross-entropy with its probabilities, which is least where a head says the same, weighted as all of
    the head's terms together. A head that the teacher has no answer for goes by the labels alone.

    Args:
        losses: by the labels, of `head_losses`.
        outputs: logits of each head by its name, float32 or float64.
        soft: what the teacher says.
        config: of the phase.
        share: of the teacher, in 0..1.

    Returns:
        Of each head the shape that it has in `losses`.
    """
    learnt = {
        SEGMENTATION: weigh_classes(_of_masks(outputs[SEGMENTATION], soft.masks), config),
        CLASSIFICATION: classification_loss(outputs[CLASSIFICATION], soft.labels),
    }
    return {
        head: loss if head not in learnt else (1 - share) * loss + share * _weight(head, config) * learnt[head]
        for head, loss in losses.items()
    }


def _of_masks(logits: Tensor, masks: Tensor) -> Tensor:
    """(n, C): over all pixels."""
    return binary_cross_entropy(logits, masks, torch.ones_like(masks[:, :1]))


def _weight(head: str, config: LossConfig) -> float:
    return sum(weight for name, weight in config.weights.items() if LOSS_TERMS[name].head == head)
