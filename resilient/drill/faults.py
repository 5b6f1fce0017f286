"""The faults, each an object with a name: what is done to a run from outside, with signals and with its files.

Those that need the run's help are in :mod:`resilient.drill.in_process` and :mod:`resilient.drill.storage`;
:mod:`resilient.drill.registry` knows them all.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from resilient.drill.target import DRAIN, FORKSERVER, Target
from resilient.errors import ExitCode, FaultNotInjected
from resilient.protocol.board import Word
from resilient.snapshot import catalog

__all__ = [
    "CorruptSnapshot",
    "Fault",
    "KillDrain",
    "KillForkserver",
    "KillSupervisor",
    "KillWorker",
    "Lift",
    "Preempt",
    "SlowWorker",
    "StallDisk",
    "StopWorker",
    "Target",
    "flip_bit",
]


class Lift(Enum):
    """When a fault that lasts is to end."""

    NEVER = "never"
    AFTER_SECONDS = "after its seconds"
    WHEN_NOTICED = "when it was noticed"
    AT_END = "when the run has ended"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong. ``inject`` makes it happen now and says what it did.

    :cvar explains: what it is, in a line.
    :cvar lifted: when :meth:`lift` is to be called.
    :cvar again_after: exit codes of the supervisor after which the same command is started again, as a scheduler does.
    :cvar keeps_state: whether the run is to be the same afterwards, bit for bit, as one without the fault.
    """

    name: ClassVar[str] = "fault"
    explains: ClassVar[str] = ""
    lifted: ClassVar[Lift] = Lift.NEVER
    again_after: ClassVar[Collection[int]] = frozenset({ExitCode.REQUEUE})
    keeps_state: ClassVar[bool] = True

    @property
    def expects(self) -> ExitCode:
        """With which exit code the run is to end for good."""
        return ExitCode.FINISHED

    def prepare(self, target: Target) -> None:
        """Wait for what the fault needs to be there."""

    def inject(self, target: Target) -> str:
        """Make it happen.

        :raises FaultNotInjected: it cannot.
        """
        raise NotImplementedError

    def lift(self, target: Target) -> None:
        """End it."""


@dataclass(frozen=True)
class KillWorker(Fault):
    """SIGKILL, or another signal, to one worker."""

    rank: int = 0
    number: signal.Signals = signal.SIGKILL
    name = "kill"
    explains = "SIGKILL to a worker, as the out-of-memory killer or an administrator sends it"

    def inject(self, target: Target) -> str:
        pid = target.worker(self.rank)
        step = target.read(Word.STEP, self.rank)
        _send(pid, self.number, f"rank {self.rank}")
        return f"{self.number.name} to rank {self.rank} (process {pid}) after step {step}"


@dataclass(frozen=True)
class StopWorker(KillWorker):
    """SIGSTOP to one worker: it is there, and does nothing."""

    number: signal.Signals = signal.SIGSTOP
    name = "stop"
    explains = "SIGSTOP to a worker: the process is there and does nothing, as when its node swaps or its GPU is stuck"


@dataclass(frozen=True)
class SlowWorker(Fault):
    """One worker runs at a part of its speed, by SIGSTOP and SIGCONT in turn.

    :param steps: for so many steps.
    :param factor: how much slower.
    """

    rank: int = 0
    steps: int = 10
    factor: float = 5.0
    name = "slow"
    explains = "a worker becomes several times slower for some steps, as by thermal throttling or a busy neighbour"
    _PULSE: ClassVar[float] = 0.01

    def inject(self, target: Target) -> str:
        pid, first = target.worker(self.rank), target.read(Word.STEP, self.rank)
        _send(pid, signal.SIGSTOP, f"rank {self.rank}")
        with suppress(ProcessLookupError):  # somebody may have enough of it
            while target.is_up() and target.read(Word.STEP, self.rank) < first + self.steps:
                os.kill(pid, signal.SIGSTOP)
                time.sleep(self._PULSE * (self.factor - 1))
                os.kill(pid, signal.SIGCONT)
                time.sleep(self._PULSE)
            os.kill(pid, signal.SIGCONT)
        last = target.read(Word.STEP, self.rank)
        return f"rank {self.rank} {self.factor:g} times slower from step {first + 1} to {max(last, first + 1)}"


