"""Pieces of Markdown that several pages are made of."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell is escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join("| " + " | ".join(cell(text) for text in line) + " |" for line in lines)


def cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\|", " ".join(text.split()))


def code(text: str) -> str:
    """Text as code, whatever is in it."""
    return f"`{text}`" if "`" not in text else f"`` {text} ``"


def fenced(text: str, language: str = "text") -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def front_matter(title: str, description: str, *, hide: str = "") -> str:
    """How a page begins.

    :param hide: what the theme is to leave out, such as ``toc``.
    """
    hidden = f"hide: [{hide}]\n" if hide else ""
    return f"---\ntitle: {title}\ndescription: {description}\n{hidden}---\n\n# {title}\n"
