"""The configuration as options: what a table has by name is an option, or a choice, of that name.

tyro makes options of dataclasses; the rule here tells it of the fields whose entries are the names of a table.
"""

import ast
import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from tyro import MISSING
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from steel.config import Config, LossConfig, PhaseConfig, TrackingConfig, TransformConfig
from steel.errors import InputError
from steel.loading.augment import TRANSFORMS, check_transforms
from steel.model.heads import CLASSIFICATION, SEGMENTATION
from steel.model.losses import LOSS_TERMS, check_terms
from steel.model.lr_schedule import SCHEDULES, find_schedule
from steel.plain import inline_field
from steel.tracking.trackers import TRACKERS, find_tracker


class Named(Protocol):
    """What stands in a table."""

    @property
    def meaning(self) -> str:
        """In a few words, for `--help`."""
        ...


@dataclasses.dataclass(frozen=True)
class Entries:
    """Whose names are a mapping's keys, and what the mapping holds."""

    table: Mapping[str, Named]
    kind: type
    absent: Any
    """What a name is taken to have that the mapping lacks; what comes to that is left out of the mapping again."""


class _Augment(dict[str, TransformConfig]):
    """The type by which tyro tells this mapping from others."""


ENTRIES: Mapping[type, Entries] = {
    LossConfig: Entries(LOSS_TERMS, float, 0.0),
    _Augment: Entries(TRANSFORMS, TransformConfig, TransformConfig(p=0.0)),
}
"""Where options have the names of a table: among those of a loss, and in the mapping `augment`."""


CHOICES: Mapping[tuple[type, str], Mapping[str, Named]] = {
    (PhaseConfig, "schedule"): SCHEDULES,
    (TrackingConfig, "tracker"): TRACKERS,
}
"""Fields of the configuration whose value is a name of a table."""


_NO_OPTIONS = ((Config, "extensions"), (Config, "reasons"))
"""Fields that the program fills."""


def build_registry() -> ConstructorRegistry:
    """tyro's rules, with ours before them."""
    clashes = sorted(LOSS_TERMS.keys() & {field.name for field in dataclasses.fields(LossConfig)})
    if clashes:
        raise InputError(f"a loss term is called {clashes[0]}, as a setting of the losses is; give it another name")
    registry = ConstructorRegistry()
    registry.struct_rule(_by_name)
    return registry


def check_names(config: Config) -> None:
    """Raises InputError unless what the configuration names is there and goes together."""
    find_tracker(config.tracking.tracker)
    check_transforms(config.augment)
    heads = (SEGMENTATION, CLASSIFICATION, *config.model.heads)
    for phase in config.phases:
        check_terms(phase.loss, heads, f"phase {phase.name}")
        find_schedule(phase)
    for head in config.model.heads:
        terms = [name for name, term in LOSS_TERMS.items() if term.head == head]
        if not any(name in phase.loss.weights for phase in config.phases for name in terms):
            options = ", ".join(f"--phases.N.loss.{name}" for name in terms) or "a term for it in LOSS_TERMS"
            raise InputError(f"model.heads: {head} learns nothing in any phase; give {options} a weight above 0")


def _by_name(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The options of a part of the configuration, with texts that tyro may wrap anew; None of anything else."""
    if info.type is _Augment:
        given = info.default if isinstance(info.default, Mapping) else {}
        return StructConstructorSpec(_Augment, tuple(_entries(ENTRIES[_Augment], given)))
    if info.type is LossConfig:
        return StructConstructorSpec(_build_loss, tuple(_options(LossConfig, info.default)))
    if isinstance(info.type, type) and dataclasses.is_dataclass(info.type):
        return StructConstructorSpec(info.type, tuple(_options(info.type, info.default)))
    return None


def _build_loss(**values: Any) -> LossConfig:
    weights = {name: values.pop(name) for name in LOSS_TERMS}
    return LossConfig(weights, **values)


def _options(kind: type, default: Any) -> Iterator[StructFieldSpec]:
    """One for each field of a dataclass, with the values of `default`; an inline mapping has one for each name."""
    hints, meanings = typing.get_type_hints(kind), _meanings(kind)
    for field in dataclasses.fields(kind):
        if (kind, field.name) in _NO_OPTIONS:
            continue
        value = getattr(default, field.name, MISSING)
        if field.name == inline_field(kind):
            yield from _entries(ENTRIES[kind], value if isinstance(value, Mapping) else {})
        elif (kind, field.name) == (Config, "augment"):
            yield StructFieldSpec(field.name, _Augment, _Augment(value), meanings.get(field.name))
        elif (kind, field.name) in CHOICES:
            table = CHOICES[kind, field.name]
            meaning = "; ".join(f"{name}: {entry.meaning}" for name, entry in table.items())
            yield StructFieldSpec(field.name, Literal[tuple(table)], value, meaning)  # type: ignore[arg-type]
        else:
            yield StructFieldSpec(field.name, hints[field.name], value, meanings.get(field.name))


def _entries(entries: Entries, given: Mapping[str, Any]) -> Iterator[StructFieldSpec]:
    for name, entry in entries.table.items():
        yield StructFieldSpec(name, entries.kind, given.get(name, entries.absent), entry.meaning)


@functools.cache
def _meanings(kind: type) -> Mapping[str, str]:
    """The texts under a dataclass's fields."""
    body = ast.parse(inspect.getsource(kind)).body[0]
    assert isinstance(body, ast.ClassDef)
    return {
        field.target.id: " ".join(str(text.value.value).split())
        for field, text in zip(body.body, body.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
    }