@dataclass(frozen=True)
class Preempt(Fault):
    """SIGTERM to the supervisor, as a scheduler sends it."""

    name = "preempt"
    explains = "SIGTERM to the supervisor, then the same command again, as a scheduler preempts and requeues"
    again_after = frozenset({ExitCode.REQUEUE, ExitCode.TERMINATED})

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        _send(target.supervisor, signal.SIGTERM, "the supervisor")
        return f"SIGTERM to the supervisor after step {step}"


@dataclass(frozen=True)
class KillSupervisor(Fault):
    """SIGKILL to the supervisor."""

    name = "kill_supervisor"
    explains = "SIGKILL to the supervisor, then the same command again"
    again_after = frozenset({ExitCode.REQUEUE, -signal.SIGKILL})

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        _send(target.supervisor, signal.SIGKILL, "the supervisor")
        return f"SIGKILL to the supervisor after step {step}"


@dataclass(frozen=True)
class KillHelper(Fault):
    """SIGKILL to a helper process of the supervisor."""

    module: ClassVar[str]

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        process = target.helper(self.module)
        process.kill()
        return f"SIGKILL to the {self.name.removeprefix('kill_')} (process {process.pid}) after step {step}"


@dataclass(frozen=True)
class KillDrain(KillHelper):
    """SIGKILL to the process that writes snapshots to disk."""

    name = "kill_drain"
    module = DRAIN
    explains = "SIGKILL to the process that writes snapshots to disk"


@dataclass(frozen=True)
class KillForkserver(KillHelper):
    """SIGKILL to the process that workers are forked from; they die with it."""

    name = "kill_forkserver"
    module = FORKSERVER
    explains = "SIGKILL to the process that workers are forked from; they die with it"


@dataclass(frozen=True)
class StallDisk(Fault):
    """A disk that stops answering, as seen from here: the drain, which alone writes to it, stands still.

    :param seconds: for so long, in a drill.
    """

    seconds: float = 3.0
    name = "stall_disk"
    explains = "the process that writes snapshots stands still for some seconds, as on a disk that does not answer"
    lifted = Lift.AFTER_SECONDS

    def inject(self, target: Target) -> str:
        step = target.read(Word.STEP)
        process = target.helper(DRAIN)
        process.suspend()
        return f"the drain (process {process.pid}) stands still after step {step}"

    def lift(self, target: Target) -> None:
        with suppress(FaultNotInjected):  # it is gone
            target.helper(DRAIN).resume()


@dataclass(frozen=True)
class CorruptSnapshot(Fault):
    """Flip one bit of the newest snapshot on disk.

    :param at: where, as a fraction of the image.
    """

    at: float = 0.5
    name = "flip_bit"

    def inject(self, target: Target) -> str:
        steps = catalog.committed_steps(target.paths.snapshots)
        if not steps:
            raise FaultNotInjected(f"{target.paths.run_id} has no snapshot to corrupt")
        image = next(iter(sorted(target.paths.snapshot(steps[-1]).glob("*.safetensors"))))
        offset = int(self.at * (image.stat().st_size - 1))
        flip_bit(image, offset)
        return f"one bit flipped in {image.parent.name}/{image.name}, byte {offset}"


def _send(pid: int, number: signal.Signals, who: str) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise FaultNotInjected(f"{who} (process {pid}) was gone before {number.name} could reach it") from None


def flip_bit(path: Path, offset: int, bit: int = 0) -> None:
    """Flip one bit of a file in place."""
    with path.open("r+b") as stream:
        stream.seek(offset)
        byte = stream.read(1)[0]
        stream.seek(offset)
        stream.write(bytes([byte ^ (1 << bit)]))
