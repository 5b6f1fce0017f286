"""Sections of files that stand elsewhere in the repository, so that a page need not repeat them.

``<!-- section: README.md | Measured -->`` is replaced by what stands below that heading there, and
``<!-- section: benchmarks/README.md -->`` by the whole file below its title. Headings keep their order below the page's
own; links are made to lead to pages, or lose their link where there is none.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
_DIRECTIVE = re.compile(r"^<!-- section: (?P<file>[^|]+?)(?: \| (?P<heading>.+?))? -->$", re.MULTILINE)
_HEADING = re.compile(r"^(?P<level>#+) (?P<text>.+)$")
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")
_PAGES = {"benchmarks/README.md": "benchmarks.md"}


def included(markdown: str, page: str) -> str:
    """``markdown`` with its directives replaced.

    :param page: path of the page below ``docs``.
    """

    def replaced(match: re.Match[str]) -> str:
        text = (ROOT / match["file"]).read_text()
        body = section(text, match["heading"]) if match["heading"] else text.partition("\n")[2]
        return _relinked(body.strip(), posixpath.dirname(match["file"]), posixpath.dirname(page))

    return _DIRECTIVE.sub(replaced, markdown)


def section(text: str, heading: str) -> str:
    """What stands below a heading, down to the next of its level or a higher one.

    :raises LookupError: there is no such heading.
    """
    lines, level, fence = [], 0, False
    for line in text.splitlines():
        fence ^= line.startswith("```")
        match = None if fence else _HEADING.match(line)
        if match and match["text"] == heading:
            level = len(match["level"])
        elif match and level and len(match["level"]) <= level:
            break
        elif level:
            lines.append(line)
    if not level:
        raise LookupError(f"there is no section {heading!r}")
    return "\n".join(lines)


def _relinked(text: str, source: str, page: str) -> str:
    def replaced(match: re.Match[str]) -> str:
        target = match["target"]
        if "://" in target or target.startswith("#"):
            return match[0]
        path = posixpath.normpath(posixpath.join(source, target))
        found = _PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else "")
        return f"[{match['text']}]({posixpath.relpath(found, page or '.')})" if found else match["text"]

    return _LINK.sub(replaced, text)
