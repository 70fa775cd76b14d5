"""Evaluations side by side: which differences exceed the noise, and which images changed.

Where two evaluations judged the same images, their differences are paired: the images are resampled, and both are
scored on each resample, so that what makes images hard for both cancels. An interval that leaves out 0 is a difference
that other images of the same kind would show, too.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from steel.errors import InputError
from steel.metrics.bootstrap import (
    CONFIDENCE,
    NUM_RESAMPLES,
    TOO_FEW,
    Interval,
    bootstrap_difference,
    interval,
    resample_weights,
    told_by,
)
from steel.metrics.counts import PREDICTED, TRUE
from steel.metrics.scores import Outcome, score
from steel.metrics.table import METRICS, headings, plain_number
from steel.reports.evaluated import Evaluated, read_evaluated
from steel.reports.per_image import CLEAN, FALSE_ALARM, FOUND, MISS, result_of
from steel.reports.tables import format_columns

RESULTS = (FOUND, MISS, FALSE_ALARM, CLEAN)


class Measure(NamedTuple):
    """A score as a ratio of sums over images."""

    name: str
    first: np.ndarray
    """(n,) each image's part of the sum above, in the first evaluation."""
    second: np.ndarray
    weight: np.ndarray
    """(n,) its part of the sum below, the same in both."""
    more_is_better: bool = True


def compare(paths: Sequence[str]) -> dict[str, Any]:
    """Everything that a comparison shows, in plain JSON values.

    Args:
        paths: two or more; see `read_evaluated`. Each is held against the first.

    Returns:
        `sources`: scores of each, over its own classes; `pairs`: each later one against the first, on the images that
        both have judged and the classes that both have; `settings`: what differs in how they came about.

    Raises:
        InputError: fewer than two, or one that cannot be read.
    """
    if len(paths) < 2:
        raise InputError("compare: give at least two runs, reports or metrics.json files")
    sources = read_evaluated(paths)
    first = sources[0]
    return {
        "sources": [_describe(source) for source in sources],
        "classes": list(dict.fromkeys(name for source in sources for name in source.class_names)),
        "pairs": [_pair(0, first, number, other) for number, other in enumerate(sources[1:], start=1)],
        "settings": _differing([source.settings for source in sources]),
        "spread": _spread(sources),
        "confidence": CONFIDENCE,
        "resamples": NUM_RESAMPLES,
    }


def _describe(source: Evaluated) -> dict[str, Any]:
    metrics = source.metrics
    return {
        "name": source.name,
        "path": source.path,
        "images": metrics["images"],
        "folds": metrics.get("folds", []),
        "role": metrics.get("role", ""),
        "verdict": str(metrics["verdict"].get("sentence", "")),
        "warning": str(metrics["verdict"].get("warning") or ""),
        **{name: metrics.get(name) for name, metric in METRICS.items() if metric.heading},
        "interval": metrics["intervals"].get("mean_dice"),
        "true_images_per_class": metrics.get("true_images_per_class", {}),
    }


