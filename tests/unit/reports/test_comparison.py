"""Evaluations side by side, on tables written and worked by hand."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from steel.reports.comparison import compare, format_comparison
from steel.reports.comparison_page import comparison_page
from tests.evaluated_images import FIRST, SECOND, Image, answer, write_report


def test_differences_are_those_of_the_images_that_both_have(tmp_path: Path) -> None:
    """Half of: 0.25 of a, 0.5 of b, 1 of d, over four images; the order of the rows is no matter.

    Of spot 4 of 12 pixels of a are right in both, 0 of 5 of b, 0 of 7 of d; then 6 of 10, 2 of 6, and none.
    """
    found = compare([write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", SECOND)])
    assert [source["name"] for source in found["sources"]] == ["one", "two"]
    (pair,) = found["pairs"]
    assert (pair["images"], pair["relabelled"], pair["better_images"], pair["worse_images"]) == (4, 0, 3, 0)
    values = {name: (d["first"], d["second"], d["difference"]) for name, d in pair["differences"].items()}
    assert values == {
        "mean Dice": (0.6875, 0.90625, 0.21875),
        "positive Dice": (0.25, 0.625, 0.375),
        "mean IoU": pytest.approx((4 / 24, 8 / 16, 8 / 24)),
        "defective strips found": (0.5, 1.0, 0.5),
        "clean strips stopped": (0.5, 0.0, -0.5),
        "Dice of spot": (0.375, 0.8125, 0.4375),
        "positive Dice of spot": (0.25, 0.625, 0.375),
        "Dice of scratch": (1.0, 1.0, 0.0),  # nobody has a scratch: no positive Dice
    }
    assert pair["results"] == [
        {"first": "clean", "second": "clean", "images": 1},
        {"first": "false alarm", "second": "clean", "images": 1},
        {"first": "found", "second": "found", "images": 1},
        {"first": "miss", "second": "found", "images": 1},
    ]
    assert [(line["image_id"], line["difference"]) for line in pair["changed"]] == [
        ("d", 0.5),
        ("b", 0.25),
        ("a", 0.125),
    ]
    assert pair["changed"][0]["first_result"] == "false alarm" and pair["changed"][0]["second_result"] == "clean"


def many(gain: np.ndarray, stops: bool = False) -> tuple[list[Image], list[Image]]:
    """Images of which the second evaluation scores `gain` more; every second one is clean."""
    first: list[Image] = []
    second: list[Image] = []
    for i, more in enumerate(gain.tolist()):
        true = (10 * (i % 2), 0)
        results = ("miss", "found") if i % 2 else ("clean", "false alarm" if stops else "clean")
        first.append((f"{i:04d}", results[0], (0.5, 1.0), true))
        second.append((f"{i:04d}", results[1], (0.5 + 2 * more, 1.0), true))
    return first, second


def test_the_interval_is_that_of_a_mean_of_differences(tmp_path: Path) -> None:
    """1.96 standard errors, as theory has it; a difference of the mean is seen though single images differ more."""
    gain = np.random.default_rng(1).normal(0.02, 0.08, 600)
    first, second = many(gain)
    found = compare([write_report(tmp_path / "one", first), write_report(tmp_path / "two", second)])
    mean = found["pairs"][0]["differences"]["mean Dice"]
    half = 1.96 * gain.std(ddof=1) / np.sqrt(600)
    assert mean["difference"] == pytest.approx(gain.mean())
    assert mean["interval"] == pytest.approx([gain.mean() - half, gain.mean() + half], abs=0.1 * half)
    assert mean["exceeds_noise"] and mean["so"] == "better"
    assert found["pairs"][0]["sentence"].startswith("two is better than one: mean Dice +0.0")


def test_copies_of_images_do_not_narrow_the_interval(tmp_path: Path) -> None:
    """Of 100 images in four copies each the interval is about that of 100, not of 400: twice as wide. Of mean IoU, for
    which every second copy is clean, that of 100 instead of 200."""
    gain = np.repeat(np.random.default_rng(1).normal(0.02, 0.08, 100), 4)
    widths = {}
    for name, groups in (("untold", None), ("told", np.repeat(np.arange(100), 4).tolist())):
        sides = zip(("one", "two"), many(gain), strict=True)
        paths = [write_report(tmp_path / name / side, images, groups=groups) for side, images in sides]
        differences = compare(paths)["pairs"][0]["differences"]
        for measure in ("mean Dice", "mean IoU"):
            low, high = differences[measure]["interval"]
            widths[name, measure] = high - low
    for measure, ratio in (("mean Dice", 2), ("mean IoU", np.sqrt(2))):
        assert widths["told", measure] / widths["untold", measure] == pytest.approx(ratio, rel=0.15)


@pytest.mark.parametrize("known", ["first", "second", "both"])
def test_groups_that_one_table_knows_are_enough(known: str, tmp_path: Path) -> None:
    """The coarser ones where both know: duplicates alone, and coils."""
    sides = many(np.full(60, 0.25))
    coils, alone = [i // 12 for i in range(60)], [*range(60)]
    given = {"first": (coils, None), "second": (None, coils), "both": (alone, coils)}[known]
    paths = [
        write_report(tmp_path / f"{n}", side, groups=g) for n, (side, g) in enumerate(zip(sides, given, strict=True))
    ]
    assert not compare(paths)["pairs"][0]["differences"]["mean Dice"]["exceeds_noise"]  # of five coils


def test_fewer_than_six_groups_show_no_difference(tmp_path: Path) -> None:
    for num, is_shown in ((5, False), (6, True)):
        groups = [i // 2 % num for i in range(60)]  # half of each is defective
        first, second = many(np.full(60, 0.25))
        paths = [write_report(tmp_path / f"{num}{n}", side, groups=groups) for n, side in enumerate((first, second))]
        differences = compare(paths)["pairs"][0]["differences"]
        assert {differences[name]["exceeds_noise"] for name in ("mean Dice", "mean IoU")} == {is_shown}


def test_the_interval_of_mean_iou_is_that_of_resampled_images(tmp_path: Path) -> None:
    """Both classes' intersections and unions are summed over each resample's images before they are divided."""
    random = np.random.default_rng(2)
    images: list[list[Image]] = [[], []]
    for i in range(200):
        true = tuple(random.integers(0, 2, 2) * random.integers(4, 40, 2))
        for side, least in zip(images, (0.2, 0.5), strict=True):
            dice = tuple(
                float(max(least, value)) if t else 1.0 for value, t in zip(random.random(2), true, strict=True)
            )
            side.append((f"{i:04d}", "found" if sum(true) else "clean", dice, (int(true[0]), int(true[1]))))
    paths = [write_report(tmp_path / name, side) for name, side in zip(("one", "two"), images, strict=True)]
    found = compare(paths)["pairs"][0]["differences"]["mean IoU"]

    counts = np.array([[[(t, *answer(d, t)) for d, t in zip(*image[2:], strict=True)] for image in s] for s in images])
    right, union = counts[..., 2], counts[..., 0] + counts[..., 1] - counts[..., 2]  # (2, 200, 2)

    def gain(rows: np.ndarray) -> float:
        first, second = (right[:, rows].sum(axis=1) / union[:, rows].sum(axis=1)).mean(axis=1)
        return second - first

    span = np.percentile([gain(random.integers(0, 200, 200)) for _ in range(2000)], [2.5, 97.5])
    assert found["difference"] == pytest.approx(gain(np.arange(200)))
    assert found["interval"] == pytest.approx(span, abs=0.1 * (span[1] - span[0]))
    assert found["so"] == "better" and span[0] > 0


def test_differences_stand_beside_the_scores_of_two_that_judged_the_same_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Student's t a mean of four spreads as single images do: of their gains, from 0 to 0.5."""
    monkeypatch.setattr("steel.metrics.bootstrap.FEWEST_IMAGES", 1)
    one, two, three = (write_report(tmp_path / n, s) for n, s in (("one", FIRST), ("two", SECOND[:4]), ("3", SECOND)))
    text = format_comparison(compare([one, two]))
    assert re.search(r"^ +one +two +difference +95 %$", text, re.MULTILINE)
    assert re.search(r"^mean Dice +0\.6875 +0\.9062 +\+0\.2188 +\+0\.0000 to \+0\.5000$", text, re.MULTILINE)
    assert re.search(
        r"^mean IoU +- +- +\+0\.3333 +too few to tell$", text, re.MULTILINE
    )  # some resamples have clean images alone
    assert re.search(r"^all-empty floor +0\.5000 +0\.5000$", text, re.MULTILINE)
    for paths in ([one, three], [one, two, three]):
        assert "difference  " not in format_comparison(compare(paths))


