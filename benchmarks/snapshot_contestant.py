"""What a contestant is, and what is timed of it. Pure torch: the environments of the peers have no more.

Subclasses say how something is saved and loaded; what is measured, from where to where, is the same for all of them and
stands here.
"""

from __future__ import annotations

import shutil
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

from benchmarks.snapshot_disk import drop_caches, sync_tree
from benchmarks.snapshot_state import State

Seconds = dict[str, float]

_FIRST, _SECOND = 1.0, 2.0  # what marks the states of two saves, of which the second begins while the first persists
_PAUSE_SECONDS = 0.1  # between them, so that the first is persisting by then


class Pending(ABC):
    """A save that was begun: control is back in the training loop."""

    @abstractmethod
    def wait_copied(self) -> None:
        """Return when the state may be changed."""

    @abstractmethod
    def wait_written(self) -> None:
        """Return when the contestant takes the save for complete. What it has not synced to disk is synced after."""

    def persisting(self) -> bool:
        """Whether it is still being written."""
        return False

    def skipped(self) -> bool:
        """Whether the contestant has declined to save."""
        return False


class Complete(Pending):
    """A save that was complete when control came back."""

    def wait_copied(self) -> None: ...

    def wait_written(self) -> None: ...


class Contestant(ABC):
    """One way to save and load. Subclasses say how; what is timed, and when, is the same for all and stands here."""

    name: str
    extension = ""
    persists = True  # it writes to disk
    asynchronous = False  # control is back before it has written, so that a second save may begin
    in_place = False  # `read` puts the state where it belongs, so that there is nothing left to install

    def __init__(self, state: State, folder: Path) -> None:
        self.state = state
        self.folder = folder
        self._count = 0

    @abstractmethod
    def begin(self, path: Path) -> Pending:
        """Save to ``path``; returns when the training loop may go on."""

    @abstractmethod
    def read(self, path: Path) -> Any:
        """Load what was saved, as documented; into the state itself if ``in_place``."""

    def install(self, loaded: Any) -> None:
        """Put what was read into model and optimizer."""
        self.state.install(loaded)

    def from_memory(self) -> bool:
        """Load the newest save from memory into model and optimizer; False if there is no such thing."""
        return False

    def close(self) -> None:  # noqa: B027  most have nothing to close
        """Leave nothing behind."""

    # --- what the driver asks for

    def save(self, *, check: bool) -> Seconds:
        """One save, from the call until every byte is on the disk, then the load of it."""
        path = self.next_path()
        seconds = self.timed_save(path)
        if self.persists:
            seconds |= self.timed_load(path, check=check)
        seconds |= self.timed_memory(check=check)
        self.remove(path)
        return seconds

    def timed_save(self, path: Path) -> Seconds:
        start = time.perf_counter()
        pending = self.begin(path)
        seconds = {"stall": time.perf_counter() - start}
        pending.wait_copied()
        seconds["copied"] = time.perf_counter() - start
        if self.persists:
            pending.wait_written()
            sync_tree(path)
            seconds["durable"] = time.perf_counter() - start
        if pending.skipped():
            raise RuntimeError(f"{self.name} has skipped a save, though nothing else was going on")
        return seconds

    def timed_load(self, path: Path, *, check: bool) -> Seconds:
        wanted = self.state.fingerprint() if check else 0
        if check:
            self.state.clear()
        drop_caches(path)
        start = time.perf_counter()
        loaded = self.read(path)
        seconds = {"load": time.perf_counter() - start}
        if not self.in_place:
            self.install(loaded)
        seconds["resume"] = time.perf_counter() - start
        if check and self.state.fingerprint() != wanted:
            raise RuntimeError(f"{self.name} has not loaded what it saved")
        return seconds

    def timed_memory(self, *, check: bool) -> Seconds:
        wanted = self.state.fingerprint() if check else 0
        start = time.perf_counter()
        if not self.from_memory():
            return {}
        seconds = time.perf_counter() - start
        if check and self.state.fingerprint() != wanted:
            raise RuntimeError(f"{self.name} has not loaded from memory what it saved")
        return {"memory": seconds}

    def second(self, *, check: bool) -> tuple[Seconds, str]:
        """A second save while the first is being persisted: how long it stalls, and what becomes of both."""
        original = self.state.marks()
        first, other = self.next_path(), self.next_path()
        self.state.mark(_FIRST)
        pending = self.begin(first)
        pending.wait_copied()
        time.sleep(_PAUSE_SECONDS)
        concurrent = pending.persisting()
        self.state.mark(_SECOND)
        start = time.perf_counter()
        later = self.begin(other)
        seconds = {"second": time.perf_counter() - start}
        waited = not pending.persisting()
        later.wait_copied()
        seconds["second copied"] = time.perf_counter() - start
        pending.wait_written()
        if not later.skipped():
            later.wait_written()
        note = "is skipped" if later.skipped() else "comes back after the first is written" if waited else "is taken"
        if not concurrent:
            note = "cannot meet the first, which is written by then"
        if check:
            note += f"; the first {self._fate(first)}"
        self.state.set_marks(original)
        self.remove(first)
        self.remove(other)
        return seconds, note

    def _fate(self, path: Path) -> str:
        try:
            loaded = self.read(path)
            if not self.in_place:
                self.install(loaded)
        except Exception as error:  # noqa: BLE001  whatever it is, it is what came of the first save
            return f"cannot be loaded ({type(error).__name__}: {str(error).splitlines()[0][:80]})"
        marks = self.state.marks()
        torn = sum(mark != _FIRST for mark in marks)
        return "is intact" if not torn else f"holds the second's values in {torn} of {len(marks)} tensors"

    def next_path(self) -> Path:
        self._count += 1
        return self.folder / f"save-{self._count:06d}{self.extension}"

    def remove(self, path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
