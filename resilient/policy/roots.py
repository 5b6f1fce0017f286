"""Which rank failed first: when one is lost, the others fail for that reason, and often say so louder.

A collective that fails on one rank because another has died is its echo. So all that is known of all ranks is looked at
when the last of them is gone, and the root is the earliest failure that is none. Ranks that were killed by us tell
nothing, unless they had raised an error before and were still tearing down.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from resilient.policy.failures import Failure, FailureClass

_BY_BROKEN_HARDWARE = frozenset({FailureClass.HANG, FailureClass.HARDWARE})
_BY_LOST_NODE = frozenset({FailureClass.HANG, FailureClass.NETWORK, FailureClass.NODE_LOST})
_OUR_KILL = signal.SIGKILL.name


@dataclass(frozen=True)
class Loss:
    """One rank's failure.

    :param at: when it failed: when the error was raised where that is known, else when the process was gone.
    :param after_kill: it was gone only after we had killed the group.
    """

    rank: int | None
    step: int
    failure: Failure
    at: float
    after_kill: bool = False

    @property
    def by_us(self) -> bool:
        """The SIGKILL was ours. The kernel may have used one of its own meanwhile; that cannot be told apart."""
        return self.after_kill and (
            self.failure.signature.partition(":")[0] == _OUR_KILL or self.failure.failure_class is FailureClass.KILLED
        )


def find_root(losses: Sequence[Loss]) -> Loss:
    """The failure that the others follow from. An echo that stands alone is given the class it has then.

    :param losses: at least one, in the order in which they were noticed.
    """
    own = [loss for loss in losses if not loss.by_us] or list(losses)
    first_hand = [loss for loss in own if loss.failure.failure_class is not FailureClass.ECHO]
    if not first_hand:  # the kernel's SIGKILL may be noticed after an echo of it, and then looks like ours
        first_hand = [loss for loss in losses if loss.failure.failure_class is FailureClass.HOST_OOM]
    broken = [loss for loss in losses if loss.failure.failure_class is FailureClass.HARDWARE]
    if broken and all(loss.failure.failure_class in _BY_BROKEN_HARDWARE for loss in first_hand):
        first_hand = (
            broken  # what the kernel knows is looked up for a worker that is gone, and a hang is noticed before
        )
    gone = [loss for loss in losses if loss.failure.failure_class is FailureClass.NODE_LOST]
    if gone and all(loss.failure.failure_class in _BY_LOST_NODE for loss in first_hand):
        first_hand = gone  # silence is noticed after those who wait for it have given up
    # Without losses of their own, whoever was noticed first; `min` keeps the order of what happened at the same time.
    root = min(first_hand or own, key=lambda loss: loss.at)
    failure = root.failure
    if failure.failure_class is FailureClass.ECHO:
        return replace(root, failure=replace(failure, failure_class=failure.alone or FailureClass.NETWORK))
    return root


def told_by_others(losses: Sequence[Loss], root: Loss) -> tuple[str, ...]:
    """One line for each other rank that failed by itself, in order of time."""
    others = [loss for loss in losses if loss.rank != root.rank and not loss.by_us]
    return tuple(
        f"rank {loss.rank} after step {loss.step}: {loss.failure.failure_class.value}: {loss.failure.headline[:200]}"
        for loss in sorted(others, key=lambda loss: loss.at)[:64]
    )
