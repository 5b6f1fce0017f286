"""One run of one contestant through the trace: the faults are done to it, and an operator looks after it.

The operator's rules are the same for all, and know nothing of the trace:

* the training process is there, and nothing was recorded for so many seconds: SIGKILL to it;
* a third process in a row has begun, and the two before it made no step: the newest checkpoint is removed;
* the launcher has ended before the last step: its command is started again.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress

import psutil

from benchmarks.goodput_account import Intervention, Outcome, step_seconds
from benchmarks.goodput_contestants import RESILIENT, Checkpoints, Contestant, TruncatedRestore, run_paths
from benchmarks.goodput_options import Options
from benchmarks.goodput_trace import SPIKE_STEPS, Fault, Kind
from benchmarks.recovery_launch import TOKEN, LaunchFailedError, environment, processes_of
from benchmarks.recovery_log import Line, StepReader
from resilient.drill.target import Target
from resilient.supervisor.memory import RunMemory

_LOOK_SECONDS = 0.005
_DEAD_STARTS = 2


class Run:
    """Leaving the ``with`` block ends everything that was started.

    :param notice: seconds without a line after which the operator takes the training process for hung.
    :param timeout: seconds after which the contestant is given up.
    """

    def __init__(
        self,
        contestant: Contestant,
        options: Options,
        faults: Sequence[Fault],
        *,
        hang_seconds: float,
        notice: float,
        timeout: float = 1800.0,
    ) -> None:
        options.folder.mkdir(parents=True)
        self._contestant = contestant
        self._options = options
        self._faults = [fault for fault in faults if fault.kind is not Kind.SPIKE]
        self._hang_seconds = hang_seconds
        self._notice = notice
        self._timeout = timeout
        self._reader = StepReader(options.record)
        self._checkpoints = Checkpoints(options.checkpoints)
        self._token = uuid.uuid4().hex
        self._received: list[Kind] = []
        self._interventions: list[Intervention] = []
        self._seen = 0  # lines
        self._last: Line | None = None  # step
        self._ended = 0.0  # when the last step of all was completed first
        self._starts = 0  # since the last step, or since the operator did something
        self._began = self._quiet_since = time.time()  # the last step, or what the operator did after it
        self._process = self._start()

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        for process in processes_of(self._token):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        shutil.rmtree(RunMemory.place(run_paths(self._options), ""), ignore_errors=True)

    def finish(self) -> Outcome:
        """Follow it to the last step and to its own end.

        :raises LaunchFailedError: it does not get there.
        """
        while not self._ended:
            self._take_in()
            self._strike()
            self._operate()
            if time.time() > self._began + self._timeout:
                raise self._failed(f"is not at step {self._options.steps} after {self._timeout:g} s")
            time.sleep(_LOOK_SECONDS)
        try:
            code = self._process.wait(300.0)
        except subprocess.TimeoutExpired:
            raise self._failed("does not end after its last step") from None
        if code or not self._options.final.exists():
            raise self._failed(f"ended with exit code {code} after its last step")
        self._take_in()
        return self._outcome()

    def _take_in(self) -> None:
        """What was recorded since."""
        self._reader.poll()
        for line in self._reader.lines[self._seen :]:
            if line.step:
                self._last, self._starts, self._quiet_since = line, 0, max(self._quiet_since, line.time)
                if line.step == self._options.steps and not self._ended:
                    self._ended = line.time
            elif line.stage == "script":
                self._starts += 1
        self._seen = len(self._reader.lines)

    def _outcome(self) -> Outcome:
        steps = self._reader.steps()
        if self._options.spike_reached.exists():
            last = int(self._options.spike_reached.read_text())
            if last == self._options.spike + SPIKE_STEPS - 1:
                self._received.append(Kind.SPIKE)
        return Outcome(
            contestant=self._contestant.name,
            wall=self._ended - self._began,
            step_seconds=step_seconds(steps),
            recorded=len(steps),
            interventions=tuple(self._interventions),
            received=tuple(self._received),
            val_loss=json.loads(self._options.final.read_text())["val_loss"],
            left_behind=tuple(self._left_behind()),
            lines=tuple(self._reader.lines),
        )

    def _start(self) -> subprocess.Popen[bytes]:
        with (self._options.folder / "output.log").open("ab") as output:
            return subprocess.Popen(
                self._contestant.command(self._options, self._hang_seconds),
                cwd=self._options.folder,
                env=environment(1) | {TOKEN: self._token},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def _strike(self) -> None:
        """The next fault, if it is its turn."""
        if not self._faults or self._last is None or self._last.step < self._faults[0].step:
            return
        fault = self._faults[0]
        time.sleep(fault.delay)
        try:
            if fault.kind is Kind.CORRUPT:
                self._corrupt(self._last.pid)
            else:
                os.kill(self._last.pid, signal.SIGKILL if fault.kind is Kind.KILL else signal.SIGSTOP)
        except ProcessLookupError:
            return  # it ended by itself; its successor is struck
        self._faults.pop(0)
        self._received.append(fault.kind)

    def _corrupt(self, pid: int) -> None:
        if self._contestant.name == RESILIENT:
            target = Target(run_paths(self._options), self._process.pid)
            fault = TruncatedRestore()
            fault.prepare(target)
            fault.inject(target)
            return
        os.kill(pid, signal.SIGSTOP)  # so that it does not save another one meanwhile
        self._checkpoints.truncate()
        os.kill(pid, signal.SIGKILL)

    def _operate(self) -> None:
        lines = self._reader.lines
        if self._process.poll() is not None:
            if not self._ended:
                self._process = self._start()
                self._note("started it again")
        elif self._starts > _DEAD_STARTS:
            self._note(self._checkpoints.remove())
        elif lines and time.time() - max(lines[-1].time, self._quiet_since) > self._notice and _is_up(lines[-1].pid):
            os.kill(lines[-1].pid, signal.SIGKILL)
            self._note("killed the training process")

    def _note(self, what: str) -> None:
        now = time.time()
        self._interventions.append(Intervention(what, self._quiet_since, now))
        self._quiet_since, self._starts = now, 0

    def _left_behind(self) -> list[str]:
        deadline = time.monotonic() + 10.0
        while (left := processes_of(self._token)) and time.monotonic() < deadline:
            time.sleep(0.1)
        found = []
        for process in left:
            with suppress(psutil.NoSuchProcess):
                found.append(f"process {process.pid}: {' '.join(process.cmdline()[:4])}")
        memory = RunMemory.place(run_paths(self._options), "")
        return [*found, *([f"shared memory {memory}"] if memory.exists() else [])]

    def _failed(self, what: str) -> LaunchFailedError:
        words = (self._options.folder / "output.log").read_text(errors="replace")[-800:]
        return LaunchFailedError(f"{self._contestant.name} {what}: {words}")


def _is_up(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
