"""The disk of the run: that it can be written, how much room it has, how fast it is, and what filesystem it is."""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from resilient.doctor import mounts
from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.words import duration, size
from resilient.doctor.world import World
from resilient.policy.state import StopSettings
from resilient.protocol.append import NO_ROOM
from resilient.snapshot.direct import open_direct, write_all

_PIECE = 4 << 20
_MOST_BYTES = 64 << 20
_MOST_SECONDS = 3.0
_SPARE_FILES = 1000
_HANGS = problem(
    "the run directory's filesystem does not answer, and a snapshot written there would not end either",
    "set run.dir to another one, or report it: a file server is down or overloaded",
)


@dataclass(frozen=True)
class Speed:
    """What was written, and until it was durable.

    :param seconds: of the writing and the flush.
    """

    written: int
    seconds: float

    def of(self, count: int) -> float:
        """Seconds that so many bytes will take."""
        return count * self.seconds / self.written


def judge_room(place: Path, free: int, files: int | None, state: int | None, last: int) -> Finding:
    """Whether the snapshots that retention keeps have room, and one more that is being written.

    :param files: that can still be made; None where there is no limit.
    """
    text = f"{place} has {size(free)} free"
    make_room = "free space, set run.dir to a larger disk, or lower retention.last"
    if files is not None and files < _SPARE_FILES:
        return problem(f"{place} has room for only {files} more files (inodes)", "delete files, or set run.dir")
    if state is None:
        return ok(f"{text}; how much a snapshot needs is not known before the first one")
    if free < 2 * state:
        return problem(f"{text}, and two snapshots need {size(2 * state)}", make_room)
    if free < (last + 1) * state:
        return warning(
            f"{text}, and the {last} that are kept need {size((last + 1) * state)}, with a new one", make_room
        )
    return ok(f"{text}, room for {free // state if state else 'any number of'} snapshots")


def judge_speed(speed: Speed, state: int | None, stop: StopSettings) -> Finding:
    """Whether a snapshot can be durable within the grace of a preemption."""
    rate = f"the run's disk takes {size(speed.written / speed.seconds)} a second"
    longest = stop.grace_seconds * stop.flush_fraction
    sure = stop.grace_seconds * (stop.flush_fraction - stop.term_fraction)
    if state is None:
        return ok(f"{rate}: within the {duration(sure)} that a preemption leaves for it, {size(sure / speed.of(1))}")
    text = f"{rate}: a snapshot of {size(state)} takes {duration(speed.of(state))}"
    if speed.of(state) > longest:
        return problem(
            f"{text}, longer than the grace of {stop.grace_seconds:g} s: after a preemption the last durable snapshot "
            "is all there is",
            "ask for a longer grace and set stop.grace_seconds, set run.dir to a faster disk, or make more of them "
            "durable (snapshot.every_steps)",
        )
    if speed.of(state) > sure:
        return warning(
            f"{text}: after a preemption {duration(sure)} are sure for it, and the rest only if the step in progress "
            "ends soon enough",
            "ask for a longer grace and set stop.grace_seconds, or set run.dir to a faster disk",
        )
    return ok(f"{text}, and a preemption leaves {duration(sure)} for it")


def measure(directory: Path, most: int = _MOST_BYTES, clock: Callable[[], float] = time.monotonic) -> Speed:
    """Write a file as a snapshot's image is written, at most so many bytes and for three seconds, and flush it."""
    piece = mmap.mmap(-1, _PIECE)  # its address is aligned as O_DIRECT wants it
    piece[:] = os.urandom(_PIECE)  # a filesystem that compresses is not to look fast
    descriptor = open_direct(directory / "speed", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    written, began = 0, clock()
    try:
        while written < most and clock() - began < _MOST_SECONDS:
            write_all(descriptor, memoryview(piece))
            written += _PIECE
        os.fsync(descriptor)
        return Speed(written, max(clock() - began, 1e-6))
    finally:
        os.close(descriptor)


def _writable(world: World) -> Finding:
    """In the run's directory, or where it would be made."""
    root, place = world.run_root, world.nearest()
    if not os.access(place, os.W_OK | os.X_OK):
        return problem(f"{place} cannot be written by this user, or is read-only", "check it, or set run.dir")
    if root.exists() and not root.is_dir():
        return problem(f"{root} is no directory", "remove it, or choose another run.id")
    try:
        with world.trial() as trial:
            (trial / "file").write_bytes(b"content")
    except OSError as error:
        remedy = "free space there, or set run.dir" if error.errno in NO_ROOM else "check it, or set run.dir"
        return problem(f"{place} cannot be written: {error.strerror}", remedy)
    return ok(f"{root} can be written" if root == place else f"{root} can be made in {place}")


def _room(world: World) -> Finding:
    subject, place = world.subject, world.nearest()
    stats = os.statvfs(place)
    state, last = (None, 1) if subject is None else (subject.state_bytes(), subject.retention.last)
    files = stats.f_favail if stats.f_files else None
    return judge_room(place, stats.f_bavail * stats.f_frsize, files, state, last)


def _speed(world: World) -> Finding:
    subject = world.subject
    free = os.statvfs(world.nearest())
    if free.f_bavail * free.f_frsize < 2 * _MOST_BYTES:
        return note("the speed of the run's disk was not measured: there is too little room")
    with world.trial() as trial:
        speed = measure(trial)
    stop = subject.stop if subject is not None else StopSettings()
    return judge_speed(speed, subject.state_bytes() if subject is not None else None, stop)


def _kind(world: World) -> Finding:
    place = world.nearest().resolve()
    found = mounts.mount_of(place, mounts.parse((world.proc / "self/mountinfo").read_text(errors="replace")))
    return mounts.judge(found, place) if found is not None else note(f"it is not known what filesystem {place} is on")


CHECKS = (
    Check("disk.speed", "how fast a snapshot becomes durable", _speed, seconds=30.0, alone=True, stuck=_HANGS),
    Check("disk.writable", "whether the run directory can be written", _writable, stuck=_HANGS),
    Check("disk.room", "room for the durable snapshots", _room, stuck=_HANGS),
    Check("disk.kind", "the filesystem of the run directory", _kind, stuck=_HANGS),
)
