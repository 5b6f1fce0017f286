"""A run's configuration as it may be shown to others."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from resilient.protocol.paths import RunPaths

HIDDEN = "(not shown)"
_SECRET = re.compile(
    r"secret|token$|passw|passphrase|credential|signature|authorization|cookie|jwt|(^|[_-])key$|apikey", re.IGNORECASE
)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_LEFT_OUT = ("trackers",)
_VALUES_HIDDEN = ("worker.env", "remote.options")


def shown_config(paths: RunPaths) -> dict[str, Any]:
    """The configuration that the run was started with, without what may be a secret."""
    try:
        tree = yaml.safe_load(paths.config.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return redacted(tree) if isinstance(tree, Mapping) else {}


def redacted(tree: Mapping[str, Any], path: str = "") -> dict[str, Any]:
    """Values whose names sound like secrets are hidden, and so are logins in URLs."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{path}{key}"
        if name in _LEFT_OUT:
            continue
        if path.rstrip(".") in _VALUES_HIDDEN or _SECRET.search(str(key)):
            found[str(key)] = HIDDEN
        elif isinstance(value, Mapping):
            found[str(key)] = redacted(value, f"{name}.")
        else:
            found[str(key)] = _arguments(value) if isinstance(value, list) else _plain(value)
    return found


def _plain(value: Any) -> Any:
    return _LOGIN.sub("…@", value) if isinstance(value, str) else value


def _arguments(values: list[Any]) -> list[Any]:
    """A list may be a command line: ``--token X`` and ``--token=X``."""
    shown: list[Any] = []
    hide = False
    for value in values:
        option, equals, _ = str(value).partition("=")
        is_secret = str(value).startswith("-") and bool(_SECRET.search(option))
        if hide and not str(value).startswith("-"):
            shown.append(HIDDEN)
        else:
            shown.append(f"{option}={HIDDEN}" if is_secret and equals else _plain(value))
        hide = is_secret and not equals
    return shown