def test_of_different_classes_only_those_that_both_have_are_compared(tmp_path: Path) -> None:
    """One knows spots and scratches, two spots alone, three spots and pits. They answer the spots alike."""
    spots = [("found", 1.0, 10), ("miss", 0.0, 10), ("clean", 1.0, 0), ("false alarm", 0.0, 0)]
    one: list[Image] = [  # of whose scratches it finds none, and sees one on a clean strip
        ("a", "found", (1.0, 0.0), (10, 8)),
        ("b", "miss", (0.0, 0.0), (10, 8)),
        ("c", "false alarm", (1.0, 0.0), (0, 0)),
        ("d", "false alarm", (0.0, 1.0), (0, 0)),
    ]
    two: list[Image] = [(i, r, (d, d), (t, t)) for i, (r, d, t) in zip("abcd", spots, strict=True)]
    paths = [
        write_report(tmp_path / "one", one),
        write_report(tmp_path / "two", two, names=("spot",)),
        write_report(tmp_path / "three", two, names=("spot", "pit")),
    ]
    found = compare(paths)
    for pair, left_out in zip(found["pairs"], (["scratch"], ["scratch", "pit"]), strict=True):
        assert (pair["classes"], pair["unshared_classes"]) == (["spot"], left_out)
        assert {name: (d["first"], d["second"]) for name, d in pair["differences"].items()} == {
            "mean Dice": (0.5, 0.5),
            "positive Dice": (0.5, 0.5),
            "mean IoU": pytest.approx((10 / 27, 10 / 27)),
            "defective strips found": (0.5, 0.5),
            "clean strips stopped": (0.5, 0.5),  # of a scratch that two does not know: none
            "Dice of spot": (0.5, 0.5),
            "positive Dice of spot": (0.5, 0.5),
        }
        assert pair["changed"] == []
        assert (
            " (too few to tell) on the same 4 images and the classes that both have (spot); nothing" in pair["sentence"]
        )
    assert found["spread"] == {}  # the scores of each are over other classes
    text = format_comparison(compare(paths[:2]))
    assert re.search(r"^mean Dice +0\.3750 +0\.5000$", text, re.MULTILINE)  # each over its own classes
    assert re.search(r"^positive Dice of spot .*\+0\.0000 +too few to tell$", text, re.MULTILINE)
    page = re.sub("<[^>]*>", "", comparison_page(found))
    assert "Over all classes of each, which are not the same" in page
    assert "On the classes that both have: spot. Left out: scratch, pit." in page


