"""The configuration reference, from the settings classes that the schema is made of.

Bounds stand nowhere but in the checks of those classes. So each number is set to what no setting allows, and what the
check says of it is written down.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

from generate.docstrings import Docstring
from generate.markup import code, fenced, front_matter, table
from resilient.config import _PER_LAUNCH, Config, builtin_directory, load
from resilient.errors import ConfigurationError

_INTRODUCTION = """
`conf=` takes a built-in name, a name in `./conf`, or a path to a YAML file. What the file does not say keeps its
default. Any key can be changed on the command line, in [Hydra's
grammar](https://hydra.cc/docs/advanced/override_grammar/basic):

```console
$ resilient train conf=demo train.lr=1e-3 snapshot.every_steps=50    # change values
$ resilient train conf=demo +train.mine=0.2 --cfg job                # add a key of your script's; print it all and stop
$ resilient train conf=demo --multirun train.lr=1e-3,1e-4            # one run for each value
```

An unknown key, a value of the wrong type and a combination that cannot work are refused before anything starts, with
exit code 78 and the nearest key that exists. A run keeps the configuration it was started with in `config.yaml`;
another one is refused (79) unless `run.allow_drift=true`, except for the keys marked *may change*.
"""

_EXTREMES = (-1, -(10**12), 10**12, 0, 65535.5)
_SAID = re.compile(r"^(?P<subject>.*) must (?:be |lie )?(?P<bound>.+?)(?:, not .*)?$", re.DOTALL)
_VALUE = re.compile(r"=[\d.]+")  # of the other key that a bound depends on
_POWER = re.compile(r"\b1e([+-]\d+)")
_TEN_TO = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_LONGEST_DEFAULT = 60


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of the configuration.

    :param path: with dots; ``NAME`` stands for a name that the user chooses.
    :param kind: its type, as Markdown.
    """

    path: str
    kind: str
    default: str
    text: str
    bounds: str = ""
    may_change: bool = False


def page() -> str:
    parts = [front_matter("Configuration", "Every key of the configuration, from the schema."), _INTRODUCTION]
    documented = Docstring.of(Config)
    types = typing.get_type_hints(Config)
    short = [_key(Config, item.name, "", documented) for item in _plain_fields(Config)]
    for item in dataclasses.fields(Config):
        if dataclasses.is_dataclass(types[item.name]):
            parts += [f"## {item.name} {{ #{item.name} }}\n", _section(types[item.name], item.name)]
    parts += ["## Several nodes, and short forms { #short }\n", *map(_entry, short), _presets(), _built_in()]
    return "\n".join(parts)


def all_keys() -> Iterator[Key]:
    """All keys, those of sections that are chosen by name once, with ``NAME`` in its place."""
    for item in dataclasses.fields(Config):
        kind = typing.get_type_hints(Config)[item.name]
        if dataclasses.is_dataclass(kind):
            yield from _keys(kind, item.name)
        else:
            yield _key(Config, item.name, "", Docstring.of(Config))


def _section(kind: Any, path: str) -> str:
    """A section: what it is, its own keys, and then the sections in it."""
    documented = Docstring.of(kind)
    parts = [re.sub(r";? ?the section `[\w.]+`( of the configuration)?", "", documented.text), ""]
    parts += [_entry(_key(kind, item.name, path, documented)) for item in _plain_fields(kind)]
    for name, inner in _inner(kind):
        where = f"{path}.{name}"
        said = documented.param(name.partition(".")[0])
        parts += [f"### `{where}` {{ #{where} }}\n", f"*{said.rstrip('.')}.*\n" if said else "", _section(inner, where)]
    return "\n".join(parts)


def _keys(kind: Any, path: str) -> Iterator[Key]:
    documented = Docstring.of(kind)
    yield from (_key(kind, item.name, path, documented) for item in _plain_fields(kind))
    for name, inner in _inner(kind):
        yield from _keys(inner, f"{path}.{name}")


def _inner(kind: Any) -> Iterator[tuple[str, Any]]:
    """The sections in a section: those that have a name, and those that the user names."""
    types = typing.get_type_hints(kind)
    for item in dataclasses.fields(kind):
        inner = types[item.name]
        if dataclasses.is_dataclass(inner):
            yield item.name, inner
        elif _named_sections(inner):
            yield f"{item.name}.NAME", typing.get_args(inner)[1]


def _named_sections(kind: Any) -> bool:
    return typing.get_origin(kind) is dict and dataclasses.is_dataclass(typing.get_args(kind)[1])


def _plain_fields(kind: Any) -> list[dataclasses.Field[Any]]:
    types = typing.get_type_hints(kind)
    return [
        item
        for item in dataclasses.fields(kind)
        if not dataclasses.is_dataclass(types[item.name]) and not _named_sections(types[item.name])
    ]


def _key(kind: Any, name: str, section: str, documented: Docstring) -> Key:
    item = next(item for item in dataclasses.fields(kind) if item.name == name)
    made = item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default
    path = f"{section}.{name}" if section else name
    wanted = typing.get_type_hints(kind)[name]
    numeric = wanted in (int, float)
    return Key(
        path,
        _type(wanted),
        _written(made),
        documented.param(name),
        bounds(path) if numeric else "",
        _PER_LAUNCH.fullmatch(path) is not None,
    )


def _entry(key: Key) -> str:
    default = key.default if len(key.default) <= _LONGEST_DEFAULT else f"{key.default[:_LONGEST_DEFAULT]}…"
    facts = [key.kind, f"default {code(default)}"]
    facts += [key.bounds] if key.bounds else []
    facts += ["*may change*"] if key.may_change else []
    text = key.text[:1].upper() + key.text[1:]
    about = f'<div class="facts" markdown>{" · ".join(facts)}</div>'
    return f"#### `{key.path}` {{ #{key.path} .key }}\n\n{about}\n\n{text}\n"


def _type(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " or ".join(code(member.value) for member in kind)
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", Any: "in several forms"}
    if kind in names:
        return names[kind]
    inner = [_type(argument) for argument in typing.get_args(kind) if argument is not Any]
    if typing.get_origin(kind) is dict:
        return f"mapping of {' to '.join(inner)}" if len(inner) == 2 else "mapping"
    return f"list of {inner[0]}"


def _written(value: Any) -> str:
    """A default as it would be written in YAML."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, list):
        return f"[{', '.join(map(_written, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {_written(item)}" for name, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) and value < 1e6 else str(value)


@functools.cache
def _sample() -> Config:
    return load("demo", []).config


@functools.cache
def bounds(path: str) -> str:
    """What the checks say of a number that is too small or too large; empty where they let everything pass."""
    said = dict.fromkeys(filter(None, (_objection(path, value) for value in _EXTREMES)))
    return ", ".join(said)


def _objection(path: str, value: float) -> str:
    parts = path.replace(".NAME.", ".loss.").split(".")
    try:
        _replaced(_sample(), parts, value)
    except ConfigurationError as error:
        match = _SAID.match(error.problem)
        if match is None or not (".".join(parts[-2:]) in match["subject"] or "≤" in match["bound"]):
            return ""  # it is another key that cannot be with this value of this one
        bound = match["bound"].replace("not be negative", "at least 0")
        return _POWER.sub(lambda power: f"10{str(int(power[1])).translate(_TEN_TO)}", _VALUE.sub("", bound))
    except (TypeError, ValueError):  # a whole number is wanted
        return ""
    return ""


def _replaced(settings: Any, parts: list[str], value: float) -> Any:
    first, rest = parts[0], parts[1:]
    if isinstance(settings, dict):
        return {**settings, first: _replaced(settings[first], rest, value)}
    inner = getattr(settings, first)
    if not rest and isinstance(inner, int):
        value = int(value)
    return dataclasses.replace(settings, **{first: _replaced(inner, rest, value) if rest else value})


def _presets() -> str:
    files = sorted((builtin_directory("conf") / "divergence").glob("*.yaml"))
    parts = ["## Presets of `divergence` { #presets }\n"]
    for file in files:
        parts += [f"`divergence={file.stem}`:\n", fenced(file.read_text(), "yaml"), ""]
    return "\n".join(parts)


def _built_in() -> str:
    files = sorted(builtin_directory("conf").glob("*.yaml"))
    rows = [(code(f"conf={file.stem}"), _first_comment(file)) for file in files]
    return "\n## Built-in configurations { #built-in }\n\n" + table(("name", "what"), rows) + "\n"


def _first_comment(file: Path) -> str:
    return file.read_text().splitlines()[0].removeprefix("# ")
