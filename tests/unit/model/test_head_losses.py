"""What the heads lose: the mixture of terms, class weights, absent classes, and settings without an effect."""

import math
from dataclasses import replace

import pytest
import torch

from steel.config import LossConfig
from steel.errors import InputError
from steel.model import losses
from tests.loss_cases import logit, random_case


def segmentation_loss(logits, masks, valid, config):
    return losses.head_losses({"segmentation": logits}, masks, valid, config)["segmentation"]


def test_mixture_and_class_weights():
    case = random_case(10)
    config = LossConfig({"bce": 0.5, "dice": 0.25, "focal": 2, "tversky": 0.125, "lovasz": 1}, class_weights=(2, 0, 3))
    expected = (
        0.5 * losses.binary_cross_entropy(*case)
        + 0.25 * losses.soft_dice(*case)
        + 2 * losses.focal(*case, gamma=config.focal_gamma)
        + 0.125 * losses.tversky(*case, alpha=config.tversky_alpha)
        + losses.lovasz_hinge(*case)
    )
    mixture = segmentation_loss(*case, config)
    torch.testing.assert_close(mixture, expected * torch.tensor([2.0, 0.0, 3.0]))
    alone = segmentation_loss(*case, LossConfig({"dice": 1}))
    torch.testing.assert_close(alone, losses.soft_dice(*case))


def test_labels_are_read_from_valid_pixels_only():
    masks = torch.zeros(3, 2, 2, 2)
    valid = torch.ones(3, 1, 2, 2)
    masks[0, 1, 0, 0] = 1
    masks[1, :, 1, 1] = 1
    valid[1, 0, 1, 1] = 0  # the defect of image 1 was cut away
    expected = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(losses.labels_from_targets(masks, valid), expected)


def test_classification_loss():
    loss = losses.classification_loss(torch.tensor([[logit(0.9), logit(0.2)]]), torch.tensor([[1.0, 1.0]]))
    torch.testing.assert_close(loss, torch.tensor([[-math.log(0.9), -math.log(0.2)]]))


def test_overlap_terms_can_leave_absent_classes_to_the_pixel_terms() -> None:
    logits = torch.zeros(1, 2, 4, 4)
    masks = torch.zeros(1, 2, 4, 4)
    masks[:, 0, :2] = 1
    valid = torch.ones(1, 1, 4, 4)
    for term in ("dice", "tversky", "lovasz", "boundary"):
        full = segmentation_loss(logits, masks, valid, _only(term, 1.0))
        half = segmentation_loss(logits, masks, valid, _only(term, 0.5))
        none = segmentation_loss(logits, masks, valid, _only(term, 0.0))
        assert torch.equal(full[:, 0], none[:, 0])
        assert full[0, 1] > 0.5
        assert torch.allclose(half[:, 1], full[:, 1] / 2)
        assert none[0, 1] == 0
    bce = LossConfig({"bce": 1}, absent=0)
    assert segmentation_loss(logits, masks, valid, bce)[0, 1] > 0


def test_the_width_of_the_boundary_is_the_configurations() -> None:
    case = random_case(11, height=20, width=24)
    case[1][:, 1:] = 0
    case[1][:, 1:, 5:, 7:] = 1
    found = [segmentation_loss(*case, LossConfig({"boundary": 0.5}, boundary_width=width)) for width in (1, 4)]
    for loss, width in zip(found, (1, 4), strict=True):
        torch.testing.assert_close(loss, 0.5 * losses.boundary(*case, width))
    assert (found[0] != found[1])[:, 1:].all()


def _only(term: str, absent: float) -> LossConfig:
    return LossConfig({term: 1.0}, absent=absent)


def test_each_head_loses_what_its_terms_weigh() -> None:
    """By hand: cross-entropies of 0.9 and 0.2 where both hold, halved; an image without a valid pixel counts 0."""
    labels = torch.tensor([[logit(0.9), logit(0.2)]] * 2)
    masks, valid = torch.ones(2, 1, 2, 2), torch.ones(2, 1, 2, 2)
    valid[1] = 0
    outputs = {"segmentation": torch.zeros(2, 1, 2, 2), "classification": labels}
    found = losses.head_losses(outputs, masks, valid, LossConfig({"bce": 2.0, "classification": 0.5}))
    assert list(found) == ["segmentation", "classification"]
    torch.testing.assert_close(found["segmentation"], torch.tensor([[2 * math.log(2)], [0.0]]))
    expected = torch.tensor([[-0.5 * math.log(0.9), -0.5 * math.log(0.2)], [0.0, 0.0]])
    torch.testing.assert_close(found["classification"], expected)


def test_a_head_that_weighs_nothing_has_a_loss_of_0_and_a_gradient_that_ddp_can_wait_for() -> None:
    labels = torch.zeros(1, 2, requires_grad=True)
    outputs = {"classification": labels}
    loss = losses.head_losses(outputs, torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2), LossConfig({"bce": 1.0}))
    loss["classification"].sum().backward()
    assert loss["classification"].tolist() == [[0.0, 0.0]]
    assert labels.grad is not None and labels.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"bce": 1.0, "dize": 1.0}, r"phase p: loss\.dize is unknown; there are bce, focal, dice"),
        ({"classification": 1.0}, "at least one segmentation term"),
    ],
)
def test_weights_that_say_nothing_are_refused(weights: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        losses.check_terms(LossConfig(weights), ("segmentation", "classification"), "phase p")


def test_a_setting_of_several_terms_has_an_effect_where_one_of_them_has_a_weight(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As that of an extension may be."""
    config, heads = LossConfig({"bce": 1.0, "own": 1.0}, tversky_alpha=0.5), ("segmentation", "classification")
    own = losses.LossTerm("its own", losses.LOSS_TERMS["bce"].function)
    monkeypatch.setitem(losses.LOSS_TERMS, "own", own)
    with pytest.raises(InputError, match=r"phase p: loss\.tversky-alpha 0\.5 has no effect while loss\.tversky is 0"):
        losses.check_terms(config, heads, "phase p")
    monkeypatch.setitem(losses.LOSS_TERMS, "own", replace(own, settings=("tversky_alpha",)))
    losses.check_terms(config, heads, "phase p")
