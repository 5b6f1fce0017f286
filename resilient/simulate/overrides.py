"""``key=value`` on the command line, as a change of a plan. Keys of the sections have a dot, as in a configuration."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import yaml

from resilient.errors import ConfigurationError, UsageError
from resilient.simulate.plan import Plan
from resilient.simulate.presets import PRESETS

_Settings = TypeVar("_Settings")
_CHOICE = "cluster"


def planned(overrides: Sequence[str]) -> Plan:
    """The plan that is asked for: a preset, if one is, and what is changed in it.

    :raises UsageError: something is no ``key=value``.
    :raises ConfigurationError: there is no such preset or key, or the value is not one of it.
    """
    given = [_split(text) for text in overrides]
    named = [value for key, value in given if key == _CHOICE]
    plan = PRESETS[_known(named[-1], PRESETS, "preset of clusters")] if named else Plan()
    for key, value in given:
        plan = plan if key == _CHOICE else _changed(plan, key.split("."), value, key)
    return plan


def _split(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UsageError(f"{text} is no key=value", "for example: resilient simulate cluster=llama3 gpus=16384")
    return key, value


def _changed(settings: _Settings, path: Sequence[str], text: str, key: str) -> _Settings:
    kinds = typing.get_type_hints(type(settings))
    name = _known(path[0], (field.name for field in dataclasses.fields(typing.cast("Any", settings))), "setting", key)
    old = getattr(settings, name)
    if dataclasses.is_dataclass(old) and not isinstance(old, type):
        if len(path) == 1:
            raise ConfigurationError(f"{key} is a section", f"for example {key}.{dataclasses.fields(old)[0].name}=…")
        return _with(settings, name, _changed(old, path[1:], text, key))
    if len(path) > 1 and not isinstance(old, dict):
        raise ConfigurationError(f"{key}: {name} has no parts")
    if isinstance(old, dict):
        if len(path) != 2:
            raise ConfigurationError(f"{key} is a mapping", f"for example {key}.name=value")
        return _with(settings, name, {**old, path[1]: _value(text, float, key)})
    return _with(settings, name, _value(text, kinds[name], key))


def _with(settings: _Settings, name: str, value: Any) -> _Settings:
    return typing.cast("_Settings", dataclasses.replace(typing.cast("Any", settings), **{name: value}))


def _value(text: str, kind: type, key: str) -> Any:
    value = text if kind is str else yaml.safe_load(text)
    if isinstance(value, str) and kind in (int, float):  # YAML 1.1 reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            value = None
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not kind:
        raise ConfigurationError(f"{key} must be of type {kind.__name__}, not {text!r}")
    return value


def _known(name: str, names: Iterable[str], what: str, key: str = "") -> str:
    known = list(names)
    if name not in known:
        close = difflib.get_close_matches(name, known, 1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"there are: {', '.join(known)}"
        raise ConfigurationError(f"{key or name} is no {what}", hint)
    return name
