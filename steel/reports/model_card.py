"""A model card in Markdown: what a checkpoint is for, what it was made of, what it scores and where it fails."""

import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any

from steel.errors import counted
from steel.folds import name_folds
from steel.metrics.sizes import SizeBin
from steel.reports.describe import count_parameters, describe_decision, describe_first_weights
from steel.reports.tables import format_columns

FEW_IMAGES = 20
"""A score that rests on fewer images with a class says little about it."""


def model_card(header: Mapping[str, Any], metrics: Mapping[str, Any], sizes: Sequence[SizeBin]) -> str:
    """The card of a checkpoint.

    Args:
        header: what `steel.checkpoint.read_header` returned.
        metrics: `metrics.json` of the folds it was judged on (`steel.reports.evaluation.build_metrics`).
        sizes: the same by size of the defect, of all classes, the smallest first.

    Returns:
        Markdown; every number is one of `header`, `metrics` or `sizes`.
    """
    names = header["class_names"]
    parts = [
        "# Model card: defects in images of steel",
        f"**{_escaped(metrics['verdict']['sentence'])}**",
        "## Use",
        f"Says of an image whether it is defective, with which of {len(names)} classes "
        f"({', '.join(map(_escaped, names))}), and which pixels are. For images of the plant, camera and surface that "
        "it was trained on; other images need an evaluation of their own first. It is no measurement of size or depth, "
        "and a strip without a finding is not proven sound.",
        "## Network",
        *_bullets(_network(header)),
        "## Data",
        *_bullets(_data(header)),
        "## Scores",
        f"On {name_folds(metrics['folds'])} ({counted(metrics['images'], 'image')}), which were for {metrics['role']}"
        + (
            ": scores as tuned flatter, and those cross-fitted a little, as these images chose among the weights."
            if metrics.get("cross_fitted")
            else "."
        ),
        _scores(names, metrics),
        "## Known failures",
        *_bullets(_failures(names, metrics, sizes)),
        "## Decision",
        "```\n" + "\n".join(describe_decision(names, header["decision"])) + "\n```",
    ]
    return "\n\n".join(parts) + "\n"


def _network(header: Mapping[str, Any]) -> list[str]:
    network = header["network"]
    size = header["input_size"]
    return [
        f"{network['architecture']} on {network['encoder']}, {count_parameters(header):,} parameters"
        + ("" if header["members"] == 1 else f" in each of {header['members']} members"),
        f"input: {'gray' if network['in_channels'] == 1 else 'RGB'} images "
        + ("of any size" if size is None else f"resized to {size[0]}x{size[1]}"),
        *(f"the encoder's first weights: {told}" for told in describe_first_weights(header["provenance"])),
        f"made with steel {header['provenance'].get('steel', '?')}, torch {header['provenance'].get('torch', '?')}",
    ]


def _data(header: Mapping[str, Any]) -> list[str]:
    folds = "; ".join(f"{role}: {_listed(those)}" for role, those in header["folds"].items())
    return [
        f"folds by use: {folds or 'not recorded'}",
        f"set: {header['provenance'].get('data_digest', 'not recorded')}",
    ]


def _scores(names: Sequence[str], metrics: Mapping[str, Any]) -> str:
    rows = [["", "images that have it", "images predicted", "Dice", "Dice where it is", "IoU"]]
    true, predicted = metrics["true_images_per_class"], metrics["predicted_images_per_class"]
    for name in names:
        found = [metrics[key][name] for key in ("dice_per_class", "dice_positive_per_class", "iou_per_class")]
        rows.append([_escaped(name), str(true[name]), str(predicted[name]), *map(_number, found)])
    overall = [metrics[key] for key in ("mean_dice", "mean_dice_positive", "miou")]
    rows.append(["mean", "", "", *map(_number, overall)])
    rows.append(["predicting nothing", "", "", _number(metrics["mean_dice_all_empty"]), "0.0000", ""])
    if metrics.get("cross_fitted") is not None:
        fair = metrics["cross_fitted"]
        rows.append(["mean, cross-fitted", "", "", _number(fair["mean_dice"]), _number(fair["mean_dice_positive"]), ""])
    return format_columns(rows, markdown=True)


def _failures(names: Sequence[str], metrics: Mapping[str, Any], sizes: Sequence[SizeBin]) -> list[str]:
    verdict, true = metrics["verdict"], metrics["true_images_per_class"]
    predicted = metrics["predicted_images_per_class"]
    how = "not shown to be" if verdict["gain"] > 0 else "no"
    found = [] if verdict["better_than_nothing"] else [f"over all classes {how} better than predicting nothing"]
    found += [
        f"{_escaped(name)} is never predicted, though {_have(true[name])} it"
        for name in names
        if true[name] and not predicted[name]
    ]
    found += [  # the verdict may be of the cross-fitted answers, the table above is not
        f"{_escaped(name)} is never predicted by cross-fitted decisions, though {_have(true[name])} it"
        for name in verdict["never_answered"]
        if predicted[name]
    ]
    found += [f"{_escaped(name)} would score more if it were never predicted" for name in verdict["worse_than_nothing"]]
    found += _missed_sizes(sizes)
    found += [
        f"{_escaped(name)}: its scores say little, as {_have(true[name], few=True)} it"
        for name in names
        if true[name] < FEW_IMAGES
    ]
    return found or ["none that these images show"]


def _missed_sizes(sizes: Sequence[SizeBin]) -> list[str]:
    """The sizes, from the smallest on, of which fewer than half are found; no end is named where these are all."""
    small = list(takewhile(lambda one: 2 * one.found < one.defects, sizes))
    if not small:
        return []
    found, defects = sum(one.found for one in small), sum(one.defects for one in small)
    if len(small) == len(sizes):
        return [
            f"defects of every size are missed: of {defects:,} (each all that an image has of a class) {found:,} were "
            "found"
        ]
    return [
        f"small defects are missed: of {defects:,} with fewer than {small[-1].end_area:,} pixels (all that an image "
        f"has of a class) {found:,} were found"
    ]


def _bullets(lines: Sequence[str]) -> list[str]:
    return ["\n".join(f"- {line}" for line in lines)]


def _listed(folds: Sequence[int]) -> str:
    return ", ".join(map(str, folds)) or "none"


def _have(images: int, *, few: bool = False) -> str:
    if images == 0:
        return "no image has"
    return ("only " if few else "") + ("1 image has" if images == 1 else f"{images} images have")


def _escaped(text: str) -> str:
    """A text whose characters mean nothing in Markdown, HTML tags and columns of tables among them."""
    return re.sub(r"([\\`*\[\]<>|]|&(?=#?\w+;)|\b_|_\b)", r"\\\1", text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
