"""A checkpoint in words, from its header alone."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from steel.checkpoint import member_entries
from steel.decision import Decision
from steel.errors import counted
from steel.extensions import extensions_of
from steel.folds import name_folds
from steel.images.pixel_format import Depth
from steel.plain import from_dict

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def describe_checkpoint(header: Mapping[str, Any]) -> list[str]:
    """Plain lines on what `steel.checkpoint.read_header` returned."""
    network = header["network"]
    count = header["members"]
    entries = {
        "network": f"{network['architecture']} on {network['encoder']}, {count_parameters(header) / 1e6:.2f} million "
        + ("parameters" if count == 1 else f"parameters in each of {count} members, whose probabilities are averaged"),
        "input": f"{'gray' if network['in_channels'] == 1 else 'RGB'} images "
        + ("of any size" if header["input_size"] is None else "resized to {}x{} pixels".format(*header["input_size"])),
        "depth": str(from_dict(Depth, header["depth"])),
        "tiles": "of {tile}x{tile} pixels, {overlap} shared, beyond {budget:,} pixels".format(**header["tiling"]),
        "normalisation": f"mean {_numbers(header['mean'])}, standard deviation {_numbers(header['std'])}",
        "folds": "; ".join(_headline_folds(header["folds"], count)) or "not recorded",
    }
    entries["first weights"] = "; ".join(describe_first_weights(header["provenance"]))
    extensions = extensions_of(header["provenance"])
    if extensions:
        entries["extensions"] = ", ".join(f"{name} ({digest[:8]})" for name, digest in extensions.items())
    lines = [f"{name:<14} {text}" for name, text in entries.items()]
    if "int8" in header:
        lines += ["", *describe_int8(header["int8"])]
    lines += ["", *describe_decision(header["class_names"], header["decision"])]
    provenance = flat_scalars(header["provenance"])
    provenance += [
        (f"member {i}", f"{name} ({told})") for i, (name, told) in enumerate(member_folds(header["provenance"]), 1)
    ]
    provenance += [("learned from", _told_learned(former)) for former in header["provenance"].get("learned_from", ())]
    provenance += [
        ("tuned before", f"on {name_folds(before['folds'])} of shards {str(before['digest'])[:8]}")
        for before in header["provenance"].get("tuned_before", ())
    ]
    if provenance:
        width = max(len(name) for name, _ in provenance)
        lines += ["", "provenance", *(f"  {name:<{width}}  {value}" for name, value in provenance)]
    return lines


def member_folds(provenance: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Of each member of an ensemble its name, and its folds by their roles with the shards that they are of."""
    found = []
    for member in member_entries(provenance):
        told, digest = _told_folds(member["folds"]) or "folds not recorded", member["provenance"].get("data_digest")
        found.append((member["name"], f"{told} of shards {digest[:8]}" if isinstance(digest, str) else told))
    return found


def _headline_folds(folds: Mapping[str, Sequence[int]], members: int) -> list[str]:
    """Of an ensemble of different shards the members tell what they were trained on, as numbers of these say nothing
    together; where its decision was found is its own."""
    of_members = ["those of each member"] if members > 1 and "train" not in folds else []
    return [told for told in (_told_folds(folds), *of_members) if told]


def _told_folds(folds: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{role} {', '.join(map(str, of)) or 'none'}" for role, of in folds.items())


def _told_learned(former: Mapping[str, Any]) -> str:
    """A start or a teacher, and what it had seen."""
    seen = [
        f"{role} {name_folds(one[role])} of shards {one['digest'][:8]}"
        for one in former["seen"]
        for role in ("train", "tuning")
        if one[role]
    ]
    return f"{former['source']} ({'; '.join(seen) or 'it does not say of which folds'})"


def describe_int8(stored: Mapping[str, Any]) -> list[str]:
    """Plain lines on a graph of 8 bits: how it was made, and what it is worth beside that of float32."""
    calibration, scored = (name_folds(stored[f"{role}_folds"]) for role in ("calibration", "scored"))
    lines = [
        f"{'8 bits':<14} ranges from {counted(stored['calibration_images'], 'image')} of {calibration}; scored on "
        f"{stored['scored_images']} of {scored}, on {counted(stored['threads'], 'thread')} of a CPU",
        f"  {'':<12}  mean Dice  positive Dice  images per second",
    ]
    for name in ("float32", "int8"):
        one = stored[name]
        lines.append(
            f"  {name:<12}  {one['mean_dice']:>9.4f}  {one['positive_dice']:>13.4f}  {one['images_per_second']:>17.1f}"
        )
    return lines


def describe_first_weights(provenance: Mapping[str, Any]) -> list[str]:
    """Where the encoder's first weights are from and under what licence, once for all members that say the same."""
    told = [
        told
        for member in provenance.get("members", ())
        for told in describe_first_weights(member["provenance"])
        if "encoder_weights" in member["provenance"]
    ]
    if told:
        return list(dict.fromkeys(told))
    if "encoder_weights" not in provenance:
        return ["not recorded"]
    weights = provenance["encoder_weights"]
    if weights is None:
        return ["random"]
    return [
        "{architecture}, {fitted} of {tensors} tensors from {source} (sha256 {sha256}); licence: {licence}".format(
            **dict.fromkeys(("architecture", "fitted", "tensors", "source", "sha256", "licence"), "?") | weights
        )
    ]


def count_parameters(header: Mapping[str, Any]) -> int:
    """Trained values of one member."""
    shapes = [entry["shape"] for name, entry in header["tensors"].items() if not name.endswith(_STATISTICS)]
    return sum(math.prod(shape[1:]) for shape in shapes)


def describe_decision(class_names: Sequence[str], stored: Mapping[str, Any] | None) -> list[str]:
    """Plain lines on the thresholds, areas and gate of a header; on thresholds of one half where it has none."""
    if stored is None:
        listed = ", ".join(f"{k} {name}" for k, name in enumerate(class_names, start=1))
        return [
            f"{'classes':<14} {listed}",
            f"{'decision':<14} none yet, so thresholds of 1/2; `train.evaluate --tune-thresholds` finds better ones",
        ]
    decision = Decision.from_dict(stored)
    views = ", ".join(decision.tta) or "none"
    width = max(len("class"), *(len(name) + 2 + len(str(k)) for k, name in enumerate(class_names, start=1)))
    lines = [
        f"{'decision':<14} gate {decision.gate}; image defective from p = {decision.binary_threshold / 255:.3f}; "
        f"flips averaged: {views}",
        f"  {'class':<{width}}  pixel p  label p  min area  max area",
    ]
    for k, (name, one) in enumerate(zip(class_names, decision.classes, strict=True), start=1):
        largest = "none" if one.max_area is None else str(one.max_area)
        lines.append(
            f"  {f'{k} {name}':<{width}}  {one.pixel_threshold / 255:>7.3f}  {one.label_threshold / 255:>7.3f}  "
            f"{one.min_area:>8}  {largest:>8}"
        )
    return lines


def flat_scalars(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """`a.b` and value for all that is not a list; what is nested deeper than two levels is left to --json."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and not prefix:
            found += flat_scalars(value, f"{name}.")
        elif isinstance(value, str | int | float):
            found.append((prefix + name, value))
    return found


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)
