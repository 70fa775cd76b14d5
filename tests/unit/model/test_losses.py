"""Losses: values worked by hand, the Kaggle metric's view of absent classes, and invariance to invalid pixels."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steel.config import LossConfig
from steel.model import losses
from tests.loss_cases import logit, random_case
from tests.operations import Operations

ALL = {
    "bce": losses.binary_cross_entropy,
    "dice": losses.soft_dice,
    "focal": lambda *a: losses.focal(*a, gamma=2.0),
    "batch_dice": lambda *a: losses.batch_dice(*a, absent=1.0),
    "tversky": lambda *a: losses.tversky(*a, alpha=0.3),
    "focal tversky": lambda *a: losses.tversky(*a, alpha=0.3, power=0.75),
    "lovasz": losses.lovasz_hinge,
    "boundary": lambda *a: losses.boundary(*a, width=2),
}


def row(*values):
    """One image, one class, one row of pixels."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1)


# Four pixels, probabilities .9 .8 .4 .1; truth 1 1 0 0 and, below, an absent class.
LOGITS = row(logit(0.9), logit(0.8), logit(0.4), logit(0.1))
TRUE = row(1, 1, 0, 0)
NONE = row(0, 0, 0, 0)
CROSS_ENTROPY = [-math.log(0.9), -math.log(0.8), -math.log(0.6), -math.log(0.9)]


