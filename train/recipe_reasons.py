"""The reasons of a derived recipe, kept true when options change it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from steel.config import Config
from steel.plain import to_dict

_NETWORK = ("model.encoder", "model.architecture", "model.decoder-channels")
_MADE_FOR = {
    "phases.0.epochs": ("phases.0.sampling.defective-only",),
    "phases.0.sampling.order": ("phases.0.sampling.defective-only",),
    "phases.0.lr": ("model.encoder", "phases.0.warmup"),
    "phases.0.batch-size": ("phases.0.epochs", "phases.0.sampling.defective-only"),
    "phases.1.epochs": ("phases.0.epochs",),
    "phases.1.batch-size": ("phases.0.batch-size",),
    "phases.1.lr": ("phases.0.lr", "model.encoder"),
    "validation.every-epochs": ("phases.0.epochs",),
    "phases.0.sampling.defect-crop": ("phases.0.crop", "phases.0.sampling.zoom"),
    "phases.0.loss.batch-dice": ("phases.0.loss.bce", "phases.1.loss.batch-dice", "phases.1.loss.bce"),
    "phases.0.loss.absent": ("phases.0.loss.bce",),
    "augment.rotate90": ("phases.0.crop",),
    "model.decoder-channels": ("model.encoder", "model.architecture"),
    **{f"phases.{n}.micro-batch": (*_NETWORK, f"phases.{n}.crop", f"phases.{n}.batch-size") for n in (0, 1)},
}
"""Options whose reasons speak of what others are."""
_WHERE_SAID = {
    ("phases.0.crop", " of the"): ("phases.0.sampling.zoom",),
    ("phases.1.crop", "as they will be predicted"): ("tiling.budget", "phases.1.sampling.zoom"),
    ("phases.1.crop", "kB per pixel"): _NETWORK,
    ("phases.0.sampling.order", " would be drawn "): ("phases.0.epochs",),
}
"""The same of reasons that speak of them where they have those words."""


def explain_changes(derived: Config, final: Config) -> Config:
    """`final` with reasons that are true of it: where options have changed what was derived, or what that was derived
    for, they say so."""
    before, after = _leaves(to_dict(derived)), _leaves(to_dict(final))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    told = {}
    for name, reason in derived.reasons.items():
        others = [other for other in _made_for(name, reason) if other in changed]
        if any(leaf == name or leaf.startswith(f"{name}.") for leaf in changed):
            told[name] = f"{_given(name, after)}, as given (auto: {reason})"
        elif others:
            former = " and ".join(f"{other} {_brief(before.get(other))}" for other in others)
            told[name] = f"{reason}; chosen for {former}, now given otherwise"
        else:
            told[name] = reason
    return replace(final, reasons=told)


def _made_for(name: str, reason: str) -> list[str]:
    """The options that the reason of the option `name` speaks of, beside that."""
    where_said = [options for (of, words), options in _WHERE_SAID.items() if of == name and words in reason]
    return [option for options in (_MADE_FOR.get(name, ()), *where_said) for option in options]


def _leaves(values: Any, path: str = "") -> dict[str, Any]:
    """Dotted names, as options have them, to what is no mapping and no list of mappings."""
    if isinstance(values, list) and values and isinstance(values[0], dict):
        values = {str(number): item for number, item in enumerate(values)}
    if not isinstance(values, dict):
        return {path.replace("_", "-"): values}
    found: dict[str, Any] = {}
    for name, item in values.items():
        if name != "reasons":
            found |= _leaves(item, f"{path}.{name}".lstrip("."))
    return found


def _given(name: str, leaves: Mapping[str, Any]) -> str:
    """What an option is now, or each of a group; a loss term without a weight, or a transform that is off, has none."""
    if name in leaves:
        return _brief(leaves[name])
    group = {leaf.removeprefix(f"{name}."): value for leaf, value in leaves.items() if leaf.startswith(f"{name}.")}
    if group:
        return ", ".join(f"{part} {_brief(value)}" for part, value in group.items())
    return "0" if ".loss." in name else "off"


def _brief(value: Any) -> str:
    if value is None:
        return "the default"
    if not isinstance(value, list):
        return str(value)
    if value == [0, 0]:
        return "the whole image"
    if len(value) == 2 and all(isinstance(item, int) for item in value):  # of crops
        return f"{value[0]}x{value[1]}"
    return " ".join(f"{item:g}" for item in value)
