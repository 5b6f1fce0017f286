"""Which of the steps that earlier terms have taken still count for a leader."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resilient.protocol.past import Counts
from resilient.snapshot.fencing import Terms


def counting(holds: Callable[[int, int], bool], snapshots: Path) -> Counts:
    """Steps count when they are on the run's lineage, and no later leader has gone on from an earlier step.

    :param holds: whether a step of a round is on the lineage.
    """

    def counts(step: int, term: int, round_number: int) -> bool:
        with suppress(OSError):
            return holds(step, round_number) and Terms.read(snapshots).count(step, term)
        return False

    return counts
