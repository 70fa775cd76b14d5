"""What threshold tuning says of itself, word by word."""

from steel.thresholds.tuning import tune_thresholds
from tests.tuning_images import constant_statistics


def test_the_explanation_says_what_was_gained() -> None:
    found = tune_thresholds(constant_statistics(100, 255), gates=("none",), class_names=["scratch"])
    gain, gate, scratch = found.explanation
    # Ten of twenty images gain 1: the mean is 0.5, its standard error sqrt(0.25 / 19).
    assert gain == (
        "tuned on 20 images: mean Dice 0.5000 with every threshold at one half, now 1.0000, cross-fitted 1.0000 "
        "(a gain of +0.5000 ± 0.1147); answering nothing gets 0.5000"
    )
    assert gate == "gate none: the segmentation alone decides"
    assert scratch == (
        "scratch: pixels from 0.31; Dice 0.5000 -> 1.0000, cross-fitted 1.0000, the floor is 0.5000 (10 images have "
        "it): few, so this rests on little; cross-fitted: thresholds +0.5000 ± 0.1147 taken, minimum area +0.0000 ± "
        "0.0000 left out, maximum area +0.0000 ± 0.0000 left out"
    )


def test_the_explanation_says_that_nothing_was_gained() -> None:
    gain, _, scratch = tune_thresholds(
        constant_statistics(255, 255), gates=("none",), class_names=["scratch"]
    ).explanation
    assert gain == (
        "tuned on 20 images: mean Dice 1.0000 with every threshold at one half, and these stay: tuned ones get "
        "1.0000 cross-fitted (+0.0000 ± 0.0000), which may be noise; answering nothing gets 0.5000"
    )
    assert scratch == (
        "scratch: pixels from 0.50; Dice 1.0000, the floor is 0.5000 (10 images have it): few, so this rests on little"
    )
