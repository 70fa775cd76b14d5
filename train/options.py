"""The configuration as options: what a table has by name is an option, or a choice, of that name.

tyro makes options of dataclasses; the rule here tells it of the fields whose entries are the names of a table.
"""

import ast
import dataclasses
import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from steel.config import Config, LossConfig
from steel.errors import InputError
from steel.model.heads import CLASSIFICATION, SEGMENTATION
from steel.model.losses import LOSS_TERMS, check_terms


class Named(Protocol):
    """What stands in a table."""

    @property
    def meaning(self) -> str:
        """In a few words, for `--help`."""
        ...


INLINE_ENTRIES: Mapping[tuple[type, str], tuple[Mapping[str, Named], type, Any]] = {
    (LossConfig, "weights"): (LOSS_TERMS, float, 0.0),
}
"""Fields that are mappings from names of a table, an option each: the table, the entries' type, and what stands where
the configuration has no entry."""


def build_registry() -> ConstructorRegistry:
    """tyro's rules, with ours before them."""
    registry = ConstructorRegistry()
    registry.struct_rule(_by_name)
    return registry


def check_names(config: Config) -> None:
    """Raises InputError unless what the configuration names is there and goes together."""
    heads = (SEGMENTATION, CLASSIFICATION, *config.model.heads)
    for phase in config.phases:
        check_terms(phase.loss, heads, f"phase {phase.name}")
    for head in config.model.heads:
        terms = [name for name, term in LOSS_TERMS.items() if term.head == head]
        if not any(name in phase.loss.weights for phase in config.phases for name in terms):
            options = ", ".join(f"--phases.N.loss.{name}" for name in terms) or "a term for it in LOSS_TERMS"
            raise InputError(f"model.heads: {head} learns nothing in any phase; give {options} a weight above 0")


def _by_name(info: StructTypeInfo) -> StructConstructorSpec | None:
    """The options of a dataclass of the configuration some of whose fields are mappings from names of a table."""
    kind = info.type
    inline = {name for owner, name in INLINE_ENTRIES if owner is kind}
    if not inline:
        return None

    def build(**values: Any) -> Any:
        for name in inline:
            values[name] = {entry: values.pop(entry) for entry in INLINE_ENTRIES[kind, name][0]}
        return kind(**values)

    return StructConstructorSpec(build, tuple(_options(kind, info.default)))


def _options(kind: type, default: Any) -> Iterator[StructFieldSpec]:
    """One for each field of a dataclass, or for each entry that it may have, with the values of `default`."""
    hints, meanings = typing.get_type_hints(kind), _meanings(kind)
    for field in dataclasses.fields(kind):
        value = getattr(default, field.name, field.default)
        if (kind, field.name) not in INLINE_ENTRIES:
            yield StructFieldSpec(field.name, hints[field.name], value, meanings.get(field.name))
            continue
        table, entry_kind, absent = INLINE_ENTRIES[kind, field.name]
        for name, entry in table.items():
            given = value.get(name, absent) if isinstance(value, Mapping) else absent
            yield StructFieldSpec(name, entry_kind, given, entry.meaning)


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
