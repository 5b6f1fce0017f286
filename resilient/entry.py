"""What is trained, as it is named on the command line: ``script=train.py``, ``module=pkg.train``, and arguments.

The arguments reach the script as they were written. Hydra's grammar would take ``1e-3`` for a number and write it
``0.001``, ``true`` for a truth, and refuse ``--flag=value``; so these lists are read here instead, and so are paths
and regular expressions.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any

from resilient.errors import ConfigurationError

_LISTS = frozenset({"script_args", "worker.args", "worker.resume_args"})
_TEXTS = frozenset({"script", "module", "worker.script", "worker.module", "worker.step_pattern"})
_SLURM = frozenset(
    f"slurm.{key}" for key in ("partition", "time", "account", "qos", "gres", "mem", "array", "exclude", "constraint")
)
_EXIT_CODES = "worker.exit_codes"
_TABLES = ("worker.metrics.", f"{_EXIT_CODES}.")
_LONGEST_ID = 100
_OPENING, _CLOSING = "[({", "])}"


def is_verbatim(override: str) -> bool:
    """Whether an override is read here, and not by Hydra."""
    key, _, value = override.partition("=")
    known = key in _LISTS | _TEXTS | _SLURM or key.startswith(_TABLES) or key in {"worker.checkpoints", _EXIT_CODES}
    return known and "${" not in value


def take_verbatim(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Take what is read here out of ``overrides``: the values by key, and the overrides that are left.

    :raises ConfigurationError: a list is wanted, and there is none.
    """
    taken: dict[str, Any] = {}
    for text in filter(is_verbatim, overrides):
        key, _, value = text.partition("=")
        if key in _LISTS or (key == "worker.checkpoints" and value.startswith("[")):
            taken[key] = split_list(key, value)
        elif key == _EXIT_CODES:
            pairs = split_list(key, value, "{}")
            taken |= {
                f"{key}.{code.strip()}": meaning.strip() for code, _, meaning in (p.partition(":") for p in pairs)
            }
        else:
            taken[key] = _unquoted(value)
    return taken, [text for text in overrides if not is_verbatim(text)]


def _unquoted(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def split_list(key: str, text: str, ends: str = "[]") -> list[str]:
    """The items of ``[a, 'b, c', --d=e]``, word for word; quotes around an item, or a backslash, keep a comma.

    :raises ConfigurationError: it is no such list.
    """
    text = text.strip()
    if len(text) < 2 or text[0] + text[-1] != ends:
        remedy = f"write {key}=[--epochs,3], or put the arguments after --" if ends == "[]" else "write {3: stop}"
        raise ConfigurationError(f"{key}={text} is not written as a list {ends[0]}…{ends[1]}", remedy)
    items, item, depth, quote, quoted = [], "", 0, "", False
    characters = iter(text[1:-1])
    for character in characters:
        if character == "\\":
            following = next(characters, "")
            item += following if following in {",", "'", '"', "\\"} else character + following
        elif quote or (character in "'\"" and not item.strip()):
            quote, quoted = ("" if character == quote else quote or character), True
            item += "" if not quote or (character == quote and not item) else character
        elif character == "," and not depth:
            items.append(item if quoted else item.strip())
            item, quoted = "", False
        elif not (quoted and character == " "):
            depth += (character in _OPENING) - (character in _CLOSING)
            item += character
    if quote:
        raise ConfigurationError(f"{key}: a quote {quote} is not closed", "quotes around one item come in pairs")
    if item.strip() or quoted or items:
        items.append(item if quoted else item.strip())
    return items


def settle(body: MutableMapping[str, Any], given: Mapping[str, Any], arguments: Sequence[str]) -> bool:
    """Move ``script``, ``module`` and ``script_args`` into the section ``worker``, in place.

    :param given: what :func:`take_verbatim` took.
    :param arguments: what was written after ``--``.
    :returns: whether the script or module was named by the short key, so that the run takes its name from it.
    :raises ConfigurationError: two different things are named.
    """
    worker = body["worker"]
    for key, value in given.items():
        section, _, name = key.rpartition(".")
        if section == _EXIT_CODES:
            worker["exit_codes"][_exit_code(name)] = value
        else:
            {"": body, "worker": worker, "worker.metrics": worker["metrics"], "slurm": body["slurm"]}[section][name] = (
                value
            )
    short = {key: body.pop(key) for key in ("script", "module")}
    listed = body.pop("script_args")
    if short["script"] and short["module"]:
        raise ConfigurationError(f"both script={short['script']} and module={short['module']} are named", "name one")
    named = short["script"] or short["module"]
    if named and (other := worker["script"] or worker["module"]):
        raise ConfigurationError(f"{named} is named, and in the section worker {other}", "name one of them")
    worker.update({key: value for key, value in short.items() if value})
    if listed and worker["args"]:
        raise ConfigurationError("both script_args and worker.args are set", "set one of them; they mean the same")
    worker["args"] = [*listed, *worker["args"], *arguments]
    return bool(named)


def _exit_code(text: str) -> int:
    if not text.isdecimal():
        raise ConfigurationError(f"{_EXIT_CODES}: {text} is no exit code", "they are from 0 to 255")
    return int(text)


def run_id(worker: Mapping[str, Any], directory: Path | None = None) -> str:
    """A name for the run of a script: the same for the same script, another for another one in this directory.

    ``train.py`` gives ``train``, ``gan/train.py`` ``gan-train``; a script that lies elsewhere has a mark of its place.
    """
    if worker["module"]:
        return re.sub(r"[^A-Za-z0-9._-]", "-", worker["module"])[:_LONGEST_ID].strip("-._") or "module"
    directory = directory or Path.cwd()
    relative = os.path.relpath(worker["script"], directory)
    path = Path(relative).with_suffix("")
    parts, mark = path.parts, ""
    if path.is_absolute() or ".." in parts:
        mark = "-" + hashlib.sha256(os.path.abspath(directory / relative).encode()).hexdigest()[:6]  # noqa: PTH100
        parts = parts[-2:]
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(part for part in parts if part != ".."))
    return (name[-_LONGEST_ID:].strip("-._") or "script") + mark
