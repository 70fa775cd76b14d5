"""Figures of quality in documents are those of the sections of `bench/quality`, and `quality.md` is made of these."""

from collections.abc import Iterator

import pytest

from bench.quality.cli import report
from tests.paths import ROOT
from tests.quality_sections import (
    HALF,
    ON_ALL,
    PLAIN,
    TUNED,
    UNGATED,
    cell_of,
    gain_of,
    mean_of,
    numbers_in,
    pair_of,
    seeds_in_words,
    times_as_long,
    times_worse,
)
from tests.quotes import Quote, check

BATCHES, TWICE = "batches of 64", "batches of 64, twice the rates"


def _quotes() -> Iterator[Quote]:
    neu, bsdata, strips = "pretrained-neu", "pretrained-bsdata", "pretrained-strips"
    every, own_length = f"{strips}-all", f"{bsdata}-long"
    for section, images, measures in (
        (neu, "627 train", ("mean IoU", "mean Dice")),
        (bsdata, "93 train", ("positive Dice",)),
        (own_length, "127 passes, 93 train", ("positive Dice",)),
        (strips, "1,080 train", ("mean IoU", "mean Dice")),
        (every, "6,047 train, each seen once", ("mean IoU", "mean Dice")),
    ):
        longer = ("{:.1f} times", (times_as_long(section),))
        for number, measure in enumerate(measures):
            first = f"{images}; {seeds_in_words(section)} seeds" if number == 0 else ""
            words, times = longer if number == 0 else ("", ())
            on_all, told = ((), "") if section == every else ((mean_of(section, ON_ALL, HALF, measure),), "{:.1f} ")
            yield Quote(
                "README.md",
                f"{first} | {measure} | **{{:.1f}}** / {{:.1f}} | **{{:.1f}}** / {{:.1f}} | {told}| {words}".strip(),
                (
                    *pair_of(section, HALF, measure),
                    *pair_of(section, TUNED, measure),
                    *on_all,
                    *times,
                ),
            )
    figures = [pair_of(neu, UNGATED, measure) for measure in ("mean IoU", "mean Dice")]
    yield Quote(
        "bench/README.md",
        "on NEU-Seg by its gate, without which it has {:.1f} / {:.1f} mean IoU and {:.1f} / {:.1f} mean Dice,",
        tuple(figure for pair in figures for figure in pair),
    )
    shipped, ungated, at_half = (
        gain_of(neu, f"{ON_ALL}, {HALF}{how}", "mean IoU") for how in (f"; auto: {TUNED}", f"; auto: {UNGATED}", "")
    )
    interval = "({:+.2f} to {:+.2f}"
    yield Quote(
        "bench/README.md",
        f"has {{:+.2f}} points of mean IoU {interval} over seeds) with {{}} against {{}} mean Dice, without a gate "
        f"{{:+.2f}} {interval}), and at one half, without tuning, {{:+.2f}} {interval})",
        (
            *shipped,
            *(mean_of(neu, *each, "mean Dice") for each in (("auto", TUNED), (ON_ALL, HALF))),
            *ungated,
            *at_half,
        ),
    )
    yield Quote(
        "bench/README.md",
        f"On BSData that loop reaches {{}} of positive Dice at one half: `auto` as it ships is {{}} points better "
        f"{interval}), at one half {{:.2f}} {interval}).",
        (
            mean_of(bsdata, ON_ALL, HALF, "positive Dice"),
            *gain_of(bsdata, f"{ON_ALL}, {HALF}; auto: {TUNED}", "positive Dice"),
            *gain_of(bsdata, f"{ON_ALL}, {HALF}", "positive Dice"),
        ),
    )
    span = "({:+.1f} to {:+.1f}"
    yield Quote(
        "bench/README.md",
        f"it is {{:.1f}} points of positive Dice ahead of the plain loop at one half {span} over seeds) and {{:.1f}} "
        f"of the one on the validation images, too {span}). Tuned, {{:+.1f}} may be chance {span}):",
        tuple(
            figure
            for label in (f"{PLAIN}, {HALF}", f"{ON_ALL}, {HALF}", f"{PLAIN}, {TUNED}")
            for figure in gain_of(own_length, label, "positive Dice")
        ),
    )
    yield Quote(
        "bench/README.md",
        f"In mean IoU it is ahead by {{:.1f}} at one half, which may be chance, too {span}).",
        gain_of(own_length, f"{PLAIN}, {HALF}", "mean IoU"),
    )
    preset = "preset-strips-all"
    yield Quote(
        "bench/README.md",
        f"it has {{:+.2f}} points of mean IoU at one half {interval} over seeds) and {{:+.2f}} tuned {interval}), and "
        f"{{:+.2f}} of tuned mean Dice {interval}).",
        (
            *gain_of(preset, f"preset severstal, {HALF}", "mean IoU"),
            *gain_of(preset, f"preset severstal, {TUNED}", "mean IoU"),
            *gain_of(preset, f"preset severstal, {TUNED}", "mean Dice"),
        ),
    )
    trained = ("thresholds-neu", "thresholds-bsdata", "thresholds-strips")
    for sections, words in (
        (("thresholds",), "beyond its interval in {:.0f} of {:.0f}; always taking the richest decision, in {:.0f}."),
        (
            trained,
            "five of BSData with 100: in {:.0f} of {:.0f}; the richest, in {:.0f}.",
        ),
    ):
        yield Quote(
            "bench/README.md", words, (*times_worse("ours", *sections), times_worse("always the richest", *sections)[0])
        )
    worse_by = [
        [-float(cell_of("batches", "against batches of 16, points", passes, name)) for name in (BATCHES, TWICE)]
        for passes in ("24", "8")
    ]
    yield Quote(
        "train/presets.py",
        "batches of 64 at the rates of 16 were {:.1f} points of mean IoU worse than of 16 after 321 steps, and at "
        "these {:.2f}, which may be chance; after 102 steps they were {:.1f} worse at these",
        (*worse_by[0], worse_by[1][1]),
    )
    yield Quote(
        "bench/decisions.md",
        "after 24 passes batches of 64 at the rates of 16 are {} points worse than of 16, and at twice those {}, which "
        "may be chance ({:+.2f} to {:+.2f}); after 8 passes {} and {}.",
        (*worse_by[0], *numbers_in(cell_of("batches", "95 % over images", "24", TWICE)), *worse_by[1]),
    )

    on_steel = [
        [
            -float(cell_of("batches-neu", "against batches of 16, points", passes, TWICE)),
            *numbers_in(cell_of("batches-neu", "95 % over seeds", passes, TWICE)),
        ]
        for passes in ("8", "24")
    ]
    yield Quote(
        "bench/decisions.md",
        "at twice the rates are {} points worse after 8 passes, which are 59 steps on crops ({:+.2f} to {:+.2f}), and "
        "after 24, which are 187, {}, which may be chance ({:+.2f} to {:+.2f}).",
        (*on_steel[0], *on_steel[1]),
    )
    yield Quote(
        "bench/decisions.md",
        "they are {} points worse than batches of 8 after 16 passes, {:.0f} steps on crops ({:+.2f} to {:+.2f}).",
        (
            -float(cell_of("batches-bsdata", "against batches of 8, points", "16", TWICE)),
            float(cell_of("batches-bsdata", "steps on crops", "16", TWICE)),
            *numbers_in(cell_of("batches-bsdata", "95 % over seeds", "16", TWICE)),
        ),
    )


