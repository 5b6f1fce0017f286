"""Docstrings as Markdown: their prose, and what they say of each parameter, attribute and error."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_FIELD = re.compile(r"^:(?P<kind>param|ivar|raises|returns?)(?: (?P<name>[\w.]+))?: (?P<text>.*)$")
_ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`(?P<name>[^`]+)`")
_LITERAL = re.compile(r"``(?P<text>[^`]+)``")
_EXAMPLE = re.compile(r"^(>>>|\.\.\.) ?")


@dataclass(frozen=True)
class Docstring:
    """A docstring in parts.

    :param text: its prose, as Markdown.
    :param fields: what is said of each ``param`` and so on, by its name, as Markdown.
    """

    text: str
    fields: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @classmethod
    def of(cls, item: Any) -> Docstring:
        return cls.parse(inspect.getdoc(item) or "")

    @classmethod
    def parse(cls, docstring: str) -> Docstring:
        prose: list[str] = []
        fields: dict[str, dict[str, str]] = {}
        current: tuple[str, str] | None = None
        for line in docstring.splitlines():
            if match := _FIELD.match(line):
                kind, name = match["kind"].removesuffix("s") if match["kind"] == "returns" else match["kind"], ""
                current = (kind, match["name"] or name)
                fields.setdefault(kind, {})[current[1]] = match["text"]
            elif current is not None and line.startswith("    "):
                fields[current[0]][current[1]] += f" {line.strip()}"
            elif line or current is None:
                current = None
                prose.append(line)
        said = {kind: {name: inline(text) for name, text in texts.items()} for kind, texts in fields.items()}
        return cls(_blocks(prose), said)

    @property
    def summary(self) -> str:
        """The first paragraph, in one line."""
        return " ".join(self.text.partition("\n\n")[0].split())

    def param(self, name: str) -> str:
        return self.fields.get("param", {}).get(name, "")


def inline(text: str) -> str:
    """Roles and literals of reStructuredText as Markdown's code."""
    text = _ROLE.sub(lambda match: f"`{match['name'].removeprefix('~').rpartition('.')[2]}`", text)
    return _LITERAL.sub(lambda match: f"`{match['text']}`", text)


def _blocks(lines: list[str]) -> str:
    """The prose; examples and what follows ``::`` become blocks of code."""
    out: list[str] = []
    code: list[str] = []
    literal = False
    for line in [*lines, ""]:
        if _EXAMPLE.match(line) or (literal and (line.startswith("    ") or (code and not line))):
            code.append(_EXAMPLE.sub("", line) if not literal else line.removeprefix("    "))
            continue
        if code:
            out += ["", "```python", *"\n".join(code).rstrip().splitlines(), "```", ""]
            code, literal = [], False
        if line.endswith("::"):
            literal, line = True, line[:-1]  # noqa: PLW2901  one colon is left
        out.append(inline(line))
    if code:
        out += ["", "```python", *"\n".join(code).rstrip().splitlines(), "```"]
    return "\n".join(out).strip()
