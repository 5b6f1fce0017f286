"""What stands on the pages: their blocks of code, the commands in them, and the keys that are named in the text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted(DOCS.rglob("*.md"))]
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")


def blocks(text: str, kind: str) -> list[str]:
    """The blocks of code of one kind."""
    return [match["text"] for match in _BLOCK.finditer(text) if match["kind"] == kind]


def inline(text: str) -> list[str]:
    """What is written as code in the text."""
    return _CODE.findall(_BLOCK.sub("", text))


def links(page: Path) -> Iterator[tuple[Path, str]]:
    """The files that a page links to, each with the anchor in it."""
    for target in re.findall(r"\]\(([^)\s]+)\)", _BLOCK.sub("", page.read_text())):
        if "://" not in target:
            path, _, anchor = target.partition("#")
            yield (page.parent / path).resolve() if path else page, anchor


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as a page of a repository has them."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def side(diff: str, without: str) -> str:
    """One side of a diff."""
    lines = [line for line in diff.splitlines() if not line.startswith(without)]
    assert all(line[:1] in {"", " ", "+", "-"} for line in lines), "every line has its sign"
    return "\n".join(line[1:] for line in lines) + "\n"


def commands(text: str) -> Iterator[list[str]]:
    """The words after ``resilient`` of each command on a page, in blocks and in the text."""
    lines = [line for kind in ("console", "sh", "bash") for block in blocks(text, kind) for line in block.splitlines()]
    for line in [*lines, *inline(text)]:
        found = re.search(r"(?:^|\$ |srun .* |^ +)resilient (?=[a-z-])(?P<rest>.*)", line)
        if found:
            words = shlex.split(re.sub(r"\s+# .*", "", found["rest"]), comments=False)
            yield words[: next((n for n, word in enumerate(words) if word in {";", "|", "&&"}), None)]