OTHERS = "recall of class 1, class 3, class 4"


def _each(section: str, column: str, row: str) -> list[float]:
    """Of every seed."""
    return numbers_in(cell_of(section, column, row))[1:]


def _other_quotes() -> Iterator[Quote]:
    """Of comparisons with others than the plain loop, and of what may be chance."""
    bsdata, strips, six = "pretrained-bsdata", "pretrained-strips", "cascade-pretrained"
    every = f"{strips}-all"
    of_tuning = gain_of(strips, f"{ON_ALL}, {HALF}; auto: {TUNED}", "positive Dice")
    yield Quote(
        "bench/README.md",
        "with which `auto` has {:.1f} positive Dice, where it has {:.1f} at one half and the loop on the validation "
        "images, too, has {:.1f} ({:+.1f} points, {:+.1f} to {:+.1f} over seeds).",
        (
            *(mean_of(strips, *of, "positive Dice") for of in (("auto", TUNED), ("auto", HALF), (ON_ALL, HALF))),
            *of_tuning,
        ),
    )
    by_chance = [(strips, PLAIN), (strips, ON_ALL), (every, PLAIN)]
    ends = [gain_of(section, f"{side}, {HALF}", "mean Dice")[1:] for section, side in by_chance]
    assert all(low < 0 < high for low, high in ends)
    yield Quote(
        "bench/README.md",
        "in mean Dice at one half the strips' loss to the plain loop ({:+.1f} to {:+.1f} points over seeds) and to the "
        "one on the validation images, too ({:+.1f} to {:+.1f}), and all strips' loss ({:+.1f} to {:+.1f}).",
        tuple(end for interval in ends for end in interval),
    )
    ours, theirs = (sorted(_each(every, "mean IoU", f"{side}, {HALF}")) for side in ("auto", PLAIN))
    yield Quote(
        "bench/README.md",
        "three of the loop's five seeds answer one class far too often and have {:.1f}, {:.1f} and {:.1f} points of "
        "mean IoU, the others {:.1f} and {:.1f}, where `auto`'s are between {:.1f} and {:.1f}:",
        (*theirs, ours[0], ours[-1]),
    )
    sets = ((bsdata, "positive Dice"), (strips, "mean IoU"))
    of_preset = [
        mean_of(section, "preset severstal", how, measure) for section, measure in sets for how in (HALF, TUNED)
    ]
    yield Quote(
        "bench/README.md",
        "as good as `auto` on BSData in positive Dice ({:.1f}, tuned {:.1f}), {:.1f} points behind there in tuned mean "
        "IoU, and behind in mean IoU on the 1,080 strips ({:.1f} and {:.1f})",
        (*of_preset[:2], gain_of(bsdata, f"preset severstal, {TUNED}", "mean IoU")[0], *of_preset[2:]),
    )
    sides = (
        "one unified network",
        "six, the same time together",
        "six, the same time each",
        "one unified network, six times as long",
    )
    one, together, apart, longer = (
        [numbers_in(cell_of(six, measure, side))[0] for measure in ("mean Dice", "positive Dice")] for side in sides
    )
    yield Quote(
        "bench/README.md",
        "one has mean Dice {:.1f} against {:.1f} and positive Dice {:.1f} against {:.1f}. Six with that time each have "
        "{:.1f} and {:.1f}, which may be chance over seeds",
        (one[0], together[0], one[1], together[1], *apart),
    )
    yield Quote(
        "README.md",
        "one has mean Dice {:.1f} against {:.1f} and positive Dice {:.1f} against {:.1f}; six with that time each have "
        "{:.1f} and {:.1f}.",
        (one[0], together[0], one[1], together[1], *apart),
    )
    small_class = [float(cell_of(six, "of each class", side).split(",")[0]) for side in sides if "together" not in side]
    yield Quote(
        "bench/README.md",
        "and the one network trained for as long as those together {:.1f} and {:.1f}, its gain in mean Dice over them "
        "perhaps by chance. Class 1 is hardly found by any: {:.1f} of positive Dice by one, {:.1f} by six with that "
        "time each, {:.1f} by one for as long |",
        (*longer, *small_class),
    )
    yield Quote(
        "bench/decisions.md",
        "{:+.2f} points of mean Dice ({:+.2f} to {:+.2f} over three seeds) and {:+.2f} of positive Dice ({:+.2f} to "
        "{:+.2f}; `cascade-pretrained`)",
        tuple(
            figure
            for measure in ("mean Dice", "positive Dice")
            for figure in gain_of(six, "six, the same time together", measure)
        ),
    )
    lengths = (("25", "120"), ("50", "60"), ("100", "30"), ("200", "15"))
    for page, end in (("README.md", " (three seeds"), ("bench/README.md", "; each difference exceeds")):
        yield Quote(
            page,
            "mean IoU **{:.1f}**, **{:.1f}**, **{:.1f}**, **{:.1f}**; the plain loop {:.1f}, {:.1f}, {:.1f}, {:.1f}; "
            f"`auto` without pretrained weights {{:.1f}}, {{:.1f}}, {{:.1f}}, {{:.1f}}{end}",
            tuple(
                numbers_in(cell_of("small", side, *length, HALF))[0]
                for side in ("auto", PLAIN, "auto from scratch")
                for length in lengths
            ),
        )
    found, alarms = (
        [float(cell_of("rare", column, "auto", str(seed))) for seed in range(5)]
        for column in ("recall of inclusion", "alarms")
    )
    yield Quote(
        "bench/README.md",
        "found in {:.0f} to {:.0f} % of the test images that have it, without a false alarm by four seeds and with "
        "{:.0f} by the fifth",
        (min(found), max(found), max(alarms)),
    )
    assert sorted(alarms)[:4] == [0] * 4
    on_strips = [float(cell_of("rare-strips", "recall of class 2", "auto", str(seed))) for seed in range(5)]
    yield Quote(
        "README.md",
        "is found by each of five seeds: in {:.0f} to {:.0f} % of the test images that have it on NEU-Seg, in {:.0f} "
        "to {:.0f} % on synthetic strips.",
        (min(found), max(found), min(on_strips), max(on_strips)),
    )
    words = "found by all seeds, in {:.0f} to {:.0f} %, with two false alarms at most; another class there, with 80 "
    words += "images, is found in {:.0f} to {:.0f} %, by three of the five never |"
    others = [numbers_in(cell_of("rare-strips", OTHERS, "auto", str(seed)))[0] for seed in range(5)]
    assert others.count(0) == 3
    assert max(float(cell_of("rare-strips", "alarms", "auto", str(seed))) for seed in range(5)) == 2
    yield Quote("bench/README.md", words, (min(on_strips), max(on_strips), min(others), max(others)))
    pairs = [
        each
        for measure in ("mean IoU", "mean Dice")
        for side in ("student", "control")
        for each in _each("pseudo-labels", measure, f"{side}, {HALF}")
    ]
    yield Quote(
        "bench/README.md",
        "mean IoU {:.1f}, {:.1f} and {:.1f}, and {:.1f}, {:.1f} and {:.1f} where the labelled ones alone are trained "
        "on for as long; mean Dice {:.1f}, {:.1f} and {:.1f}, and {:.1f}, {:.1f} and {:.1f}.",
        tuple(pairs),
    )