def test_a_score_of_few_images_goes_by_these_however_many_others_there_are(tmp_path: Path) -> None:
    """Seven defective images of 300: of resamples of all images some would have none, and no interval."""
    gain = np.linspace(0.05, 0.1, 7)
    first = [(f"{i}", "clean", (1.0, 1.0), (0, 0)) for i in range(293)]
    sides = [first + [(f"d{i}", "found", (0.5 + n * g, 1.0), (10, 0)) for i, g in enumerate(gain)] for n in (0, 1)]
    found = compare([write_report(tmp_path / f"{n}", side) for n, side in enumerate(sides)])["pairs"][0]["differences"]
    alone = compare([write_report(tmp_path / f"few{n}", side[293:]) for n, side in enumerate(sides)])["pairs"][0]
    for name in ("positive Dice", "positive Dice of spot"):
        assert found[name]["so"] == "better" and found[name]["difference"] == pytest.approx(gain.mean())
        assert found[name]["interval"] == pytest.approx(alone["differences"][name]["interval"])


def test_images_without_a_defect_make_no_difference_of_mean_iou_out_of_five(tmp_path: Path) -> None:
    """All five are better, which chance alone gives more often than once in twenty."""
    clean = [(f"{i}", "clean", (1.0, 1.0), (0, 0)) for i in range(495)]
    sides = [clean + [(f"d{i}", "found", (dice, 1.0), (10, 0)) for i in range(5)] for dice in (0.5, 0.8)]
    found = compare([write_report(tmp_path / f"{n}", side) for n, side in enumerate(sides)])["pairs"][0]["differences"]
    assert found["mean IoU"]["difference"] > 0.1 and found["mean IoU"]["so"] == "too few to tell"


def test_images_that_one_side_has_seen_are_told(tmp_path: Path) -> None:
    """At the head of the sentence, and the page does not colour it as a gain."""
    first, second = many(np.full(20, 0.1))
    line = "two is better than one: mean Dice "
    for roles, told in (
        (("test", "test"), ""),
        (("tuning", "tuning"), ""),
        (("test", "train"), "CAUTION, two was trained on these images, which flatters it: "),
        (("unknown", "test"), "CAUTION, one was trained on other shards and may have seen these images, which fl"),
        (("unknown", "unknown"), ""),
        (("tuning", "test"), "CAUTION, one was tuned on these images, which flatters it: "),
        (("train", "tuning"), "CAUTION, one was trained on these images and two was tuned on these images, which fl"),
    ):
        folder = tmp_path / "-".join(roles)
        paths = [
            write_report(folder / name, images, role=role)
            for name, images, role in zip(("one", "two"), (first, second), roles, strict=True)
        ]
        found = compare(paths)
        sentence = found["pairs"][0]["sentence"]
        assert sentence.startswith(told or line) and line in sentence
        assert sentence in format_comparison(found)
        tone = re.search(r'class="verdict named (\w+)"', comparison_page(found))
        assert tone is not None and tone[1] == ("warn" if told else "good")


