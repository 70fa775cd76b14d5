"""The reasons of a derived recipe, kept true when options change it."""

from dataclasses import replace
from typing import Any

from steel.config import Config
from steel.plain import to_dict

_NETWORK = ("model.encoder", "model.architecture")
_MADE_FOR = {
    "phases.0.lr": ("model.encoder",),
    "phases.0.batch-size": ("phases.0.epochs",),
    "phases.1.epochs": ("phases.0.epochs",),
    "phases.1.batch-size": ("phases.0.batch-size",),
    "phases.1.lr": ("phases.0.lr", "model.encoder"),
    "validation.every-epochs": ("phases.0.epochs",),
    "phases.0.sampling.order": ("phases.0.epochs",),
    "phases.0.sampling.defect-crop": ("phases.0.crop",),
    "augment.rotate90": ("phases.0.crop",),
    **{f"phases.{n}.micro-batch": (*_NETWORK, f"phases.{n}.crop", f"phases.{n}.batch-size") for n in (0, 1)},
}
"""Options whose reasons speak of what others are."""


def explain_changes(derived: Config, final: Config) -> Config:
    """`final` with reasons that are true of it: where options have changed what was derived, or what that was derived
    for, they say so."""
    before, after = _leaves(to_dict(derived)), _leaves(to_dict(final))
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    told = {}
    for name, reason in derived.reasons.items():
        others = [other for other in _MADE_FOR.get(name, ()) if other in changed]
        if any(leaf == name or leaf.startswith(f"{name}.") for leaf in changed):
            told[name] = f"{_brief(after.get(name))}, as given (auto: {reason})"
        elif others:
            former = " and ".join(f"{other} {_brief(before.get(other))}" for other in others)
            told[name] = f"{reason}; chosen for {former}, now given otherwise"
        else:
            told[name] = reason
    return replace(final, reasons=told)


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


def _brief(value: Any) -> str:
    if value is None:
        return "another value"
    if value == [0, 0]:
        return "the whole image"
    return f"{value[0]}x{value[1]}" if isinstance(value, list) and len(value) == 2 else str(value)
