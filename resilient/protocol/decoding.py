"""Frozen dataclasses from plain JSON, by their type hints: the inverse of the journal's ``plain``."""

from __future__ import annotations

import collections.abc
import dataclasses
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any

_HINTS: dict[Any, dict[str, Any]] = {}
"""Of classes that were decoded: finding them out takes longer than all the rest, and some come many times a second."""


class NotDecodable(ValueError):  # noqa: N818  named by condition, as all our errors
    """A value is not what the type wants; the message names the field."""


def decode(kind: Any, value: Any, name: str = "") -> Any:
    """``value`` as a ``kind``: a dataclass, enumeration, tuple, mapping, set, union or plain type.

    Written by another version, it may have fields that are not known here, which are ignored, and lack some that have
    a default.

    :raises NotDecodable: it cannot be one.
    """
    origin = typing.get_origin(kind)
    if origin is typing.Union or origin is types.UnionType:
        return _one_of(typing.get_args(kind), value, name)
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast("type[Any]", kind), value, name)
    if origin is not None:
        return _container(origin, typing.get_args(kind), value, name)
    if kind is Any:
        return value
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(value)
        except ValueError as error:
            raise NotDecodable(f"{name or kind.__name__}: {value!r} is no {kind.__name__}") from error
    return _plain(kind, value, name)


def _dataclass(kind: type[Any], value: Any, name: str) -> Any:
    if not isinstance(value, Mapping):
        raise NotDecodable(f"{name or kind.__name__}: {value!r} is no {kind.__name__}")
    kind = _variant(kind, value)
    hints, found = _HINTS.get(kind) or _HINTS.setdefault(kind, typing.get_type_hints(kind)), dict[str, Any]()
    for field in dataclasses.fields(kind):
        if not field.init:
            continue
        if field.name in value:
            found[field.name] = decode(hints[field.name], value[field.name], f"{name}.{field.name}".lstrip("."))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise NotDecodable(f"{name or kind.__name__}: {field.name} is missing")
    return kind(**found)


def _variant(kind: type[Any], value: Mapping[str, Any]) -> type[Any]:
    """The subclass of ``kind`` that says in a field which nobody sets what ``value`` says there; else ``kind``."""
    for child in kind.__subclasses__():
        own = {field.name: field.default for field in dataclasses.fields(child) if not field.init}
        if own and all(value.get(name) == default for name, default in own.items()):
            return child
    return kind


def _one_of(kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    problems = []
    for kind in kinds:
        if kind is types.NoneType:
            if value is None:
                return None
            continue
        try:
            return decode(kind, value, name)
        except NotDecodable as error:
            problems.append(str(error))
    raise NotDecodable(problems[0] if len(problems) == 1 else f"{name}: {value!r} is nothing that it may be")


def _container(origin: Any, kinds: tuple[Any, ...], value: Any, name: str) -> Any:
    if origin in {dict, collections.abc.Mapping}:
        if not isinstance(value, Mapping):
            raise NotDecodable(f"{name}: {value!r} is no mapping")
        return {_key(kinds[0], key, name): decode(kinds[1], item, f"{name}.{key}") for key, item in value.items()}
    if not isinstance(value, (list, tuple)):
        raise NotDecodable(f"{name}: {value!r} is no list")
    if origin is tuple and not (len(kinds) == 2 and kinds[1] is Ellipsis):
        if len(kinds) != len(value):
            raise NotDecodable(f"{name}: {value!r} does not have {len(kinds)} items")
        return tuple(decode(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    return origin(decode(kinds[0], item, name) for item in value)


def _key(kind: Any, key: str, name: str) -> Any:
    try:
        return int(key) if kind is int else decode(kind, key, name)
    except ValueError as error:
        raise NotDecodable(f"{name}: {key!r} is no key of it") from error


def _plain(kind: Any, value: Any, name: str) -> Any:
    if kind is float and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        try:
            return float(value)  # those that are not finite are written as text
        except ValueError:
            pass
    elif kind is None or kind is types.NoneType:
        if value is None:
            return None
    elif isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    raise NotDecodable(f"{name}: {value!r} is no {getattr(kind, '__name__', kind)}")
