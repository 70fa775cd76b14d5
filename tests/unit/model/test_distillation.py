"""What a head loses by a teacher's answers, worked by hand."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from steel.config import LossConfig
from steel.model.distillation import SoftTargets, blend_with_teacher

LOGITS = {
    "segmentation": torch.tensor([[[[0.0, 2.0]], [[-1.0, -1.0]]]]),
    "classification": torch.tensor([[1.0, 0.0, -3.0]]),
    "wear": torch.tensor([[4.0]]),
}
"""One image of 1x2 pixels, two classes, and a head of somebody's own."""
SOFT = SoftTargets(torch.tensor([[[[0.5, 0.9]], [[0.0, 0.25]]]]), torch.tensor([[0.8, 0.5, 0.0]]))
HARD = {"segmentation": torch.tensor([[3.0, 5.0]]), "classification": torch.ones(1, 3), "wear": torch.tensor([[7.0]])}


def cross_entropy(logit: float, target: float) -> float:
    prob = 1 / (1 + math.exp(-logit))
    return -target * math.log(prob) - (1 - target) * math.log(1 - prob)


def test_by_hand() -> None:
    """The segmentation's terms weigh 2 together, the classification's 0.5; class 2 counts three times."""
    config = LossConfig({"bce": 1.5, "dice": 0.5, "classification": 0.5}, class_weights=(1.0, 3.0))
    found = blend_with_teacher(HARD, LOGITS, SOFT, config, share=0.25)
    masks = [
        (cross_entropy(0, 0.5) + cross_entropy(2, 0.9)) / 2,
        3 * (cross_entropy(-1, 0) + cross_entropy(-1, 0.25)) / 2,
    ]
    labels = [cross_entropy(1, 0.8), cross_entropy(0, 0.5), cross_entropy(-3, 0)]
    expected = {
        "segmentation": [[0.75 * hard + 0.25 * 2 * soft for hard, soft in zip((3, 5), masks, strict=True)]],
        "classification": [[0.75 + 0.25 * 0.5 * soft for soft in labels]],
        "wear": [[7.0]],  # which no teacher answers
    }
    assert list(found) == list(HARD)
    for head, values in expected.items():
        torch.testing.assert_close(found[head], torch.tensor(values))


@pytest.mark.parametrize("head", ["segmentation", "classification"])
def test_the_least_is_where_the_head_says_what_the_teacher_says(head: str) -> None:
    probs = {"segmentation": SOFT.masks, "classification": SOFT.labels}[head].clamp(0.01, 0.99)
    soft = SoftTargets(**{"masks": SOFT.masks, "labels": SOFT.labels, **_of(head, probs)})
    logits = torch.logit(probs).requires_grad_()
    losses = blend_with_teacher(HARD, {**LOGITS, head: logits}, soft, LossConfig({"bce": 1, "classification": 1}), 1.0)
    (gradient,) = torch.autograd.grad(losses[head].sum(), logits)
    assert gradient.abs().max() < 1e-6


def _of(head: str, probs: Tensor) -> dict[str, Any]:
    return {"masks": probs} if head == "segmentation" else {"labels": probs}
