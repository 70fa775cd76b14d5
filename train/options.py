"""The configuration as options: what a table has by name is an option, or a choice, of that name.

tyro makes options of dataclasses; the rule here tells it of the fields whose entries are the names of a table.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import io
import itertools
import re
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import tyro
from tyro import MISSING
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from steel.commands.common import say_unknown
from steel.config import Config, DistillConfig, LossConfig, PhaseConfig, TrackingConfig, TransformConfig
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


_NO_OPTIONS = ((Config, "preset"), (Config, "extensions"), (Config, "reasons"), (DistillConfig, "identity"))
"""Fields that the program fills; `--preset` is an option of its own, by which all others have their defaults."""


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def build_registry() -> ConstructorRegistry:
    """tyro's rules, with ours before them."""
    clashes = sorted(LOSS_TERMS.keys() & {field.name for field in dataclasses.fields(LossConfig)})
    if clashes:
        raise InputError(f"a loss term is called {clashes[0]}, as a setting of the losses is; give it another name")
    registry = ConstructorRegistry()
    registry.struct_rule(_by_name)
    return registry


def parse_fields(program: str, default: Config, words: Sequence[str], others: Iterable[str] = ()) -> Config:
    """`default` with the fields that `words` name.

    Args:
        program: its name.
        default: what is not named stays.
        words: of the command line.
        others: options that the program takes besides, which an unknown one may come nearest to.

    Raises:
        InputError: an unknown name, with those that are nearest, or a value that its field refuses or that has no
            effect beside the others.
    """
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told):
            config, unknown = tyro.cli(
                Config, default=default, args=words, prog=program, return_unknown_args=True, registry=build_registry()
            )
    except SystemExit as error:
        if not error.code:
            raise
        raise InputError(f"{_line_of(told.getvalue())}; --help lists the options") from error
    if unknown:
        names = [*others, *option_names(default)]
        raise InputError(f"{say_unknown(unknown[0], names)}; --help lists the options")
    _check_effects(default, config)
    return config


def _check_effects(default: Config, config: Config) -> None:
    """See that what differs from `default`, which a user has asked for, has an effect; what a preset says may lose it.

    Of augmentations `_build_augment` sees to it, of losses `check_terms`.

    Raises:
        InputError: it has none.
    """
    if config.distill.share != default.distill.share and not config.distill.teacher:
        raise InputError(
            f"distill.share: {config.distill.share:g} has no effect without a teacher; give --distill.teacher, or "
            "leave it out"
        )
    for number, (former, phase) in enumerate(zip(default.phases, config.phases, strict=True)):
        for name in find_schedule(phase).ignores:
            if getattr(phase, name) != getattr(former, name):
                others = " or ".join(other for other, schedule in SCHEDULES.items() if name not in schedule.ignores)
                raise InputError(
                    f"phases.{number}.{name.replace('_', '-')}: {getattr(phase, name):g} has no effect with the "
                    f"schedule {phase.schedule}; give --phases.{number}.schedule {others}, or leave it out"
                )


def option_names(value: Any, prefix: str = "--") -> Iterator[str]:
    """Every option of a part of the configuration, under the prefix of that part."""
    if isinstance(value, tuple) and value and all(map(dataclasses.is_dataclass, value)):
        parts = {str(number): item for number, item in enumerate(value)}
    elif isinstance(value, _Augment):
        parts = {spec.name: spec.default for spec in _entries(ENTRIES[_Augment], value)}
    elif dataclasses.is_dataclass(value):
        parts = {spec.name: spec.default for spec in _options(type(value), value)}
    else:
        yield prefix.removesuffix(".")
        return
    for name, part in parts.items():
        yield from option_names(part, f"{prefix}{name.replace('_', '-')}.")


def _line_of(box: str) -> str:
    """What tyro says in its box, between the title and the next rule or gap, as a line."""
    rows = [_COLOUR.sub("", row).strip("│ ") for row in box.splitlines()]
    rules = [number for number, row in enumerate(rows) if re.search("[─-]{3}", row)]
    said = " ".join(itertools.takewhile(bool, rows[rules[0] + 1 : rules[1]])) if len(rules) > 1 else " ".join(rows)
    said = said.removeprefix("Error parsing ").removesuffix(".").strip()
    said = said.removeprefix(f"{Config.__name__}: ")  # tyro's name for what is of no one part
    part, _, reason = said.partition(": ")
    group = re.match(r"[a-z][\w-]*(?=[.:])", reason)
    if group is None or group[0] not in part.split("."):
        return said
    return part + reason[group.end() :]  # `phases.0.loss: loss.bce: ...` is of one option, phases.0.loss.bce


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
        build = functools.partial(_build_augment, given)
        return StructConstructorSpec(build, tuple(_entries(ENTRIES[_Augment], given)))
    if info.type is Config:
        of_preset = functools.partial(Config, preset=info.default.preset)
        return StructConstructorSpec(of_preset, tuple(_options(Config, info.default)))
    if info.type is LossConfig:
        return StructConstructorSpec(_build_loss, tuple(_options(LossConfig, info.default)))
    if isinstance(info.type, type) and dataclasses.is_dataclass(info.type):
        return StructConstructorSpec(info.type, tuple(_options(info.type, info.default)))
    return None


def _build_loss(**values: Any) -> LossConfig:
    weights = {name: values.pop(name) for name in LOSS_TERMS}
    return LossConfig(weights, **values)


def _build_augment(former: Mapping[str, TransformConfig], **values: TransformConfig) -> _Augment:
    """The mapping, before what is off is left out of it.

    Raises:
        InputError: a strength that a user has asked for, of what is off or has none.
    """
    for name, given in values.items():
        if given.strength == former.get(name, ENTRIES[_Augment].absent).strength:
            continue
        option = f"augment.{name.replace('_', '-')}"
        if not TRANSFORMS[name].has_strength:
            raise InputError(f"{option}.strength: {given.strength:g} has no effect: it has no strength; leave it out")
        if given.p == 0:
            raise InputError(
                f"{option}: a strength of {given.strength:g} has no effect while {option}.p is 0; give --{option}.p "
                "above 0, or leave the strength out"
            )
    return _Augment(values)


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