def _drift_quotes() -> Iterator[Quote]:
    """Of what varied brightness is worth, under the lamp of the set and under others."""

    def of_light(section: str, light: str) -> list[float]:
        columns = ("the former over the latter, points", "95 % over seeds")
        return [number for column in columns for number in numbers_in(cell_of(section, column, light, "mean IoU"))]

    as_taken, dark, of_pits = of_light("drift", "1"), of_light("drift", "0.7"), of_light("drift-bsdata", "1")
    assert as_taken[1] < 0 < as_taken[2] and dark[1] > 0 > of_pits[2]
    bright = [
        numbers_in(cell_of("drift-bsdata", side, "1.3", "mean IoU"))[2:]
        for side in ("no brightness and contrast", "auto")
    ]
    by_chance = of_light("drift-bsdata", "1.3")
    assert by_chance[1] < 0 < by_chance[2] and max(bright[0]) < 70 < min(bright[1])
    yield Quote(
        "docs/auto.md",
        "no difference is shown as they are ({:+.2f} points of mean IoU, {:+.2f} to {:+.2f}, three seeds); with 0.7 of "
        "their gray levels brightness is worth {:.2f} ({:+.2f} to {:+.2f}). On BSData's validation images it costs "
        "{:.2f} points as they are ({:+.2f} to {:+.2f}) and gains nothing in darker ones; with 1.3 times the gray "
        "levels two of three seeds without it fall to {:.1f} and {:.1f}, where they have {:.1f} and {:.1f} with it, "
        "which over three seeds is not shown ({:+.2f}, {:+.2f} to {:+.2f}).",
        (*as_taken, *dark, -of_pits[0], *of_pits[1:], *bright[0], *bright[1], *by_chance),
    )
    yield Quote(
        "bench/README.md",
        "and with 0.7 of their gray levels it is {:.1f} points of mean IoU better; on BSData's validation images "
        "(`drift-bsdata`) it costs {:.2f} points as they are, and with 1.3 times their gray levels two of three seeds "
        "without it fall to {:.1f} and {:.1f} points, where those with it have {:.1f} and {:.1f}, which",
        (dark[0], -of_pits[0], *bright[0], *bright[1]),
    )
    lights = ("1", "0.7", "0.85", "1.15", "1.3")
    for section, start, end in (
        ("drift", "gray levels times 0.7, 0.85, 1.15 and 1.3 | ", "; over images {:+.2f} to {:+.2f}) | 3 | `drift` |"),
        ("drift-bsdata", "BSData, today's recipe, likewise | ", "): two of three seeds without fall to"),
    ):
        without = [[-mean, -high, -low] for mean, low, high in (of_light(section, light) for light in lights)]
        span = "{:+.2f} ({:+.2f} to {:+.2f}"
        over_images = [-n for n in reversed(numbers_in(cell_of("drift", "95 % over images", "1.3", "mean IoU")))]
        yield Quote(
            "bench/decisions.md",
            f"{start}{span}); {span}), {span}), {span}) and {span}{end}",
            tuple(n + 0.0 for each in without for n in each) + (tuple(over_images) if section == "drift" else ()),
        )


QUOTES = (*_quotes(), *_other_quotes(), *_drift_quotes())


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote.words[:40])
def test_a_sentence_has_the_figures_of_its_section(quote: Quote) -> None:
    check(quote)


def test_the_page_is_made_of_its_sections() -> None:
    assert (ROOT / "bench" / "quality.md").read_text() == report(), "write what bench.quality.cli.report gives"
