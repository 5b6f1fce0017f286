"""A run that has no supervisor around it: a plain ``python train.py``."""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from resilient.errors import ExitCode, NoLoadableSnapshot, SnapshotCorrupt, SnapshotError, StorageFull
from resilient.policy.lineage import Skip
from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Command, Metrics, WorkerPhase
from resilient.protocol.lock import RunLock
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import FingerprintSettings, RetentionSettings, SnapshotSettings
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, remove_leftovers
from resilient.snapshot.memory import memory_for_disk
from resilient.snapshot.prune import prune
from resilient.snapshot.storage import Storage
from resilient.worker.group import Group
from resilient.worker.host import say
from resilient.worker.preparation import Preparation
from resilient.worker.reporting import users_own
from resilient.worker.schedule import Chosen, Schedule
from resilient.worker.signals import sigterm


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
                say(f"{error.problem}; kept as {kept.name}, trying an older one")
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
        image = memory_for_disk(manifest.files[0].checksum.size)
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
        say(f"durable snapshots every {chosen.seconds:.0f} s from now on; one costs {chosen.cost:.2f} s of training")

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None:
        """Nobody watches."""

    def name_phase(self, name: str) -> None:
        """Nobody watches."""

    def spent(self, data: float, stalled: float, aside: float) -> None:
        """Nobody keeps a journal."""

    def own_time(self, steps: int, data: float, compute: float) -> None:
        """There is nobody to compare with."""

    def attached(self, start_step: int) -> None:
        if start_step:
            say(f"resumed {self._paths.run_id} after step {start_step}")

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
            say(f"WARNING: step {step} could not be made durable: {error}")
        finally:
            slot.release()

    def _wait_for_writer(self) -> None:
        if self._writer is not None:
            self._writer.join()

    def left(self, step: int) -> None:
        self._wait_for_writer()
        say(f"preempted at step {step}; start the same command again to carry on")
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


def default_run_directory(environ: Any = os.environ) -> str:
    """Where runs without a supervisor are kept."""
    return str(environ.get("RESILIENT_RUNS", "runs"))
