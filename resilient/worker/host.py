"""What a run has around it: a supervisor, or nothing. One interface, so that the loop does not care."""

from __future__ import annotations

import atexit
import mmap
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from resilient.errors import (
    ExitCode,
    NoLoadableSnapshot,
    SnapshotCorrupt,
    SnapshotError,
    StorageFull,
    UsageError,
)
from resilient.policy.lineage import Skip
from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Board, Command, Flag, Metrics, Word, WorkerPhase
from resilient.protocol.environment import WorkerEnvironment
from resilient.protocol.lock import RunLock
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import FingerprintSettings, RetentionSettings, SnapshotSettings
from resilient.protocol.spill import Spill
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, remove_leftovers
from resilient.snapshot.prune import prune
from resilient.snapshot.storage import Storage
from resilient.worker.group import Group
from resilient.worker.preparation import Preparation
from resilient.worker.reporting import users_own
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
        self.ranks = environment.world_size
        self.rank = environment.rank
        self._refused: set[str] = set()
        spill = Spill(RunPaths(Path(plan.run_root)).memory, lambda message: _say(f"WARNING: {message}"))
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

    def attached(self, start_step: int) -> None:
        self._board[Word.START_STEP] = start_step
        self._board[Word.STEP] = start_step
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


class StandaloneHost:
    """A plain ``python train.py``: snapshots on disk, written by a thread; SIGTERM ends the loop at a step boundary."""

    writes_growing = False
    group: Group | None = None
    ranks, rank = 1, 0

    def __init__(
        self,
        paths: RunPaths,
        settings: SnapshotSettings,
        retention: RetentionSettings,
        fingerprint: FingerprintSettings | None = None,
    ) -> None:
        paths.create()
        self._paths = paths
        self._lock = RunLock(paths.lock, hostname())
        self._storage = Storage()
        remove_leftovers(self._storage, paths.snapshots)
        self.plan = RoundPlan(
            paths.run_id, str(paths.root), 0, "", snapshot=settings, fingerprint=fingerprint or FingerprintSettings()
        )
        self.settings = settings
        self._retention = retention
        self.arena = Arena.private(settings.slots)
        self.preparation = Preparation(self.arena)
        self._metrics = MetricsLog(paths.metrics)
        self._writer: threading.Thread | None = None
        self._latest: dict[str, float] = {}
        self._parent: str | None = None

    def image(self) -> memoryview | None:
        steps = catalog.committed_steps(self._paths.snapshots)
        for step in reversed(steps):
            path = self._paths.snapshot(step)
            try:
                return self._read(path)
            except SnapshotCorrupt as error:
                if not catalog.is_damage(error):
                    raise
                kept = catalog.quarantine(self._storage, path)
                _say(f"{error.problem}; kept as {kept.name}, trying an older one")
        if quarantined := catalog.count_quarantined(self._paths.snapshots):
            raise NoLoadableSnapshot(
                f"none of the {quarantined} snapshots in {self._paths.snapshots} can be loaded",
                "choose another run_id to start from the beginning",
            )
        return None

    def _read(self, path: Path) -> memoryview:
        manifest = catalog.read_manifest(path)
        if len(manifest.files) != 1:
            raise SnapshotError(f"{path.name} is the snapshot of {len(manifest.files)} ranks, this is one process")
        catalog.require_size(path, manifest.files[0])  # before memory is reserved for it
        image = memoryview(mmap.mmap(-1, manifest.files[0].checksum.size))  # aligned to pages
        catalog.read_image(path, manifest.files[0], image)
        self.preparation.want(len(image))
        self._parent = manifest.identity
        return image

    def command(self) -> Command:
        return Command.LEAVE if sigterm.received else Command.NONE

    def snapshots_asked(self) -> int:
        """Nobody can ask."""
        return 0

    def schedule(self, clock: Callable[[], float]) -> Schedule:
        return Schedule(self.settings, clock)

    def interval_chosen(self, chosen: Chosen) -> None:
        _say(f"durable snapshots every {chosen.seconds:.0f} s from now on; one costs {chosen.cost:.2f} s of training")

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None:
        """Nobody watches."""

    def name_phase(self, name: str) -> None:
        """Nobody watches."""

    def own_time(self, steps: int, data: float, compute: float) -> None:
        """There is nobody to compare with."""

    def attached(self, start_step: int) -> None:
        if start_step:
            _say(f"resumed {self._paths.run_id} after step {start_step}")

    def set_total(self, total: int) -> None:
        """Nobody watches."""

    def publish(self, metrics: Iterable[Metrics]) -> None:
        entries = [Entry(0, 0, record) for record in metrics]
        for entry in entries:
            self._latest.update(users_own(entry.metrics.values))
        self._metrics.write(entries)

    def durable_requested(self, slot: Slot) -> None:
        self._wait_for_writer()
        if not threading.main_thread().is_alive():  # the script has ended: a thread would not be waited for any more
            self._commit(slot, dict(self._latest))
            return
        # Not a daemon: the interpreter waits for it at exit, so the last snapshot is never cut short by the script's
        # end.
        writer = threading.Thread(target=self._commit, args=(slot, dict(self._latest)), name="resilient-commit")
        try:
            writer.start()
        except RuntimeError:  # as many threads as the system allows: slower, and no reason to end the training
            self._commit(slot, dict(self._latest))
            return
        self._writer = writer

    def _commit(self, slot: Slot, metrics: dict[str, float]) -> None:
        step = slot.info().step
        draft = Draft(
            run_id=self._paths.run_id,
            step=step,
            round=0,
            images={0: slot.image},
            parent=self._parent,
            metrics=metrics,
            versions={"torch": torch.__version__},
        )
        try:
            commit(self._storage, self._paths.snapshots, draft)
            prune(self._storage, self._paths.snapshots, self._retention)
        except (StorageFull, OSError) as error:
            _say(f"WARNING: step {step} could not be made durable: {error}")
        finally:
            slot.release()

    def _wait_for_writer(self) -> None:
        if self._writer is not None:
            self._writer.join()

    def left(self, step: int) -> None:
        self._wait_for_writer()
        _say(f"preempted at step {step}; start the same command again to carry on")
        sigterm.uninstall()
        atexit.register(_exit_asking_for_requeue)

    def stopped(self, step: int) -> None:
        """No plan names a step."""

    def left_out(self, skips: Sequence[Skip]) -> None:
        """Nobody asks."""

    def finished(self) -> None:
        self._wait_for_writer()
        sigterm.uninstall()


def _exit_asking_for_requeue() -> None:
    """Turn the script's exit 0 into "requeue me": a scheduler takes 0 for finished, and a preempted run is not."""
    atexit.unregister(_exit_asking_for_requeue)
    if getattr(sys, "last_value", None) is not None:
        return  # the script ended with an error after all, and its own exit code says so
    atexit._run_exitfuncs()  # noqa: SLF001  the other handlers still have to run, and nothing runs after os._exit
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ExitCode.REQUEUE)


def _say(message: str) -> None:
    print(f"resilient: {message}", file=sys.stderr, flush=True)


def default_run_directory(environ: Any = os.environ) -> str:
    """Where runs without a supervisor are kept."""
    return str(environ.get("RESILIENT_RUNS", "runs"))