@pytest.mark.parametrize(
    ("name", "masks", "expected"),
    [
        ("bce", TRUE, sum(CROSS_ENTROPY) / 4),
        ("focal", TRUE, sum(w**2 * c for w, c in zip((0.1, 0.2, 0.4, 0.1), CROSS_ENTROPY, strict=True)) / 4),
        ("dice", TRUE, 1 - (2 * 1.7 + 1) / (2.2 + 2 + 1)),
        ("tversky", TRUE, 1 - (1.7 + 0.5) / (1.7 + 0.3 * 0.5 + 0.7 * 0.3 + 0.5)),
        ("focal tversky", TRUE, (1 - (1.7 + 0.5) / (1.7 + 0.3 * 0.5 + 0.7 * 0.3 + 0.5)) ** 0.75),
        ("focal tversky", NONE, (1 - 0.5 / (0.3 * 2.2 + 0.5)) ** 0.75),
        ("bce", NONE, -(math.log(0.1) + math.log(0.2) + math.log(0.6) + math.log(0.9)) / 4),
        ("dice", NONE, 1 - 1 / (2.2 + 1)),
        ("batch_dice", TRUE, 1 - (2 * 1.7 + 1) / (2.2 + 2 + 1)),
        ("batch_dice", NONE, 1 - 1 / (2.2 + 1)),
        ("tversky", NONE, 1 - 0.5 / (0.3 * 2.2 + 0.5)),
        ("lovasz", NONE, 1 + logit(0.9)),
    ],
)
def test_worked_by_hand(name, masks, expected):
    loss = ALL[name](LOGITS, masks, torch.ones_like(masks))
    assert loss.shape == (1, 1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_batch_dice_worked_by_hand():
    """Of two images: the first class in one of them, the second in none."""
    logits = torch.cat([LOGITS, LOGITS]).expand(2, 2, 1, 4)
    masks = torch.cat([torch.cat([TRUE, NONE]).view(1, 2, 1, 4), torch.zeros(1, 2, 1, 4)])
    loss = losses.batch_dice(logits, masks, torch.ones(2, 1, 1, 4), absent=0.25)
    expected = [1 - (2 * 1.7 + 1) / (4.4 + 2 + 1), 0.25 * (1 - 1 / (4.4 + 1))]
    torch.testing.assert_close(loss, torch.tensor([expected, expected]))


@pytest.mark.parametrize(
    ("true", "valid", "width", "near"),
    [
        ((1, 1, 0, 0), (1, 1, 1, 1), 1, (1, 2)),
        ((1, 1, 0, 0), (1, 1, 1, 1), 2, (0, 1, 2, 3)),
        ((1, 0, 0, 0), (1, 1, 1, 1), 1, (0, 1)),  # the image's edge is no border
        ((1, 1, 1, 0), (1, 1, 0, 1), 1, (0, 1, 3)),  # nobody knows where it is: no pixel is beside one that differs
        ((1, 1, 1, 0), (1, 1, 0, 1), 2, (1, 3)),  # it is between these
        ((1, 1, 1, 0), (1, 1, 1, 0), 3, (0, 1, 2)),  # where the truth ends is no border, and all counts
        ((1, 1, 1, 1), (1, 1, 1, 1), 1, (0, 1, 2, 3)),
        ((0, 0, 0, 0), (1, 1, 1, 1), 1, (0, 1, 2, 3)),
    ],
)
def test_boundary_worked_by_hand(true, valid, width, near):
    found = losses.boundary(LOGITS, row(*true), row(*valid), width)
    probs = (0.9, 0.8, 0.4, 0.1)
    cross_entropy = [-math.log(p if is_true else 1 - p) for p, is_true in zip(probs, true, strict=True)]
    assert found.shape == (1, 1) and found.dtype == torch.float32
    assert found.item() == pytest.approx(sum(cross_entropy[n] for n in near) / len(near), rel=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 11), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_boundary_is_the_mean_over_pixels_that_see_both_kinds(height, width, reach, share, seed):
    """Each pixel looked around from, one by one."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (height, width))
    true, valid = rng.random((2, height, width)) < np.array([share, 0.8]).reshape(2, 1, 1)
    near = np.zeros_like(valid)
    for y, x in np.argwhere(valid):
        around = np.s_[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1]
        near[y, x] = len(set(true[around][valid[around]])) == 2
    cross_entropy = np.logaddexp(0, np.where(true, -logits, logits))
    judged = near if near.any() else valid
    planes = [torch.from_numpy(np.asarray(plane, np.float64))[None, None] for plane in (logits, true, valid)]
    expected = cross_entropy[judged].mean() if judged.any() else 0.0
    assert losses.boundary(*planes, reach).item() == pytest.approx(expected, rel=1e-9)


def test_lovasz_worked_by_hand():
    # Truth 1 0 1 with logits .5 2 -1: hinge errors .5, 3, 2. Worst first: a background pixel, then two defect pixels.
    # Jaccard losses of the growing sets of wrong pixels: 1 - 2/3, 1 - 1/3, 1: steps of 1/3 each.
    loss = losses.lovasz_hinge(row(0.5, 2, -1), row(1, 0, 1), row(1, 1, 1))
    assert loss.item() == pytest.approx((3 + 2 + 0.5) / 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_lovasz_is_the_extension_of_the_jaccard_loss(num_pixels, share, seed):
    rng = np.random.default_rng(seed)
    true = (rng.random(num_pixels) < share).astype(np.float64)
    scores = rng.normal(0, 2, num_pixels)
    errors = 1 - scores * (2 * true - 1)
    order = np.argsort(-errors, kind="stable")

    def jaccard_loss(wrong):  # of the mask that has exactly these pixels wrong
        kept = set(np.flatnonzero(true)) - wrong
        union = set(np.flatnonzero(true)) | wrong
        return 1 - len(kept) / len(union) if union else 0.0

    expected = sum(
        max(errors[i], 0) * (jaccard_loss(set(order[: k + 1])) - jaccard_loss(set(order[:k])))
        for k, i in enumerate(order)
    )
    loss = losses.lovasz_hinge(row(*scores), row(*true), torch.ones(1, 1, 1, num_pixels))
    assert loss.item() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def tied_case(kind):
    """Logits (4, 3, 6, 8) with many equal ones; image 3 has no valid pixel, and class 0 is in no image."""
    logits, masks, valid = random_case(5, n=4)
    valid[3] = 0
    masks[1, 2] = 0
    logits = {"random": logits, "tied": logits.round(), "flat": torch.zeros_like(logits)}[kind]
    return logits.requires_grad_(), masks, valid


@pytest.mark.parametrize("kind", ["random", "tied", "flat"])
@pytest.mark.parametrize("more", [0, 1, 7])
def test_lovasz_of_present_pairs_is_that_of_all(kind, more):
    """To the last bit, in loss and gradient, whichever absent pairs are sorted as well."""
    logits, masks, valid = tied_case(kind)
    present = (masks * valid).flatten(2).amax(-1).flatten()
    pairs = torch.cat([present.nonzero()[:, 0], (present == 0).nonzero()[:more, 0]])
    assert 0 < present.sum() < len(present)
    weights = torch.arange(1.0, 13.0).view(4, 3)
    found = []
    for chosen in (None, pairs):
        loss = losses.lovasz_hinge(logits, masks, valid, chosen)
        found.append((loss.detach(), torch.autograd.grad((weights * loss).sum(), logits)[0]))
    for ours, theirs in zip(*found, strict=True):
        assert torch.equal(ours, theirs)
    assert found[0][1].abs().sum() > 0


def test_lovasz_where_nothing_is_present():
    logits, masks, valid = tied_case("random")
    expected = losses.lovasz_hinge(logits, masks * 0, valid)
    assert torch.equal(losses.lovasz_hinge(logits, masks * 0, valid, torch.zeros(0, dtype=torch.int64)), expected)


def test_pairs_reach_the_term_that_can_use_them():
    """One sort of the classes that are present, instead of all, and the same loss."""
    logits, masks, valid = tied_case("random")
    config = LossConfig({"bce": 1, "lovasz": 0.5}, absent=0.25, class_weights=(1, 2, 3))
    pairs = (masks * valid).flatten(2).amax(-1).flatten().nonzero()[:, 0]
    outputs = {"segmentation": logits}
    with Operations() as operations:
        plain, ours = (losses.head_losses(outputs, masks, valid, config, p)["segmentation"] for p in (None, pairs))
    assert torch.equal(plain, ours)
    num, classes, height, width = logits.shape
    assert operations.shapes("sort") == [(num, classes, height * width), (len(pairs), height * width)]
    assert len(pairs) < num * classes


@pytest.mark.parametrize("name", ALL)
def test_invalid_pixels_contribute_nothing(name):
    logits, masks, valid = random_case(3)

    def pad(x, value):
        return torch.nn.functional.pad(x, (2, 5, 3, 1), value=value)

    logits.requires_grad_()
    before = ALL[name](logits, masks, valid)
    # Confident wrong answers and true pixels in the padding must not matter.
    after = ALL[name](pad(logits, 40.0), pad(masks, 1.0), pad(valid, 0.0))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    (gradient,) = torch.autograd.grad(before.sum(), logits)
    assert (gradient[valid.expand_as(gradient) == 0] == 0).all()
    assert (gradient != 0).any()


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"batch_dice"}))
def test_each_image_and_class_stands_alone(name):
    logits, masks, valid = random_case(4)
    together = ALL[name](logits, masks, valid)
    for i in range(2):
        for k in range(3):
            alone = ALL[name](logits[i : i + 1, k : k + 1], masks[i : i + 1, k : k + 1], valid[i : i + 1])
            torch.testing.assert_close(alone[0, 0], together[i, k], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_absent_class_empty_prediction_is_perfect_and_any_prediction_costs(name):
    masks, valid = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)
    empty = torch.full((1, 1, 4, 4), -30.0)
    assert ALL[name](empty, masks, valid).item() == pytest.approx(0, abs=1e-6)
    one_pixel = empty.clone()
    one_pixel[0, 0, 2, 1] = 30.0
    assert ALL[name](one_pixel, masks, valid).item() > 0.3


@pytest.mark.parametrize("name", ALL)
def test_perfect_prediction_is_free_and_slopes_point_downhill(name):
    _, masks, valid = random_case(5)
    perfect = 40 * (2 * masks - 1)
    assert ALL[name](perfect, masks, valid).max().item() == pytest.approx(0, abs=1e-5)
    logits = torch.zeros_like(masks, requires_grad=True)
    (gradient,) = torch.autograd.grad(ALL[name](logits, masks, valid).sum(), logits)
    inside, outside = (masks * valid) > 0, ((1 - masks) * valid) > 0
    assert (gradient[inside] < 0).all()
    assert (gradient[outside] >= 0).all()
    assert (gradient[:, 0] > 0).any(), "an absent class must have a slope"


@pytest.mark.parametrize("name", ALL)
def test_without_valid_pixels_loss_and_gradient_are_zero(name):
    logits, masks, _ = random_case(6)
    logits.requires_grad_()
    loss = ALL[name](logits, masks, torch.zeros(2, 1, 6, 8))
    assert (loss == 0).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert (gradient == 0).all()


def test_half_precision_logits_are_computed_in_float32():
    logits, masks, valid = random_case(7)
    for loss in ALL.values():
        half = loss(logits.bfloat16(), masks, valid)
        assert half.dtype == torch.float32
        torch.testing.assert_close(half, loss(logits.bfloat16().float(), masks, valid))


def test_double_precision_logits_stay_in_float64():
    logits, masks, valid = random_case(7)
    for loss in ALL.values():
        double = loss(logits.double(), masks, valid)
        assert double.dtype == torch.float64
        # Moved by 1e-9, which float32 cannot tell from no move at all near 1.
        assert (loss(logits.double() + 1e-9, masks, valid) != double).any()
        torch.testing.assert_close(double.float(), loss(logits, masks, valid), rtol=1e-5, atol=1e-6)


def test_tversky_at_one_half_is_dice():
    case = random_case(8)
    torch.testing.assert_close(losses.tversky(*case, alpha=0.5), losses.soft_dice(*case))


def test_a_power_above_1_turns_slopes_towards_what_is_missed_and_one_below_1_keeps_those_of_what_is_nearly_right():
    logits = torch.stack([LOGITS[0, 0], -LOGITS[0, 0]]).unsqueeze(1).requires_grad_()

    def slope(power):
        loss = losses.tversky(logits, TRUE.expand(2, -1, -1, -1), torch.ones(2, 1, 1, 4), alpha=0.3, power=power)
        (gradient,) = torch.autograd.grad(loss.sum(), logits)
        right, wrong = gradient.abs().flatten(1).amax(dim=1).tolist()
        return right / wrong

    assert slope(4 / 3) < slope(1.0) < slope(0.75)


def test_focal_at_gamma_zero_is_cross_entropy():
    case = random_case(9)
    torch.testing.assert_close(losses.focal(*case, gamma=0.0), losses.binary_cross_entropy(*case))


def test_focal_has_a_slope_at_certainty():
    logits = torch.full((1, 1, 1, 2), 200.0, requires_grad=True)
    losses.focal(logits, row(1, 1), row(1, 1), gamma=0.5).sum().backward()
    assert torch.isfinite(logits.grad).all()
