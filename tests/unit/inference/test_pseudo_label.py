"""Which pixels of a prediction are labelled, which are ignored, and which images are left out: worked by hand."""

import numpy as np
import pytest

from steel.decision import HALF, ClassDecision, Decision
from steel.errors import InputError
from steel.inference.pseudo_label import UnsureBand, pseudo_label

SURE_ANY, SURE_NONE = 255, 0
USUAL = UnsureBand()
TWO = Decision((ClassDecision(128), ClassDecision(26)))


def rows(*probs: list[int]) -> np.ndarray:
    """(C, 1, W) uint8: an image of one line, a list for each class."""
    return np.array(probs, np.uint8)[:, None]


def heads(any_defect: int, *classes: int) -> np.ndarray:
    return np.array([any_defect, *classes], np.uint8)


def told(decision: Decision, mask_probs: np.ndarray, label_probs: np.ndarray, band: UnsureBand = USUAL) -> str:
    """What becomes of each pixel of a line: the classes that it is labelled with, `.` for none, `?` where ignored."""
    label = pseudo_label(decision, mask_probs, label_probs, band)
    if label is None:
        return "left out"
    assert not (label.masks & label.ignored).any()
    pixels = []
    for x in range(mask_probs.shape[2]):
        classes = "".join(str(k) for k, mask in enumerate(label.masks, 1) if mask[0, x])
        pixels.append("?" if label.ignored[0, x] else classes or ".")
    return " ".join(pixels)


@pytest.mark.parametrize(
    ("band", "threshold", "limits"),
    [
        # 2 * 0.2 * 128 = 51.2; 255 - 2 * 0.2 * 127 = 204.2
        (UnsureBand(), 128, (52, 205)),
        # 2 * 0.2 * 26 = 10.4; 255 - 2 * 0.2 * 229 = 163.4
        (UnsureBand(), 26, (11, 164)),
        # 2 * 0.2 * 230 = 92; 255 - 2 * 0.2 * 25 = 245
        (UnsureBand(), 230, (92, 245)),
        (UnsureBand(0.5, 0.5), 77, (77, 77)),
        (UnsureBand(0.5, 1), 77, (77, 255)),
        (UnsureBand(0.01, 1), 1, (1, 255)),
    ],
)
def test_the_band_moves_with_the_threshold_and_holds_it(band: UnsureBand, threshold: int, limits: tuple) -> None:
    assert band.limits(threshold) == limits
    probs = np.arange(256, dtype=np.uint8)
    assert np.flatnonzero(band.holds(probs, threshold)).tolist() == list(range(*limits))


@pytest.mark.parametrize(("low", "high"), [(0, 0.8), (0.6, 0.8), (0.2, 0.4), (0.2, 1.1), (-0.1, 0.5)])
def test_a_band_lies_around_one_half(low: float, high: float) -> None:
    with pytest.raises(InputError, match="two probabilities around one half"):
        UnsureBand(low, high)


def test_pixels_near_their_classs_threshold_are_ignored() -> None:
    first = [0, 51, 52, 204, 205, 255]
    second = [0, 10, 0, 0, 0, 164]
    assert told(TWO, rows(first, second), heads(SURE_ANY, 255, 255)) == ". . ? ? 1 12"
    assert told(TWO, rows([0, 0, 255, 0], [11, 163, 11, 0]), heads(SURE_ANY, 255, 255)) == "? ? ? ."


def test_without_a_band_every_pixel_is_what_was_decided() -> None:
    probs = rows([127, 128, 0], [0, 25, 26])
    assert told(TWO, probs, heads(SURE_ANY, 255, 255), UnsureBand(0.5, 0.5)) == ". 1 2"


def test_what_the_gate_drops_is_ignored() -> None:
    by_class = Decision((ClassDecision(128), ClassDecision(128, label_threshold=200)), gate="class")
    probs = rows([255, 0, 0], [0, 255, 0])
    assert told(by_class, probs, heads(SURE_ANY, 255, 200)) == "1 2 ."
    assert told(by_class, probs, heads(SURE_ANY, 255, 199)) == "1 ? ."
    by_any = Decision((ClassDecision(128), ClassDecision(128)), gate="binary")
    assert told(by_any, probs, heads(SURE_NONE, 255, 255)) == "? ? ."


def test_what_an_area_rule_drops_is_ignored() -> None:
    limited = Decision((ClassDecision(128, min_area=2, max_area=3),))
    assert told(limited, rows([255, 0, 0, 0, 0]), heads(SURE_NONE, 255)) == "? . . . ."
    assert told(limited, rows([255, 255, 0, 0, 0]), heads(SURE_NONE, 255)) == "1 1 . . ."
    assert told(limited, rows([255, 255, 255, 255, 0]), heads(SURE_NONE, 255)) == "? ? ? ? ."
    assert told(limited, rows([255, 0, 0, 0, 0]), heads(SURE_ANY, 255)) == "left out"


@pytest.mark.parametrize(
    ("any_defect", "probs", "expected"),
    [
        (120, [255, 0], "left out"),  # clean by the head, which is unsure, defective by the masks
        (120, [0, 0], ". ."),  # they agree
        (51, [255, 0], "1 ."),  # the head is sure, and has no say without a gate
        (150, [0, 0], "left out"),  # defective by the head, clean by the masks
        (205, [0, 0], "left out"),  # all the more
        (150, [255, 0], "1 ."),
    ],
)
def test_an_image_is_left_out_where_the_head_contradicts_the_masks(
    any_defect: int, probs: list[int], expected: str
) -> None:
    assert told(Decision((ClassDecision(),)), rows(probs), heads(any_defect, 255)) == expected


def test_the_masks_before_the_gate_speak_for_the_image() -> None:
    """With a binary gate no mask is left where the head says clean; but masks below the least area are none."""
    gated = Decision((ClassDecision(min_area=2),), gate="binary", binary_threshold=HALF)
    assert told(gated, rows([255, 255, 0]), heads(120, 255)) == "left out"
    assert told(gated, rows([255, 0, 0]), heads(120, 255)) == "? . ."


def test_an_image_without_a_sure_pixel_is_left_out() -> None:
    assert told(Decision((ClassDecision(),)), rows([52, 128, 204]), heads(SURE_ANY, 255)) == "left out"
