"""One measured recovery: kill the training process, wait for the next new step, and check that it is the right one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.recovery_launch import Launch
from benchmarks.recovery_log import Line

_JOURNAL = {"worker exited": "exit seen", "LaunchRound": "relaunch decided", "worker launched": "fork reported"}


@dataclass(frozen=True)
class Recovery:
    """What one kill cost. All in seconds since the kill was sent.

    :param last_step: the last step recorded by the killed process.
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


def kill_and_wait(launch: Launch, more_steps: int, delay: float, save_every: int) -> Recovery:
    """Kill the training process after ``more_steps`` more steps and ``delay`` seconds, and follow its successor.

    :raises LaunchFailedError: there is none, or it makes no new step.
    """
    begun = max((line.step for line in launch.reader.steps()), default=0)
    launch.wait(lambda steps: bool(steps) and steps[-1].step >= begun + more_steps)
    pid = launch.reader.steps()[-1].pid
    time.sleep(delay)
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)

    def has_new_step(steps: Sequence[Line]) -> bool:
        return steps[-1].pid != pid and steps[-1].step > _last_step(steps, pid)

    launch.wait(has_new_step)
    steps = launch.reader.steps()
    last = _last_step(steps, pid)
    after = [line for line in steps if line.pid == steps[-1].pid]
    new = next(line for line in after if line.step > last)
    stages = {line.stage: line.time for line in launch.reader.lines if line.pid == new.pid and line.stage}
    stages |= _from_journal(launch, killed_at)
    return Recovery(
        contestant=launch.contestant.name,
        last_step=last,
        resumed_step=after[0].step,
        first_step=after[0].time - killed_at,
        new_step=new.time - killed_at,
        stages={name: moment - killed_at for name, moment in sorted(stages.items(), key=lambda item: item[1])},
        problem=_problem(launch.contestant.under, last, [line.step for line in after], save_every),
    )


def _last_step(steps: Iterable[Line], pid: int) -> int:
    return max(line.step for line in steps if line.pid == pid)


def _from_journal(launch: Launch, killed_at: float) -> dict[str, float]:
    entries: list[dict[str, Any]] = launch.journal()
    return {_JOURNAL[entry["name"]]: entry["time"] for entry in entries if _belongs(entry, killed_at)}


def _belongs(entry: Mapping[str, Any], killed_at: float) -> bool:
    return entry["name"] in _JOURNAL and entry["time"] >= killed_at


def _problem(under: str, last: int, steps: Sequence[int], save_every: int) -> str:
    """Resilient may repeat the one step whose snapshot the kill cut short, torchrun all since its last checkpoint."""
    if list(steps) != list(range(steps[0], steps[0] + len(steps))):
        return f"the steps after the kill are not in order: {steps}"
    saved = last - last % save_every
    expected = {last + 1, last} if under == "resilient" else {saved + 1}
    if under == "torchrun" and saved == last:
        expected.add(saved - save_every + 1)  # killed while it saved
    return "" if steps[0] in expected else f"killed after step {last}, resumed with step {steps[0]}"


def differing_losses(reference: Iterable[Line], interrupted: Iterable[Line]) -> tuple[int, list[int]]:
    """How many losses were compared with an uninterrupted run's, and the steps at which they differ in any bit."""
    expected = {line.step: line.loss for line in reference}
    compared = [line for line in interrupted if line.step in expected]
    return len(compared), sorted({line.step for line in compared if line.loss != expected[line.step]})
