"""What is conspicuous about a data set, the worst first: to be looked at before anything is trained on it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from steel.errors import counted, list_some
from steel.images.exif import TURNED_ADVICE, told_turned
from steel.images.mixed import MIXED_ADVICE, odd_colours, told_mixed
from steel.labels.classes import beside_classes
from steel.reports.explore_data import ExploredData
from steel.reports.explore_figures import PixelSurvey
from steel.reports.html.figures import percent
from steel.reports.model_card import FEW_IMAGES

Tone = Literal["bad", "warn"]
MOST_SHOWN = 6
"""Images shown of a finding."""
TINY_PIXELS, TINY_REGION = 10, 2
"""A mask, and one of several regions of a mask, of so few pixels is hardly a defect that somebody drew."""
WHOLE_SHARE = 0.95
_USUAL_SHARE = 0.8
_ODD_SPREADS, _SIGMAS = 6.0, 3.0
_SPREAD_OF_NORMAL = 1.4826
"""Standard deviations in a median absolute deviation, of a normal distribution."""


@dataclass(frozen=True)
class Finding:
    """Something to look at."""

    tone: Tone
    title: str
    advice: str
    rows: tuple[int, ...] = ()
    """Images that show it, all of them."""

    @property
    def shown(self) -> tuple[int, ...]:
        """Those that the page has room for."""
        return self.rows[:MOST_SHOWN]


def find_conspicuous(data: ExploredData, survey: PixelSurvey) -> list[Finding]:
    """All findings, bad ones first."""
    found = [
        *_duplicates(data),
        *_rare_classes(data),
        *_folds(data),
        *_masks(data, survey),
        *_sizes(data),
        *_turned(data),
        *_mixed(data),
        *_brightness(survey),
    ]
    return sorted(found, key=lambda finding: finding.tone != "bad")


def _duplicates(data: ExploredData) -> Iterator[Finding]:
    order = np.argsort(data.group, kind="stable")
    starts = np.flatnonzero(np.diff(data.group[order])) + 1
    groups = [rows for rows in np.split(order, starts) if len(rows) > 1]
    differing = [rows for rows in groups if (data.has[rows] != data.has[rows[0]]).any()]
    if differing:
        rows = tuple(row for group in differing for row in _one_of_each(data, group))
        yield Finding(
            "bad",
            f"{counted(len(differing), 'group')} of duplicates labelled differently",
            "The same picture has other classes in another copy of it: one of the labels is wrong. Correct them, or "
            "keep one image of each group; until then no model can be right on both.",
            rows,
        )
    if data.fold is not None:
        astride = [rows for rows in groups if len(np.unique(data.fold[rows])) > 1]
        if astride:
            yield Finding(
                "bad",
                f"{counted(len(astride), 'group')} of duplicates in several folds",
                "A model is judged on images that it has seen: shard again, so that groups stay together.",
                tuple(row for group in astride for row in group.tolist()),
            )
    copies = sum(len(rows) - 1 for rows in groups)
    if copies > 0.05 * len(data):
        yield Finding(
            "warn",
            f"{copies + len(groups):,} of {len(data):,} images lie in {counted(len(groups), 'group')} of duplicates",
            "There is less to learn from, and intervals of scores are wider, than the number of images suggests.",
            tuple(row for group in sorted(groups, key=len, reverse=True)[:3] for row in group[:2].tolist()),
        )


def _one_of_each(data: ExploredData, rows: np.ndarray) -> list[int]:
    """The first image of each labelling in a group."""
    _, first = np.unique(data.has[rows], axis=0, return_index=True)
    return rows[np.sort(first)].tolist()


def _rare_classes(data: ExploredData) -> Iterator[Finding]:
    num_with = data.has.sum(axis=0).tolist()
    for k, (name, number) in enumerate(zip(data.class_names, num_with, strict=True)):
        if number == 0:
            yield Finding("bad", f"no image has {name}", "It can be neither learned nor judged: leave the class out.")
        elif number < FEW_IMAGES:
            yield Finding(
                "warn",
                f"{name} is too rare to measure: {counted(number, 'image')}",
                f"With fewer than {FEW_IMAGES}, spread over folds, scores say little: collect more, or merge classes.",
                tuple(np.flatnonzero(data.has[:, k]).tolist()),
            )
    if len(data) and not data.has.any():
        yield Finding("bad", "no image has any defect", "Are these the right labels?")
    elif data.has.any(axis=1).all():
        yield Finding(
            "warn",
            "no image is clean",
            "How often clean strips are stopped cannot be measured, nor learned: add clean images.",
        )


def _folds(data: ExploredData) -> Iterator[Finding]:
    """Shares of a class that differ by more than three standard errors of a binomial; not corrected for many looks."""
    if data.fold is None:
        return
    numbers, sizes = np.unique(data.fold, return_counts=True)
    largest = int(np.unique(data.group, return_counts=True)[1].max())
    if largest * len(numbers) > len(data):
        yield Finding(
            "warn",
            f"{largest:,} of {len(data):,} images belong together, more than an even fold has",
            f"The folds have {', '.join(map(str, sizes.tolist()))} images: what judges is up to a few pieces. Where "
            "these are different ones, shard again with --no-group-duplicates, and --groups for what belongs together.",
        )
    labels = np.concatenate([~data.has.any(axis=1, keepdims=True), data.has], axis=1)
    for k, name in enumerate((beside_classes("clean", data.class_names), *data.class_names)):
        share = labels[:, k].mean()
        for number in numbers.tolist():
            inside = labels[data.fold == number, k]
            error = np.sqrt(share * (1 - share) / len(inside))
            if share > 0 and inside.sum() == 0 and share * len(inside) >= 1:
                advice = "It cannot judge that: shard again with other folds, or with fewer."
                yield Finding("bad" if k else "warn", f"fold {number} has no {name} image", advice)
            elif abs(inside.mean() - share) > _SIGMAS * error > 0:
                yield Finding(
                    "warn",
                    f"fold {number} differs: {percent(inside.mean(), 1)} {name}, {percent(share, 1)} of all",
                    "Scores on it say less of the others. Large groups of duplicates do this; so does dealing by hand.",
                )


def _masks(data: ExploredData, survey: PixelSurvey) -> Iterator[Finding]:
    tiny = data.has & (data.areas <= TINY_PIXELS)
    if tiny.any():
        single = int((data.areas == 1).sum())
        yield Finding(
            "warn",
            f"{counted(int(tiny.sum()), 'mask')} of at most {TINY_PIXELS} pixels"
            + (f", {single:,} of a single one" if single else ""),
            "Slips of the pen, or labels that were made smaller: Dice treats each as a whole defect. Remove them.",
            _by_area(data, tiny),
        )
    specks = (survey.smallest > 0) & (survey.smallest <= TINY_REGION) & (survey.regions > 1)
    if specks.any():
        yield Finding(
            "warn",
            f"{counted(int(specks.any(axis=1).sum()), 'image')} with specks of 1 or 2 pixels beside larger regions",
            "Labels from a resize or a threshold look like this: close holes and drop specks before training.",
            tuple(survey.rows[specks.any(axis=1)].tolist()),
        )
    whole = data.areas >= WHOLE_SHARE * data.sizes.prod(axis=1, keepdims=True)
    if whole.any():
        yield Finding(
            "warn",
            f"{counted(int(whole.any(axis=1).sum()), 'image')} covered wholly by one class",
            "A background that became a class, or inverted masks, look like this.",
            tuple(np.flatnonzero(whole.any(axis=1)).tolist()),
        )


def _by_area(data: ExploredData, some: np.ndarray) -> tuple[int, ...]:
    """The images of (N, C) bool, the smallest area first."""
    rows, classes = np.nonzero(some)
    order = np.argsort(data.areas[rows, classes], kind="stable")
    return tuple(dict.fromkeys(rows[order].tolist()))


def _sizes(data: ExploredData) -> Iterator[Finding]:
    sizes = Counter(map(tuple, data.sizes.tolist()))
    (usual, number), *others = sizes.most_common()
    if others and number >= _USUAL_SHARE * len(data):
        odd = np.flatnonzero((data.sizes != usual).any(axis=1))
        yield Finding(
            "warn",
            f"{counted(len(odd), 'image')} of another size than {usual[0]}x{usual[1]}",
            "Cropped, rotated or of another camera: see whether they belong here.",
            tuple(odd.tolist()),
        )


def _turned(data: ExploredData) -> Iterator[Finding]:
    if data.turned:
        names = [data.image_ids[row] for row in data.turned]
        yield Finding(
            "warn",
            f"{told_turned(names)}: {list_some(names, 3)}",
            f"{TURNED_ADVICE[0].upper()}{TURNED_ADVICE[1:]}.",
            data.turned,
        )


def _mixed(data: ExploredData) -> Iterator[Finding]:
    odd = odd_colours(data.are_gray)
    if odd:
        names = [data.image_ids[row] for row in odd]
        yield Finding(
            "warn",
            f"{told_mixed(data.are_gray)}: {list_some(names, 3)}",
            f"{MIXED_ADVICE[0].upper()}{MIXED_ADVICE[1:]}.",
            odd,
        )


def _brightness(survey: PixelSurvey) -> Iterator[Finding]:
    black = survey.black > 0.95
    if black.any():
        yield Finding(
            "warn",
            f"{counted(int(black.sum()), 'image')} almost wholly black",
            "Nothing is to be seen on them: leave them out, or call them clean.",
            tuple(survey.rows[black].tolist()),
        )
    seen = ~black
    for values, words in ((survey.mean, "brightness"), (survey.std, "contrast")):
        middle = np.median(values[seen]) if seen.any() else 0.0
        spread = _SPREAD_OF_NORMAL * np.median(np.abs(values[seen] - middle)) if seen.any() else 0.0
        odd = seen & (np.abs(values - middle) > _ODD_SPREADS * max(spread, 1.0))
        if 0 < odd.sum() <= 0.05 * len(values):
            order = np.argsort(-np.abs(values - middle), kind="stable")
            yield Finding(
                "warn",
                f"{counted(int(odd.sum()), 'image')} of odd {words}",
                f"Far from the usual {middle:.0f} of 255: lights, exposure or another camera.",
                tuple(survey.rows[i] for i in order.tolist() if odd[i]),
            )


def to_plain(data: ExploredData, findings: Sequence[Finding]) -> list[dict[str, object]]:
    """The findings in plain JSON values, with the images that show them."""
    return [
        {
            "tone": finding.tone,
            "title": finding.title,
            "advice": finding.advice,
            "images": [data.image_ids[row] for row in finding.rows],
        }
        for finding in findings
    ]
