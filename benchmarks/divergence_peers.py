"""What others look for, each as a small function: what it says at each step of one curve.

Written from the sources named, for the loss (and gradient norm, where they use it) of a run; nothing is changed but
that they say so instead of acting.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

Losses: TypeAlias = Sequence[float]


@dataclass(frozen=True)
class Said:
    """:param step: counted from 1.
    :param acts: this is where the method does what it does, not a word of warning.
    """

    step: int
    acts: bool


@dataclass(frozen=True)
class Peer:
    """:param action: what it does when it acts."""

    name: str
    action: str
    judge: Callable[[Losses, Losses | None], list[Said]]


def olmo_core(losses: Losses, norms: Losses | None, length: int = 128, sigmas: float = 6.0) -> list[Said]:
    """OLMo-core, ``optim/skip_step_optimizer.py``: no update where loss or norm lies more than 6 standard deviations
    from the mean of the last 128, on either side; judged once half of them are there.
    """
    said = []
    for index in range(max(20, length // 2) - 1, len(losses)):
        ok = all(
            _score(series[max(0, index - length) : index], series[index]) <= sigmas
            for series in (losses, norms)
            if series is not None
        )
        if not ok:
            said.append(Said(index + 1, acts=True))
    return said


def _score(before: Losses, value: float) -> float:
    if not all(map(math.isfinite, (*before, value))):
        return math.nan  # as torch's mean and deviation would be; no comparison holds
    distance, deviation = abs(value - statistics.fmean(before)), statistics.stdev(before)
    if deviation:
        return distance / deviation
    return math.inf if distance else math.nan


def kill_loss_spike(
    losses: Losses, _: Losses | None, window: int = 100, multiple: float = 2.0, patience: int = 4, cap: float = 10.0
) -> list[Said]:
    """LLM Foundry, ``callbacks/kill_loss_spike_callback.py``: ends the run after more than ``patience`` losses in a row
    of twice the mean of the last 100, or when half of those are above 10 (after two windows).
    """
    said, recent, outliers = [], deque[float](maxlen=window), 0
    for step, loss in enumerate(losses, start=1):
        if len(recent) == window:
            if loss >= statistics.fmean(recent) * multiple:
                outliers += 1
                said.append(Said(step, acts=outliers > patience))
            else:
                outliers = 0
                if step >= 2 * window and sum(item > cap for item in recent) >= window / 2:
                    said.append(Said(step, acts=True))
        recent.append(loss)
    return said


def megatron(losses: Losses, _: Losses | None, threshold: float = 10.0, samples: int = 100) -> list[Said]:
    """Megatron-LM, ``core/rerun_state_machine.py``: runs the step again when the loss is not finite, or at least 10
    times the largest of the first 100.
    """
    said, largest, seen = [], 0.0, 0
    for step, loss in enumerate(losses, start=1):
        if not math.isfinite(loss):
            said.append(Said(step, acts=True))
        elif seen < samples:
            seen, largest = seen + 1, max(largest, abs(loss))
        elif abs(loss) >= threshold * largest:
            said.append(Said(step, acts=True))
    return said


def intern_evo(losses: Losses, _: Losses | None, limit: float = 1.5) -> list[Said]:
    """InternEvo, ``monitor/monitor.py``: a message when the loss is more than 1.5 times the previous one."""
    pairs = zip(losses, losses[1:], strict=False)
    return [Said(step, acts=True) for step, (before, loss) in enumerate(pairs, start=2) if loss > limit * before]


def mad_two_of_two(losses: Losses, _: Losses | None, window: int = 128, scales: float = 6.0) -> list[Said]:
    """The textbook's robust rule: two losses in a row more than 6 × 1.4826 MAD above the median of the last 128."""
    said, row = [], 0
    for index in range(window, len(losses)):
        before = [item for item in losses[index - window : index] if math.isfinite(item)]
        middle = statistics.median(before) if before else 0.0
        deviation = 1.4826 * statistics.median(abs(item - middle) for item in before) if before else 0.0
        row = row + 1 if not losses[index] <= middle + scales * deviation else 0
        if row:
            said.append(Said(index + 1, acts=row >= 2))
    return said


PEERS = (
    Peer("OLMo-core, 6 σ over 128", "skips the update", olmo_core),
    Peer("KillLossSpike, 2 × mean", "ends the run", kill_loss_spike),
    Peer("Megatron, 10 × max of 100", "runs the step again", megatron),
    Peer("InternEvo, 1.5 × previous", "sends a message", intern_evo),
    Peer("MAD, 2 of 2", "rolls back", mad_two_of_two),
)
