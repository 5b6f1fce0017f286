"""The limits, and resilient with and without overlap: one seat, for they share one state and one arena."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from benchmarks.snapshot_contestant import Contestant, Pending, Seconds
from benchmarks.snapshot_limits import CopyLimit, DiskLimit, Limits
from benchmarks.snapshot_state import State
from resilient.protocol.arena import Arena, Slot
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit, retire
from resilient.snapshot.storage import Storage
from resilient.supervisor.growing import GrowingImages
from resilient.worker.capture import Capture, flatten_objects, restore
from resilient.worker.overlap import Copier
from resilient.worker.rng import GlobalRandomState

_POLL_SECONDS = 0.001

OVERLAPPED, BLOCKING = "resilient, overlapped", "resilient, not overlapped"


class Engine:
    """Arena, capture and storage as a worker and the drain have them. Commits run in a thread, one after the other."""

    def __init__(self, state: State, folder: Path) -> None:
        self.folder = folder
        self.arena = Arena.private(3)
        objects = {"model": state.model, "optimizer": state.optimizer, "rng": GlobalRandomState()}
        self.objects = flatten_objects(objects)
        self.capture = Capture(self.objects, allow_pickle=False)
        self.copier = Copier()
        self.storage = Storage()
        self.step = 0
        self._committing = threading.Lock()

    def next_slot(self) -> Slot:
        self.step += 1
        slot = self.arena.next_free()
        if slot is None:
            raise RuntimeError("no slot is free, though two saves at most are under way")
        return slot

    def commit(self, slot: Slot, step: int) -> float:
        """Make the image durable that is about to be written into the slot, and begin as soon as that has; returns when
        its turn came, which may be after an earlier one.
        """
        with self._committing:
            turn = time.perf_counter()
            while not (slot.info().held and slot.info().step == step):
                time.sleep(_POLL_SECONDS)
            images = GrowingImages({0: slot}, step, {0: slot.info().begun}, lambda _: None)
            draft = Draft("benchmark", step, 0, {0: slot.image}, ready=images.ready, settle=images.settle)
            commit(self.storage, self.folder, draft)
            slot.release()
            return turn


class _Save(Pending):
    """A save on its way to disk."""

    def __init__(self, engine: Engine, slot: Slot, step: int, *, grow: bool) -> None:
        self.commit_seconds = 0.0
        self._engine = engine
        self._slot = slot
        self._step = step
        self._complete_at = 0.0
        self._thread = threading.Thread(target=self._commit, daemon=True)
        if grow:
            self._thread.start()

    def copied(self, unchanged: bool) -> None:
        """The image is complete: hand it over, as the worker does."""
        if not unchanged:
            self._slot.void()
            raise RuntimeError("the state was changed while it was copied")
        self._complete_at = time.perf_counter()
        self._slot.complete(self._engine.arena.next_sequence(), {}, hold=True)
        if self._thread.ident is None:
            self._thread.start()

    def _commit(self) -> None:
        turn = self._engine.commit(self._slot, self._step)
        self.commit_seconds = time.perf_counter() - max(turn, self._complete_at)

    def wait_copied(self) -> None:
        self._engine.copier.wait()

    def wait_written(self) -> None:
        self._thread.join()

    def persisting(self) -> bool:
        return self._thread.is_alive()


class Resilient(Contestant):
    asynchronous = True

    def __init__(self, state: State, engine: Engine, *, overlap: bool) -> None:
        super().__init__(state, engine.folder)
        self.name = OVERLAPPED if overlap else BLOCKING
        self._engine = engine
        self._overlap = overlap
        self._save: _Save | None = None
        self._loaded: Slot | None = None

    def next_path(self) -> Path:
        """Where the engine puts the snapshot of the step that comes next; saves may be named before they begin."""
        self._count += 1
        return self.folder / f"pending-{self._count}"

    def begin(self, path: Path) -> Pending:
        engine = self._engine
        slot = engine.next_slot()
        save = self._save = _Save(engine, slot, engine.step, grow=self._overlap)
        if self._overlap:
            engine.capture.write_overlapped(slot, engine.step, engine.copier, save.copied, grow=True)
        else:
            engine.capture.write(slot, engine.step)
            save.copied(True)
        path.symlink_to(f"step-{engine.step:09d}")
        return save

    def timed_save(self, path: Path) -> Seconds:
        seconds = super().timed_save(path)
        if self._save is not None:
            seconds["commit"] = self._save.commit_seconds
        return seconds

    def read(self, path: Path) -> Slot:
        """Verified, into a slot."""
        snapshot = path.resolve()
        slot = self._engine.next_slot()
        file = catalog.read_manifest(snapshot).files[0]
        slot.begin(self._engine.step, file.checksum.size)
        catalog.read_files(snapshot, [(file, slot.put)])  # as the drain does
        return slot

    def install(self, loaded: Slot) -> None:
        restore(loaded.image, self._engine.objects, allow_pickle=False)
        loaded.void()

    def from_memory(self) -> bool:
        newest = self._engine.arena.newest()
        if newest is None:
            return False
        restore(newest.image, self._engine.objects, allow_pickle=False)
        return True

    def remove(self, path: Path) -> None:
        snapshot = path.resolve()
        path.unlink()
        retire(self._engine.storage, snapshot)

    def close(self) -> None:
        self._engine.copier.close()


def contestants(state: State, folder: Path) -> list[Contestant]:
    engine, limits = Engine(state, folder), Limits(state)
    return [
        CopyLimit(state, folder, limits),
        DiskLimit(state, folder, limits),
        Resilient(state, engine, overlap=True),
        Resilient(state, engine, overlap=False),
    ]
