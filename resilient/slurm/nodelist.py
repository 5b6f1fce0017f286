"""Lists of nodes as SLURM writes them: ``n[1-3,7],gpu-[01-04]``, several brackets in a name included."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

_MOST = 65_536  # SLURM's own limit of nodes
_NAME = re.compile(r"[A-Za-z0-9_.\-]*")
_RANGE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")


def expand(text: str) -> tuple[str, ...]:
    """All names, in the order in which SLURM counts them.

    :raises ValueError: it is no such list, or names too many nodes.
    """
    names: list[str] = []
    for item in _items(text):
        names.extend(itertools.islice(_expanded(item), _MOST + 1 - len(names)))
        if len(names) > _MOST:
            raise ValueError(f"{text[:80]!r} names more than {_MOST} nodes")
    return tuple(names)


def join(names: Iterable[str]) -> str:
    """A list that SLURM reads, each name once."""
    return ",".join(dict.fromkeys(names))


def _items(text: str) -> Iterator[str]:
    """The parts between the commas that are not inside brackets."""
    depth, start = 0, 0
    for at, character in enumerate(text):
        depth += (character == "[") - (character == "]")
        if not 0 <= depth <= 1:
            raise ValueError(f"{text[:80]!r}: the brackets do not match")
        if character == "," and depth == 0:
            yield text[start:at].strip()
            start = at + 1
    if depth:
        raise ValueError(f"{text[:80]!r}: a bracket is not closed")
    if text.strip():
        yield text[start:].strip()


def _expanded(item: str) -> Iterator[str]:
    pieces = re.split(r"\[([^\]]*)\]", item)  # names at even places, what was in brackets at odd ones
    if not item or not all(_NAME.fullmatch(name) for name in pieces[::2]):
        raise ValueError(f"{item[:80]!r} is no name of a node")
    choices = [_numbers(piece) if at % 2 else [piece] for at, piece in enumerate(pieces)]
    return ("".join(parts) for parts in itertools.product(*choices))


def _numbers(text: str) -> list[str]:
    found: list[str] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"[{text[:80]}] is no list of numbers")
        first, last = match[1], match[2] or match[1]
        if int(last) < int(first) or int(last) - int(first) >= _MOST:
            raise ValueError(f"[{text[:80]}] is no range of nodes")
        found += [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
    return found
