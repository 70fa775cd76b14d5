"""Flips: each view is undone before it is averaged, and probabilities are rounded once."""

import math

import pytest
import torch

from steel.errors import InputError
from steel.model.tta import average_probs, quantise, view_probs
from steel.views import VIEWS, flips_of, parse_tta


def outputs(masks, labels):
    return {"segmentation": masks, "classification": labels}


def positional(images):
    """A stand-in whose masks repeat the image plus its column number, and whose label is the top left pixel."""
    columns = torch.arange(images.shape[-1], dtype=torch.float32).expand_as(images)
    return outputs(images + columns, images[:, 0, 0, :1])


def test_views_by_hand():
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    (plain, label), (flipped, other_label) = view_probs(positional, image, flips_of(("hflip",)))
    # Plain: image + (0, 1); flipped: the image comes back in place, with the columns the other way round.
    torch.testing.assert_close(plain, torch.sigmoid(image + torch.tensor([0.0, 1.0])))
    torch.testing.assert_close(flipped, torch.sigmoid(image + torch.tensor([1.0, 0.0])))
    torch.testing.assert_close([label.item(), other_label.item()], [0.5, 1 / (1 + math.exp(-1))])


def test_the_mean_of_views_is_rounded_once():
    parts = [(torch.tensor([a / 255]), torch.tensor([[b]])) for a, b in ((0.4, 0.0), (0.4, 0.0), (0.8, 1.0))]
    masks, labels, is_finite = average_probs(iter(parts))
    assert is_finite.all()
    assert masks.tolist() == [1]  # 1.6 / 3; each rounded first would be 0, 0 and 1, and their mean 0
    assert labels.tolist() == [[85]]
    assert masks.dtype == labels.dtype == torch.uint8


@pytest.mark.parametrize("views", [(), ("hflip",), ("vflip",), ("hvflip",), tuple(VIEWS)])
def test_a_model_without_a_sense_of_place_is_unmoved(views):
    images = torch.randn(2, 3, 5, 7)
    for masks, labels in view_probs(lambda x: outputs(2 * x, x.mean(dim=(2, 3))), images, flips_of(views)):
        torch.testing.assert_close(masks, torch.sigmoid(2 * images))
        torch.testing.assert_close(labels, torch.sigmoid(images.mean(dim=(2, 3))))


def test_each_view_is_seen_once():
    seen = []

    def model(images):
        seen.append(images.flatten().tolist())
        return outputs(images, images[:, 0, 0])

    image, expected = torch.arange(4.0).reshape(1, 1, 2, 2), [[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]]
    for axes in flips_of(tuple(VIEWS)):
        view_probs(model, image, [axes])
    assert seen == expected
    seen.clear()
    view_probs(model, image, flips_of(tuple(VIEWS)))
    assert seen == [[*range(4), 1, 0, 3, 2, 2, 3, 0, 1, 3, 2, 1, 0]]


def test_views_that_share_a_pass_are_those_that_have_one_each():
    images, flips = torch.randn(3, 1, 2, 4), flips_of(tuple(VIEWS))
    together = view_probs(positional, images, flips)
    alone = [view_probs(positional, images, [axes])[0] for axes in flips]
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected)


def test_half_precision_outputs_are_averaged_in_float32():
    ((masks, labels),) = view_probs(
        lambda x: outputs(x.bfloat16(), x[:, 0, 0].bfloat16()), torch.randn(1, 1, 2, 2), [(-1,)]
    )
    assert masks.dtype == labels.dtype == torch.float32


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["mask", "label"])
def test_what_is_not_finite_in_any_view_or_member_is_told(number, place):
    """Of the image that it is in alone, whatever the others say, and where a sigmoid makes a number of it again."""
    masks, labels = torch.randn(3, 2, 4, 6), torch.randn(3, 3)
    broken = {"mask": (masks.clone(), labels), "label": (masks, labels.clone())}[place]
    broken[place == "label"][1, 1] = number
    parts = [view_probs(lambda x, of=of: outputs(*of), masks, [()])[0] for of in ((masks, labels), broken)]
    assert parts[1][1].isnan().all(dim=1).tolist() == [False, True, False]
    found = average_probs(parts)
    assert found[2].tolist() == [True, False, True]
    for each, expected in zip(found, average_probs(parts[:1] * 2), strict=True):
        assert torch.equal(each[[0, 2]], expected[[0, 2]])


def test_quantise():
    probs = torch.tensor([0.0, 0.4 / 255, 0.6 / 255, 0.5, 254.4 / 255, 1.0])
    assert quantise(probs).tolist() == [0, 0, 1, 128, 254, 255]
    assert quantise(probs).dtype == torch.uint8
    levels = torch.arange(256)
    assert torch.equal(quantise(levels / 255), levels.to(torch.uint8))


@pytest.mark.parametrize(
    ("text", "views"),
    [("none", ()), ("", ()), ("hflip", ("hflip",)), ("vflip, hvflip", ("vflip", "hvflip"))],
)
def test_parse_tta(text, views):
    assert parse_tta(text) == views


@pytest.mark.parametrize("text", ["rot90", "hflip,hflip", "none,hflip"])
def test_parse_tta_refuses(text):
    with pytest.raises(InputError, match=r"tta: .* hflip, vflip, hvflip"):
        parse_tta(text)
