"""How long to wait before a relaunch: small composable callables, as the stop rules are.

A wait reads the :class:`History` and a seed and returns seconds; waits are joined with ``+``, in tenacity's manner. Its
own ``wait_*`` are not used: they take the mutable state of a call that is being retried, and their jitter draws random
numbers, where the same state must give the same decision here. The jitter comes from a hash of the run's id and the
number of its round, so it differs between runs and is the same in a replay.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from resilient.policy.failed_rounds import History
from resilient.policy.failures import FailureClass
from resilient.policy.restart_settings import RestartSettings
from resilient.policy.treatments import TREATMENTS

_LEAST_WAITS = {name: cure.least_wait for name, cure in TREATMENTS.items() if cure.least_wait}


@dataclass(frozen=True)
class Wait:
    """A named wait that can be joined with others by ``+``."""

    measure: Callable[[History, str], float] = field(repr=False)
    name: str = ""

    def __call__(self, history: History, seed: str = "") -> float:
        return self.measure(history, seed)

    def __add__(self, other: Wait) -> Wait:
        return Wait(lambda history, seed: self(history, seed) + other(history, seed), f"{self.name} + {other.name}")


def wait_exponential(first: float, longest: float) -> Wait:
    """None after a failure that followed progress, then doubling.

    The first failure is nearly always the world's; only when a relaunch did not help is there a reason to wait.
    """

    def measure(history: History, _seed: str) -> float:
        return 0.0 if history.stuck <= 1 else min(longest, first * 2.0 ** (history.stuck - 2))

    return Wait(measure, f"exponential {first:g} to {longest:g} s")


def wait_for_class(seconds: Mapping[FailureClass, float], longest: float) -> Wait:
    """What the last failure's class needs, the first time too, doubling with each of the class since progress."""

    def measure(history: History, _seed: str) -> float:
        if not history.rounds:
            return 0.0
        last = history.rounds[-1].failure.failure_class
        first = seconds.get(last, 0.0)
        again = sum(failed.failure.failure_class is last for failed in history.since_progress())
        return max(first, min(longest, first * 2.0 ** (max(again, 1) - 1)))

    return Wait(measure, "by class")


def wait_longest(*waits: Wait) -> Wait:
    """The longest of several."""
    return Wait(
        lambda history, seed: max(wait(history, seed) for wait in waits),
        f"longest of ({', '.join(w.name for w in waits)})",
    )


def wait_jitter(of: Wait, part: float) -> Wait:
    """Up to ``part`` of what ``of`` waits, the same for the same seed."""

    def measure(history: History, seed: str) -> float:
        digest = hashlib.blake2b(seed.encode(), digest_size=8).digest()
        return of(history, seed) * part * (int.from_bytes(digest, "big") / 2.0**64)

    return Wait(measure, f"up to {part:g} of it")


def relaunch_wait(settings: RestartSettings) -> Wait:
    """The wait of a run."""
    base = wait_longest(
        wait_exponential(settings.first_wait, settings.max_wait),
        wait_for_class({**_LEAST_WAITS, **settings.least_waits}, settings.max_wait),
    )
    return base + wait_jitter(base, settings.jitter)


def wait_before_relaunch(settings: RestartSettings, history: History, seed: str = "") -> float:
    """Seconds to wait.

    :param seed: says which run and round it is.
    """
    return relaunch_wait(settings)(history, seed)