def _differing(settings: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """What is not the same in all, with its value in each."""
    names = dict.fromkeys(name for values in settings for name in values)
    rows = ({"name": name, "values": [values.get(name) for values in settings]} for name in names)
    return [row for row in rows if len(set(row["values"])) > 1]


def _spread(sources: Sequence[Evaluated]) -> dict[str, Any]:
    """Mean and standard deviation over three or more, of each score that all have; of folds: what a fold matters.

    None of sources with different classes: each score is over its own, so that they are no draws of one number.
    """
    found: dict[str, Any] = {}
    if len(sources) < 3 or len({frozenset(source.class_names) for source in sources}) > 1:
        return found
    for name in headings(*(source.metrics for source in sources), per_class=False):
        values = [value for s in sources if isinstance(value := s.metrics.get(name), int | float)]
        if len(values) == len(sources):
            found[name] = {"mean": float(np.mean(values)), "deviation": float(np.std(values, ddof=1))}
    return found


def _pair(number: int, first: Evaluated, other_number: int, other: Evaluated) -> dict[str, Any]:
    """The second against the first."""
    found: dict[str, Any] = {"first": number, "second": other_number, "images": 0, "relabelled": 0, "why_not": ""}
    names = [name for name in first.class_names if name in other.class_names]
    found["classes"] = names
    found["unshared_classes"] = [n for n in dict.fromkeys([*first.class_names, *other.class_names]) if n not in names]
    for source in (first, other):
        if source.table is None:
            return found | {"why_not": f"{source.name} has no per_image.csv beside its scores"}
    if not names:
        return found | {"why_not": "they have no class in common"}
    assert first.table is not None and other.table is not None
    place = {image: i for i, image in enumerate(other.table.image_ids)}
    both = [(i, place[image]) for i, image in enumerate(first.table.image_ids) if image in place]
    if not both:
        return found | {"why_not": "they have no image in common"}
    at_first, at_other = np.array(both).T
    of_first, of_other = ([source.class_names.index(name) for name in names] for source in (first, other))
    counts = first.table.counts[np.ix_(at_first, of_first)], other.table.counts[np.ix_(at_other, of_other)]
    same = (counts[0][..., TRUE] == counts[1][..., TRUE]).all(axis=1)
    found |= {"images": int(same.sum()), "relabelled": int((~same).sum())}
    if not same.any():
        return found | {"why_not": "their images are labelled differently"}
    at_first, at_other, counts = at_first[same], at_other[same], (counts[0][same], counts[1][same])
    dice = first.table.dice[np.ix_(at_first, of_first)], other.table.dice[np.ix_(at_other, of_other)]
    groups = _coarsest(
        [
            table.groups[at]
            for table, at in ((first.table, at_first), (other.table, at_other))
            if table.groups is not None
        ]
    )
    if found["unshared_classes"]:  # what each says of its own classes is not the same question
        results = _results_of(counts[0]), _results_of(counts[1])
    else:
        results = [first.table.results[i] for i in at_first], [other.table.results[i] for i in at_other]
    measures = _measures(names, *dice, counts[0][..., TRUE] > 0, *results)
    overall, others = (
        {measure.name: _difference(measure, groups) for measure in some if measure.weight.any()}
        for some in (measures[:2], measures[2:])
    )
    differences = overall | _iou_difference(*counts, groups) | others
    flattered = _flattered(first, other)
    changed = _changed(first.table.image_ids, at_first, dice, results)
    overlays = {i: (first.table.overlays[a], other.table.overlays[b]) for i, (a, b) in enumerate(
        zip(at_first, at_other, strict=True))}  # fmt: skip
    return found | {
        "differences": differences,
        "flattered": flattered,
        "sentence": flattered
        + _sentence(first.name, other.name, differences, found["images"], names if found["unshared_classes"] else []),
        "results": [
            {"first": a, "second": b, "images": n} for (a, b), n in sorted(Counter(zip(*results, strict=True)).items())
        ],
        "better_images": sum(line["difference"] > 0 for line in changed),
        "worse_images": sum(line["difference"] < 0 for line in changed),
        "changed": [line | {"overlays": list(overlays[line.pop("place")])} for line in changed],
    }


def _flattered(*pair: Evaluated) -> str:
    """Which of two has seen the images that judge both, or may have, where the other has not, or not as much; empty for
    none."""
    roles = [source.metrics.get("role") for source in pair]
    words = {
        "train": "was trained on these images",
        "tuning": "was tuned on these images",
        "unknown": "was trained on other shards and may have seen these images",
    }
    said = [f"{source.name} {words[role]}" for source, role in zip(pair, roles, strict=True) if role in words]
    return f"CAUTION, {' and '.join(said)}, which flatters it: " if said and roles[0] != roles[1] else ""


def _results_of(counts: np.ndarray) -> list[str]:
    """What became of strips, from (n, C, 3) counts, as `ImageTable` has it for all classes of its evaluation."""
    return [result_of(any(true), any(said)) for true, said in counts[..., [TRUE, PREDICTED]].swapaxes(1, 2).tolist()]


def _measures(
    names: Sequence[str],
    first: np.ndarray,
    second: np.ndarray,
    present: np.ndarray,
    first_results: Sequence[str],
    second_results: Sequence[str],
) -> list[Measure]:
    """The scores that are compared, from (n, C) Dice and the truth."""
    ones, positives = np.ones(len(first)), present.sum(axis=1)
    stopped = [np.isin(results, (FOUND, FALSE_ALARM)).astype(float) for results in (first_results, second_results)]
    defective = np.isin(first_results, (FOUND, MISS)).astype(float)
    measures = [
        Measure("mean Dice", first.mean(axis=1), second.mean(axis=1), ones),
        Measure("positive Dice", (first * present).sum(axis=1), (second * present).sum(axis=1), positives),
        Measure("defective strips found", stopped[0] * defective, stopped[1] * defective, defective),
        Measure(
            "clean strips stopped", stopped[0] * (1 - defective), stopped[1] * (1 - defective), 1 - defective, False
        ),
    ]
    for k, name in enumerate(names):
        measures.append(Measure(f"Dice of {name}", first[:, k], second[:, k], ones))
        of = present[:, k].astype(float)
        measures.append(Measure(f"positive Dice of {name}", first[:, k] * of, second[:, k] * of, of))
    return measures


def _difference(measure: Measure, groups: np.ndarray | None) -> dict[str, Any]:
    """Both values, their difference and its paired interval, over the images that have weight: how many these are
    says how wide it is. None of fewer than `FEWEST_IMAGES`."""
    total, has_weight = measure.weight.sum(), measure.weight > 0
    gain = measure.second - measure.first
    parts = np.stack([gain, measure.weight], axis=1)[has_weight]
    their_groups = None if groups is None else groups[has_weight]
    sums = np.concatenate([w @ parts for w in resample_weights(len(parts), NUM_RESAMPLES, 0, their_groups)])
    with np.errstate(invalid="ignore"):
        span = interval(sums[:, 0] / sums[:, 1])
    values = measure.first.sum() / total, measure.second.sum() / total
    return _judged(*values, gain.sum() / total, span, more_is_better=measure.more_is_better)


def _coarsest(known: Sequence[np.ndarray]) -> np.ndarray | None:
    """Of the groups that two tables give the same images the fewest: shards made anew may know more of them."""
    return min(known, key=lambda groups: len(np.unique(groups)), default=None)


def _iou_difference(first: np.ndarray, second: np.ndarray, groups: np.ndarray | None) -> dict[str, dict[str, Any]]:
    """That of mean IoU, which is no ratio of sums over images but a mean of such, from (n, C, 3) counts.

    Empty where nothing is true and nothing predicted.
    """
    outcomes = [
        Outcome(np.arange(len(c)), c, np.zeros((len(c), 1 + c.shape[1]), bool), groups=groups) for c in (first, second)
    ]
    before, after = (float(score(outcome).miou) for outcome in outcomes)
    if np.isnan([before, after]).any():
        return {}
    return {"mean IoU": _judged(before, after, after - before, bootstrap_difference(outcomes[1], outcomes[0], "miou"))}


def _judged(
    first: float, second: float, difference: float, span: Interval | None, *, more_is_better: bool = True
) -> dict[str, Any]:
    """Both values, their difference with its interval, and what that says."""
    so = told_by(span, more_is_better=more_is_better)
    return {
        "first": plain_number(first),
        "second": plain_number(second),
        "difference": plain_number(difference),
        "interval": None if span is None else list(span),
        "exceeds_noise": so in ("better", "worse"),
        "so": so,
    }


def _changed(
    image_ids: Sequence[str],
    places: np.ndarray,
    dice: tuple[np.ndarray, np.ndarray],
    results: tuple[Sequence[str], Sequence[str]],
) -> list[dict[str, Any]]:
    """Images with another Dice or another result, the largest change first."""
    first, second = (values.mean(axis=1) for values in dice)
    order = np.argsort(-np.abs(second - first), kind="stable")
    return [
        {
            "image_id": image_ids[places[i]],
            "first_dice": round(float(first[i]), 6),
            "second_dice": round(float(second[i]), 6),
            "difference": round(float(second[i] - first[i]), 6),
            "first_result": results[0][i],
            "second_result": results[1][i],
            "place": i,
        }
        for i in order.tolist()
        if abs(second[i] - first[i]) > 1e-6 or results[0][i] != results[1][i]
    ]


def _sentence(
    first: str, second: str, differences: Mapping[str, Any], num_images: int, only_classes: Sequence[str]
) -> str:
    """The verdict on a pair; `only_classes` are those that both have where either has others, too.

    Where mean Dice shows no difference and another score does, it is mean Dice alone that is not shown to differ.
    """
    whole = differences["mean Dice"]
    shown = [
        f"{name} {found['difference']:+.4f}"
        for name, found in differences.items()
        if found["exceeds_noise"] and name != "mean Dice"
    ]
    classes = f" and the classes that both have ({', '.join(only_classes)})" if only_classes else ""
    on = f"on the same {num_images:,} images{classes}"
    if shown and not whole["exceeds_noise"]:
        head = f"mean Dice of {second} is not shown to differ from that of {first}: {_spanned(whole)} {on}"
        return f"{head}; beyond the noise: {', '.join(shown)}"
    words = {"better": "is better than", "worse": "is worse than"}.get(whole["so"], "is not shown to differ from")
    more = f"; beyond the noise also: {', '.join(shown)}" if shown else "; nothing else exceeds the noise"
    return f"{second} {words} {first}: mean Dice {_spanned(whole)} {on}{more}"


def _spanned(found: Mapping[str, Any]) -> str:
    difference, span = _in_words(found)
    return f"{difference} ({span if span == TOO_FEW else f'95 %: {span}'})"


def _in_words(found: Mapping[str, Any]) -> tuple[str, str]:
    """A difference and its interval; `TOO_FEW` where it has none."""
    span = found["interval"]
    return f"{found['difference']:+.4f}", TOO_FEW if span is None else f"{span[0]:+.4f} to {span[1]:+.4f}"


def _differences_of_two(comparison: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Of two that have judged the same images and no others: what stands beside their scores. Those over all classes
    have none where the classes of one are not those of the other: they would be differences of other numbers."""
    (pair, *more), sources = comparison["pairs"], comparison["sources"]
    if more or pair["why_not"] or any(source["images"] != pair["images"] for source in sources):
        return {}
    of_classes = [f"positive Dice of {name}" for name in pair["classes"]]
    names = of_classes if pair["unshared_classes"] else pair["differences"]
    return {name: _in_words(pair["differences"][name]) for name in names if name in pair["differences"]}


def format_comparison(comparison: Mapping[str, Any]) -> str:
    """A short text for terminals: a sentence on each pair, then the scores side by side."""
    sources = comparison["sources"]
    lines = [
        pair["sentence"] if not pair["why_not"] else
        f"{sources[pair['second']]['name']} cannot be paired with {sources[0]['name']}: {pair['why_not']}"
        for pair in comparison["pairs"]
    ]  # fmt: skip
    differences = _differences_of_two(comparison)
    header = ["", *(source["name"] for source in sources), *(["difference", "95 %"] if differences else [])]
    rows = [["images", *(f"{source['images']:,}" for source in sources)]]
    rows += [
        [heading, *(_score(source[name]) for source in sources)]
        for name, heading in headings(*sources, per_class=False).items()
    ]
    rows += [
        [
            f"positive Dice of {name}",
            *(_score((source["dice_positive_per_class"] or {}).get(name)) for source in sources),
        ]
        for name in comparison["classes"]
    ]
    rows = [[*row, *differences.get(row[0], ("", ""))] if differences else row for row in rows]
    for pair in comparison["pairs"]:
        if pair["relabelled"]:
            lines.append(f"{pair['relabelled']} images are labelled differently and left out of the pairs")
    return "\n".join([*lines, "", format_columns([header, *rows])])


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
