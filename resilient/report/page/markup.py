"""HTML whose text is escaped unless it is known to be markup: what a run is called, or says, is never run itself."""

from __future__ import annotations

import html
import json
from typing import Any

_VOID = frozenset({"meta", "line", "rect", "path", "polyline", "input", "br"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """An element. Children that are no markup are text; attributes that are None are left out, those that are True have
    no value; ``class_`` and ``for_`` are the ones without the underscore, and underscores inside are hyphens.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items() if value is not None)
    if name in _VOID and not children:
        return Markup(f"<{name}{written}>" if name in {"meta", "input", "br"} else f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{together(*children)}</{name}>")


def together(*children: object) -> Markup:
    """Several pieces, one after the other."""
    return Markup("".join(_text(child) for child in children if child is not None))


def data_block(identity: str, body: Any) -> Markup:
    """JSON for the page's own script, in which nothing can end the element."""
    text = json.dumps(body, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(f'<script type="application/json" id="{html.escape(identity)}">{text}</script>')


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'


def _text(child: object) -> str:
    return child if isinstance(child, Markup) else html.escape(str(child))
