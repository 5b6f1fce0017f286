"""Numbers in what a script prints: the patterns that find them, and what keeps a bad pattern from doing harm."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from resilient.errors import ConfigurationError
from resilient.protocol.metrics_log import RESERVED

if sys.version_info >= (3, 11):
    from re import _constants as codes
    from re import _parser as parser  # type: ignore[attr-defined]  # private, and the only way to look into a pattern
else:
    import sre_constants as codes
    import sre_parse as parser

_VALIDATION = r"(?:test|val|valid|validation|eval|evaluation|dev|average|avg|mean|best)"
_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf)"
# Not in a line about a test, nor where the word before says what kind of loss it is; lookbehinds are of one width each.
LOSS = (
    rf"(?i)^(?!\W*{_VALIDATION}\b)(?!.*\btrain_runtime\b).*?(?<![a-z])"
    + "".join(
        rf"(?<!\b{word}[ _-])"
        for word in (
            "test",
            "val",
            "valid",
            "validation",
            "eval",
            "evaluation",
            "dev",
            "average",
            "avg",
            "mean",
            "best",
        )
    )
    + rf"loss(?:/train)?['\"\]]?(?:\s+is)?(?:\s*[:=]\s*|\s+)(?:tensor\(|['\"])?{_NUMBER}(?![\w.]*[a-z])"
)
"""The training loss, as the common scripts print it."""

_LONGEST_NAME = 64
_UNBOUNDED = (codes.MAX_REPEAT, codes.MIN_REPEAT)


def check_metric_name(name: str) -> None:
    """Refuse a name that no metric can have.

    :raises ConfigurationError: it is reserved, empty or too long.
    """
    if name in RESERVED or not 0 < len(name.encode()) <= _LONGEST_NAME:
        raise ConfigurationError(
            f"worker.metrics.{name}: no metric can have this name",
            f"at most {_LONGEST_NAME} bytes, and not {', '.join(sorted(RESERVED))}",
        )


def check_pattern(key: str, pattern: str) -> None:
    """Refuse a pattern that is none, that has no group, or that may take for ever.

    :raises ConfigurationError: with the key and what is wrong.
    """
    try:
        parsed = parser.parse(pattern)
        groups = re.compile(pattern).groups
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigurationError(f"{key}={pattern!r} is no regular expression: {error}") from error
    if not groups:
        raise ConfigurationError(f"{key}={pattern!r} has no group", "put the number into parentheses: loss: (\\S+)")
    if _repeats_a_repeat(parsed):
        raise ConfigurationError(
            f"{key}={pattern!r} repeats what is itself repeated, which may take for ever on an unlucky line",
            "write it without a + or * inside another",
        )


def _repeats_a_repeat(parsed: Any, *, inside: bool = False) -> bool:
    for code, argument in parsed:
        if code in _UNBOUNDED:
            _, most, body = argument
            endless = most is codes.MAXREPEAT
            if (endless and inside) or _repeats_a_repeat(body, inside=inside or endless):
                return True
        elif any(_repeats_a_repeat(part, inside=inside) for part in _parts(argument)):
            return True
    return False


def _parts(argument: Any) -> Iterator[Any]:
    """The patterns that an element of a parsed pattern is made of."""
    if isinstance(argument, parser.SubPattern):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for item in argument:
            yield from _parts(item)


class LinePatterns:
    """Applies the patterns of a run to one line."""

    def __init__(self, metrics: Mapping[str, str], step: str = "") -> None:
        self._metrics = {name: re.compile(pattern) for name, pattern in metrics.items()}
        self._step = re.compile(step) if step else None

    @property
    def reads_steps(self) -> bool:
        """Whether there is a pattern for steps."""
        return self._step is not None

    def values(self, line: str) -> dict[str, float]:
        """What the line says of the metrics."""
        found = {}
        for name, pattern in self._metrics.items():
            match = pattern.search(line)
            number = _number(match.group(1)) if match is not None else None
            if number is not None:
                found[name] = number
        return found

    def step(self, line: str) -> int | None:
        """The step that the line names."""
        match = self._step.search(line) if self._step is not None else None
        number = _number(match.group(1)) if match is not None else None
        return int(number) if number is not None and 0 <= number < 1 << 53 else None


def _number(text: str | None) -> float | None:
    try:
        return float((text or "").replace(",", ""))
    except ValueError:
        return None
