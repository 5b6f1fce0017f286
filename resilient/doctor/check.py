"""A check: its name, what it is for, and how it looks at the world."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from resilient.doctor.finding import Finding, warning
from resilient.doctor.world import World

Look = Callable[[World], Finding | None]


@dataclass(frozen=True)
class Check:
    """One thing that is looked at.

    :param name: ``group.thing``.
    :param explains: what it looks at, in half a sentence.
    :param look: the check itself; it may raise, and it may hang. None where there is nothing to look at.
    :param seconds: after which it is given up.
    :param alone: whether it is run while nothing else is, because it measures.
    :param stuck: the finding when it was given up.
    """

    name: str
    explains: str
    look: Look
    seconds: float = 15.0
    alone: bool = False
    stuck: Finding | None = None

    @property
    def group(self) -> str:
        return self.name.partition(".")[0]

    def given_up(self) -> Finding:
        """What is found when it did not answer in time."""
        if self.stuck is not None:
            return self.stuck
        return warning(f"there was no answer within {self.seconds:.0f} s", "look at what hangs; try again")


@dataclass(frozen=True)
class Result:
    """A check and what it has found."""

    check: Check
    finding: Finding


def worst_last(results: Iterable[Result]) -> list[Result]:
    """Sorted for a person, whose eyes are at the end of the output; otherwise in the order of the checks."""
    return sorted(results, key=lambda result: result.finding.level.rank)


def chosen(checks: Sequence[Check], names: Sequence[str]) -> tuple[list[Check], list[str]]:
    """The checks of these names or groups, and the names that mean none."""
    unknown = [name for name in names if not any(name in (check.name, check.group) for check in checks)]
    return [check for check in checks if not names or check.name in names or check.group in names], unknown