def test_noise_is_called_noise(tmp_path: Path) -> None:
    gain = np.random.default_rng(1).normal(0, 0.08, 600)
    first, second = many(gain - gain.mean() + 0.001)
    found = compare([write_report(tmp_path / "one", first), write_report(tmp_path / "two", second)])
    differences = found["pairs"][0]["differences"]
    assert differences["mean Dice"]["so"] == "within the noise"
    assert differences["defective strips found"]["so"] == "better"
    sentence = found["pairs"][0]["sentence"]  # which does not deny what it says next
    assert sentence.startswith("mean Dice of two is not shown to differ from that of one: +0.0010 (95 %: -0.00")
    assert " on the same 600 images; beyond the noise: " in sentence and "defective strips found +1.0000" in sentence


def test_where_nothing_exceeds_the_noise_the_two_are_not_shown_to_differ(tmp_path: Path) -> None:
    found = compare([write_report(tmp_path / name, many(np.zeros(40))[0]) for name in ("one", "two")])
    sentence = found["pairs"][0]["sentence"]
    assert sentence.startswith("two is not shown to differ from one: mean Dice +0.0000 (95 %: +0.0000 to +0.0000) on")
    assert sentence.endswith("; nothing else exceeds the noise")


@pytest.mark.parametrize(("num_images", "so"), [(5, "too few to tell"), (6, "better")])
def test_few_images_show_nothing_though_all_of_them_are_better(tmp_path: Path, num_images: int, so: str) -> None:
    first, second = many(np.linspace(0.1, 0.2, num_images))
    found = compare([write_report(tmp_path / "one", first), write_report(tmp_path / "two", second)])
    differences = found["pairs"][0]["differences"]
    assert differences["mean Dice"]["so"] == so
    assert (differences["mean Dice"]["interval"] is None) == (num_images < 6)
    assert differences["positive Dice"]["interval"] is None  # half of them have a defect
    assert differences["positive Dice"]["so"] == "too few to tell"  # which is no noise: it was not judged
    page = re.sub("<[^>]*>", " ", comparison_page(found))
    assert re.search(r" positive Dice\s+\?\s+too few to tell\s+0\.5000\s", page)


def test_more_false_alarms_are_worse(tmp_path: Path) -> None:
    first, second = many(np.zeros(40), stops=True)
    found = compare([write_report(tmp_path / "one", first), write_report(tmp_path / "two", second)])
    stopped = found["pairs"][0]["differences"]["clean strips stopped"]
    assert (stopped["difference"], stopped["so"]) == (1.0, "worse")


def test_images_with_other_labels_are_left_out_and_counted(tmp_path: Path) -> None:
    other = [(image, result, dice, (99, 0) if image == "a" else true) for image, result, dice, true in SECOND]
    found = compare([write_report(tmp_path / "one", FIRST), write_report(tmp_path / "two", other)])
    assert (found["pairs"][0]["images"], found["pairs"][0]["relabelled"]) == (3, 1)
    assert "1 images are labelled differently" in format_comparison(found)


def test_what_cannot_be_paired_is_shown_side_by_side(tmp_path: Path) -> None:
    elsewhere = [(f"other {image}", *rest) for image, *rest in SECOND]
    paths = [write_report(tmp_path / f"fold-{n}", images) for n, images in enumerate([FIRST, elsewhere, FIRST])]  # type: ignore[arg-type]
    (tmp_path / "fold-2" / "per_image.csv").unlink()
    found = compare(paths)
    assert [pair["why_not"] for pair in found["pairs"]] == [
        "they have no image in common",
        "fold-2 has no per_image.csv beside its scores",
    ]
    scores = [0.6875, 0.925, 0.6875]
    assert found["spread"]["mean_dice"] == {
        "mean": pytest.approx(np.mean(scores)),
        "deviation": pytest.approx(np.std(scores, ddof=1)),
    }
    text = format_comparison(found)
    assert "fold-1 cannot be paired with fold-0: they have no image in common" in text
    assert re.search(r"mean Dice +0\.6875 +0\.9250 +0\.6875", text)
    assert "Not paired with fold-0: fold-1, for they have no image in common." in comparison_page(found)


def test_what_was_done_differently_is_listed(tmp_path: Path) -> None:
    paths = [write_report(tmp_path / str(lr), FIRST) for lr in (0.1, 0.2)]
    for path, lr in zip(paths, (0.1, 0.2), strict=True):
        values = {"config": {"seed": 0, "phases": [{"lr": lr}]}, "data_digest": "d"}
        (Path(path) / "config.json").write_text(json.dumps(values))
    assert compare(paths)["settings"] == [{"name": "phases.0.lr", "values": ["0.1", "0.2"]}]
