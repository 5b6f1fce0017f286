"""One measured recovery: kill or stop a training process, wait for the next new step, and check that it is the right
one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.recovery_launch import Launch
from benchmarks.recovery_log import Line

_JOURNAL = {
    "DumpStacks": "hang seen",
    "worker exited": "exit seen",
    "LaunchRound": "relaunch decided",
    "worker launched": "fork reported",
}


@dataclass(frozen=True)
class Recovery:
    """What one fault cost. All in seconds since the signal was sent.

    :param last_step: the last step recorded by any process of the round that it ended.
    :param resumed_step: the first step recorded by its successor.
    :param first_step: until the successor had completed its first step, new or repeated.
    :param new_step: until a step beyond ``last_step`` was completed.
    :param stages: moments on the way; what they mean stands in the README.
    :param problem: what is wrong with the way in which it resumed; empty when all is well.
    """

    contestant: str
    last_step: int
    resumed_step: int
    first_step: float
    new_step: float
    stages: Mapping[str, float]
    problem: str

    @property
    def repeated(self) -> int:
        """Steps that were done and have to be done again."""
        return self.last_step - self.resumed_step + 1


def strike_and_wait(
    launch: Launch, number: signal.Signals, rank: int, *, more_steps: int, delay: float, save_every: int, timeout: float
) -> Recovery:
    """Send ``rank`` a signal after ``more_steps`` more steps and ``delay`` seconds, and follow what takes its place.

    :raises LaunchFailedError: nothing does, or it makes no new step in ``timeout`` seconds.
    """
    begun = max((line.step for line in launch.reader.steps()), default=0)
    launch.wait(lambda steps: bool(steps) and steps[-1].step >= begun + more_steps)
    round_pids = {reader.steps()[-1].pid for reader in launch.readers}
    pid = launch.readers[rank].steps()[-1].pid
    time.sleep(delay)
    struck_at = time.time()
    os.kill(pid, number)

    def has_new_step(steps: Sequence[Line]) -> bool:
        return steps[-1].pid not in round_pids and steps[-1].step > _last_step(launch, round_pids)

    launch.wait(has_new_step, timeout)
    last = _last_step(launch, round_pids)
    after = [line for line in launch.reader.steps() if line.pid == launch.reader.steps()[-1].pid]
    new = next(line for line in after if line.step > last)
    stages = {line.stage: line.time for line in launch.reader.lines if line.pid == new.pid and line.stage}
    stages |= _from_journal(launch, struck_at)
    return Recovery(
        contestant=launch.contestant.name,
        last_step=last,
        resumed_step=after[0].step,
        first_step=after[0].time - struck_at,
        new_step=new.time - struck_at,
        stages={name: moment - struck_at for name, moment in sorted(stages.items(), key=lambda item: item[1])},
        problem=_problem(launch.contestant.under, last, [line.step for line in after], save_every),
    )


def _last_step(launch: Launch, pids: Collection[int]) -> int:
    return max(line.step for reader in launch.readers for line in reader.steps() if line.pid in pids)


def _from_journal(launch: Launch, struck_at: float) -> dict[str, float]:
    entries: list[dict[str, Any]] = launch.journal()
    return {_JOURNAL[entry["name"]]: entry["time"] for entry in entries if _belongs(entry, struck_at)}


def _belongs(entry: Mapping[str, Any], struck_at: float) -> bool:
    return entry["name"] in _JOURNAL and entry["time"] >= struck_at


def _problem(under: str, last: int, steps: Sequence[int], save_every: int) -> str:
    """Resilient may repeat the one step whose snapshot the kill cut short, torchrun all since its last checkpoint."""
    if list(steps) != list(range(steps[0], steps[0] + len(steps))):
        return f"the steps after the kill are not in order: {steps}"
    saved = last - last % save_every
    expected = {last + 1, last} if under == "resilient" else {saved + 1}
    if under != "resilient" and saved == last:
        expected.add(saved - save_every + 1)  # killed while it saved
    return "" if steps[0] in expected else f"killed after step {last}, resumed with step {steps[0]}"


def differing_losses(reference: Iterable[Line], interrupted: Iterable[Line]) -> tuple[int, list[int]]:
    """How many losses were compared with an uninterrupted run's, and the steps at which they differ in any bit."""
    expected = {line.step: line.loss for line in reference}
    compared = [line for line in interrupted if line.step in expected]
    return len(compared), sorted({line.step for line in compared if line.loss != expected[line.step]})
