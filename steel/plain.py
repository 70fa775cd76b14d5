"""Dataclasses as plain JSON values and back, so that what a file says is believed only once every type is right."""

import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from steel.errors import InputError

T = TypeVar("T")
INLINE = {"inline": True}
"""Metadata of a dataclass's field that is a mapping whose entries stand among the other fields, in JSON as among
options."""
_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def parse_json(data: bytes | str) -> Any:
    """The value of a JSON text.

    Raises:
        InputError: no JSON in UTF-8; says what is wrong, not where.
    """
    try:
        return json.loads(data if isinstance(data, str) else data.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InputError(f"not JSON: {error}") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def to_dict(instance: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values (tuples become lists)."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            own = {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
            inline = inline_field(type(value))
            return own if inline is None else own.pop(inline) | own
        if isinstance(value, Mapping):
            return {name: plain(item) for name, item in value.items()}
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    return plain(instance)


def from_plain(kind: Any, values: Any, name: str) -> Any:
    """`values` as a `kind` of dataclasses, lists, tuples, dicts, unions and scalars; see `from_dict`.

    Args:
        kind: the type, as an annotation has it.
        values: any that JSON can hold.
        name: of the values, for the error.
    """
    return _build(kind, values, name)


def from_dict(cls: type[T], values: Any) -> T:
    """The inverse of `to_dict`, for any values that JSON can hold; validates as construction does.

    Fields with a default must be there like all others: what a file lost is not what it never said.

    Raises:
        InputError: an unknown or missing field, a value of another type, or one that the dataclass refuses; names the
            field as the file spells it, and not the class, which says nothing to whoever wrote the file.
    """
    return _build(cls, values, "")


def _build(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type `kind`; `path` names it, nothing for the whole."""
    if kind is Any:
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _build_union(arguments, value, path)
    if origin is Literal:
        if not any(value == a and type(value) is type(a) for a in arguments):
            raise InputError(f"{path} must be one of {', '.join(map(str, arguments))}, not {_shown(value)}")
        return value
    if origin in (tuple, list):
        return _build_sequence(origin, arguments, value, path)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            raise InputError(f"{path} must be an object, not {_shown(value)}")
        return {key: _build(arguments[1], item, f"{path}.{key}") for key, item in value.items()}
    return _build_scalar(kind, value, path)


def _build_union(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    """`value` as the first of `kinds` that takes it; the errors of all when none does."""
    if value is None and types.NoneType in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is not types.NoneType:
            try:
                return _build(kind, value, path)
            except InputError as error:
                errors.append(str(error))
    raise InputError("; or ".join(errors))


def _build_dataclass(kind: type, value: Any, path: str) -> Any:
    if not isinstance(value, dict):
        raise InputError(f"{path or 'it'} must be an object, not {_shown(value)}")
    kinds, inline = _fields_of(kind), inline_field(kind)
    if inline is not None:
        entries = {name: item for name, item in value.items() if name not in kinds}
        value = {inline: entries} | {name: item for name, item in value.items() if name in kinds and name != inline}
    where, prefix = (f"{path}: ", f"{path}.") if path else ("", "")
    unknown = sorted(value.keys() - kinds.keys())
    if unknown:
        raise InputError(f"{where}unknown field {', '.join(unknown[:5])}")
    missing = [name for name in kinds if name not in value]
    if missing:
        raise InputError(f"{where}the field {missing[0]} is missing")
    return kind(**{name: _build(kinds[name], item, prefix + name) for name, item in value.items()})


@functools.cache
def inline_field(kind: type) -> str | None:
    """The name of a dataclass's field with the metadata `INLINE`, if it has one."""
    return next((field.name for field in dataclasses.fields(kind) if field.metadata.get("inline")), None)


@functools.cache
def _fields_of(kind: type) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _build_sequence(origin: type, arguments: tuple[Any, ...], value: Any, path: str) -> Any:
    if not isinstance(value, list | tuple):
        raise InputError(f"{path} must be a list, not {_shown(value)}")
    if origin is list or arguments[-1] is Ellipsis:
        kinds = (arguments[0],) * len(value)
    elif len(value) != len(arguments):
        raise InputError(f"{path} must be a list of {len(arguments)}, not of {len(value)}")
    else:
        kinds = arguments
    return origin(_build(k, item, f"{path}.{at}") for at, (k, item) in enumerate(zip(kinds, value, strict=True)))


def _build_scalar(kind: Any, value: Any, path: str) -> Any:
    assert kind in _KINDS, kind
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind is float and is_number and abs(value) <= _LARGEST:
        return float(value)
    if kind is float or type(value) is not kind or (kind is str and not _is_text(value)):
        raise InputError(f"{path} must be {_KINDS[kind]}, not {_shown(value)}")
    return value


def _is_text(value: str) -> bool:
    """Whether `value` can be written: JSON may hold halves of characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


_LARGEST = 1.7e308
"""An integer beyond it is no float."""


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 40 else f"{text[:37]}..."
