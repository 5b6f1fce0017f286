"""What a run has around it: a supervisor, or nothing. One interface, so that the loop does not care."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from resilient.errors import SnapshotCorrupt, UsageError
from resilient.policy.lineage import Skip
from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Board, Command, Flag, Metrics, Word, WorkerPhase, now
from resilient.protocol.environment import WorkerEnvironment
from resilient.protocol.paths import RunPaths
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import SnapshotSettings
from resilient.protocol.spill import Spill
from resilient.worker.group import Group
from resilient.worker.preparation import Preparation
from resilient.worker.schedule import Chosen, Schedule
from resilient.worker.signals import sigterm

_RECORD_LIMIT = 14  # values in one record of the board


class Host(Protocol):
    """The surroundings of a run."""

    plan: RoundPlan
    settings: SnapshotSettings
    arena: Arena
    preparation: Preparation
    group: Group | None
    """The other ranks, where there are any."""
    writes_growing: bool
    """Whether a slot that is held goes to disk while it is still being written."""

    def image(self) -> memoryview | None:
        """The image to resume from, or None to start afresh."""
        ...

    def command(self) -> Command:
        """What is wanted at this step boundary."""
        ...

    def snapshots_asked(self) -> int:
        """How many durable snapshots have been asked for since the round began."""
        ...

    def schedule(self, clock: Callable[[], float]) -> Schedule:
        """When snapshots have to become durable."""
        ...

    def interval_chosen(self, chosen: Chosen) -> None:
        """The schedule has chosen another interval."""
        ...

    ranks: int
    """How many processes train together."""
    rank: int  # which of them this is

    def own_time(self, steps: int, data: float, compute: float) -> None:
        """What a step takes of this rank's own time, smoothed, in seconds; measured ``steps`` times."""
        ...

    def spent(self, data: float, stalled: float, aside: float) -> None:
        """Seconds of this round that went into waiting for data, into snapshots and into phases that are no steps."""
        ...

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None: ...

    def name_phase(self, name: str) -> None:
        """What ``WorkerPhase.NAMED`` stands for from the next beat on."""
        ...

    def attached(self, start_step: int) -> None: ...

    def set_total(self, total: int) -> None: ...

    def publish(self, metrics: Iterable[Metrics]) -> None: ...

    def durable_requested(self, slot: Slot) -> None:
        """``slot`` is complete and held; make it durable in the background."""
        ...

    def left(self, step: int) -> None:
        """The loop ended early, as it was asked to."""
        ...

    def stopped(self, step: int) -> None:
        """The loop ended after the step that the plan names."""
        ...

    def left_out(self, skips: Sequence[Skip]) -> None:
        """The steps whose data the plan leaves out turned out to be this data, for each of its ranges."""
        ...

    def finished(self) -> None: ...


class SupervisedHost:
    """A worker under a supervisor: board and arena are shared memory that outlives the worker."""

    writes_growing = True

    def __init__(self, environment: WorkerEnvironment, plan: RoundPlan) -> None:
        self.plan = plan
        self.settings = plan.snapshot
        memory = Path(plan.memory_dir)
        self._board = Board.open(memory / f"rank-{environment.rank:05d}.board")
        if self._board.has_flag(Flag.ATTACHED):
            raise UsageError("resilient.attach() was called a second time", "call it once, with all objects")
        self._board[Word.PID] = os.getpid()
        self._board[Word.ATTACHING] = now()
        self.ranks = environment.world_size
        self.rank = environment.rank
        self._refused: set[str] = set()
        spill = Spill(RunPaths(Path(plan.run_root)).memory, lambda message: say(f"WARNING: {message}"))
        self.arena = Arena.shared(memory, environment.rank, plan.snapshot.slots, spill)
        self.preparation = Preparation(self.arena)
        self.group = None
        if environment.world_size > 1:
            alone = environment.group_world_size == 1
            self.group = Group.join(memory, environment.rank, environment.local_ranks, self._board, alone=alone)

    def image(self) -> memoryview | None:
        if self.plan.restore_step is None:
            return None
        slot = self.arena.find(self.plan.restore_step)
        if slot is None and self.plan.reshard_from is not None:
            return None  # it is of another number of ranks
        if slot is None:
            raise SnapshotCorrupt(f"no slot holds step {self.plan.restore_step}, from which this round was to resume")
        self.preparation.want(slot.info().size)
        return slot.image

    def command(self) -> Command:
        if sigterm.received:  # somebody signalled this process alone, or the whole group before the supervisor asked
            self._board[Word.TERMINATED] = 1
            return Command.LEAVE
        return Command(self._board[Word.COMMAND])

    def snapshots_asked(self) -> int:
        return self._board[Word.SNAPSHOTS] + self._board[Word.RETRIES]

    def schedule(self, clock: Callable[[], float]) -> Schedule:
        return Schedule(
            self.settings,
            clock,
            failure_seconds=self.plan.failure_seconds,
            restart_seconds=self.plan.restart_seconds,
        )

    def interval_chosen(self, chosen: Chosen) -> None:
        self._board[Word.COST] = round(chosen.cost * 1e6)
        self._board[Word.INTERVAL] = round(chosen.seconds * 1e3)

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None:
        self._board.beat(phase, step)

    def name_phase(self, name: str) -> None:
        self._board.name_phase(name)

    def own_time(self, steps: int, data: float, compute: float) -> None:
        self._board[Word.OWN_DATA] = round(data * 1e6)
        self._board[Word.OWN_COMPUTE] = round(compute * 1e6)
        self._board[Word.OWN_STEPS] = steps

    def spent(self, data: float, stalled: float, aside: float) -> None:
        self._board[Word.DATA] = round(data * 1e6)
        self._board[Word.STALLED] = round(stalled * 1e6)
        self._board[Word.ASIDE] = round(aside * 1e6)

    def attached(self, start_step: int) -> None:
        self._board[Word.START_STEP] = start_step
        self._board[Word.STEP] = start_step
        self._board[Word.READY] = now()
        self._board.raise_flag(Flag.ATTACHED)

    def set_total(self, total: int) -> None:
        self._board[Word.TOTAL] = total

    def publish(self, metrics: Iterable[Metrics]) -> None:
        for record in metrics:
            names = [name for name in record.values if self._admits(name)]
            for at in range(0, len(names), _RECORD_LIMIT):
                part = {name: record.values[name] for name in names[at : at + _RECORD_LIMIT]}
                self._board.write_metrics(Metrics(record.step, record.time, part))

    def _admits(self, name: str) -> bool:
        """Whether the board has room for a metric of this name; training goes on without it if not."""
        try:
            self._board.register(name)
        except ValueError as error:
            if name not in self._refused:
                self._refused.add(name)
                warnings.warn(f"{error}; it is not recorded", stacklevel=2)
            return False
        return True

    def durable_requested(self, slot: Slot) -> None:
        """Nothing to do: the supervisor sees the held slot."""

    def left(self, step: int) -> None:  # noqa: ARG002  the board has it already
        self._board.raise_flag(Flag.LEFT_EARLY)

    def stopped(self, step: int) -> None:  # noqa: ARG002  likewise
        self._board.raise_flag(Flag.STOPPED_AFTER)

    def left_out(self, skips: Sequence[Skip]) -> None:
        if not self.rank:  # all find out the same
            self._board.tell_skips(skips)

    def finished(self) -> None:
        self._board.raise_flag(Flag.FINISHED)
        self._board.beat(WorkerPhase.FINISHED)  # what the script does now takes as long as it takes


def say(message: str) -> None:
    """To whoever reads what the training prints."""
    print(f"resilient: {message}", file=sys.stderr, flush=True)
