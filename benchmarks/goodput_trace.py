"""What goes wrong, and when: the same trace for all contestants. No torch here: the benchmark reads it, too."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import Enum

SPIKE_STEPS = 20
LEAST_STEPS = 500
"""With fewer, what watches the loss has not seen enough of it when the spike comes."""


class Kind(str, Enum):
    """A kind of fault."""

    KILL = "kill"
    """SIGKILL to the training process."""
    HANG = "hang"
    """SIGSTOP to it: it is there and does nothing."""
    SPIKE = "spike"
    """For twenty steps the updates are a hundred times too large."""
    CORRUPT = "corrupt"
    """Bytes of the newest checkpoint are overwritten, then SIGKILL; what is only in memory is lost as well."""


@dataclass(frozen=True)
class Fault:
    """:param step: it comes when this step was completed for the first time; the first one that a spike touches.
    :param delay: and so many seconds later, so that it hits the inside of a step.
    """

    kind: Kind
    step: int
    delay: float = 0.0


_PLAN: Sequence[tuple[Kind, float]] = (
    (Kind.KILL, 0.10),
    (Kind.HANG, 0.20),
    (Kind.KILL, 0.32),
    (Kind.SPIKE, 0.50),
    (Kind.CORRUPT, 0.72),
    (Kind.KILL, 0.82),
    (Kind.HANG, 0.92),
)
"""Where in the run each comes at the earliest; it comes within a twentieth of the run after that."""

_STEP_SECONDS = 0.02  # delays are spread over about one step


def trace(seed: int, steps: int, without: Collection[str] = ()) -> list[Fault]:
    """The faults of a run of so many steps, in the order in which they come.

    :param without: kinds that are left out; the others come when they would have come anyway.
    """
    if steps < LEAST_STEPS:
        raise ValueError(f"a trace needs at least {LEAST_STEPS} steps, not {steps}")
    dice = random.Random(seed)
    window = max(1, steps // 20)
    faults = [
        Fault(kind, int(steps * share) + dice.randrange(window), dice.uniform(0.0, _STEP_SECONDS))
        for kind, share in _PLAN
    ]
    return [fault for fault in faults if fault.kind.value not in without]


def spike_of(faults: Sequence[Fault]) -> int:
    """The first step of the spike; 0 where there is none."""
    return next((fault.step for fault in faults if fault.kind is Kind.SPIKE), 0)
