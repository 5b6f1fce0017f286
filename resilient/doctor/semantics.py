"""What the run's filesystem really does, tried in the run directory: the operations that a commit is made of."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.world import World
from resilient.snapshot.storage import Storage

_ELSEWHERE = "set run.dir to another filesystem"
_RENAMES = 100
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
_MOST_SKEW = 2.0  # seconds
_libc = ctypes.CDLL(None, use_errno=True)


def in_child(question: Callable[[], bool]) -> bool:
    """The answer of another process; a question that raises is answered with no."""
    pid = os.fork()
    if pid == 0:
        answer = False
        try:
            answer = question()
        finally:
            os._exit(0 if answer else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def rename(place: Path) -> Finding:
    """A file is replaced again and again while another process reads it, who must find a whole one every time."""
    file, fresh, done = place / "file", place / "fresh", place / "done"
    file.write_bytes(b"0" * 4096)

    reads, begins = os.pipe()
    pid = os.fork()
    if pid == 0:
        _read_until(file, done, begins)
    os.close(begins)
    try:
        os.read(reads, 1)
        for number in range(_RENAMES):
            fresh.write_bytes(str(number % 10).encode() * 4096)
            fresh.replace(file)
    finally:
        done.touch()
        os.close(reads)
        whole = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    if whole and not fresh.exists():
        return ok("a rename replaces a file in one step")
    return problem(
        "while a file is replaced by a rename it is missing, or not whole, for others: a snapshot could be half there",
        _ELSEWHERE,
    )


def _read_until(file: Path, done: Path, begins: int) -> NoReturn:
    """Read the file until ``done`` exists, and end well if it was whole every time."""
    code = 1
    try:
        while not done.exists():
            if len(file.read_bytes()) != 4096:
                break
            if begins >= 0:
                os.write(begins, b".")
                begins = -1
        else:
            code = 0
    finally:
        os._exit(code)


def exchange(place: Path) -> Finding:
    """Two directories swap their names."""
    one, other = place / "one", place / "other"
    one.mkdir()
    other.mkdir()
    (one / "mark").touch()
    arguments = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE)
    if hasattr(_libc, "renameat2") and _libc.renameat2(*arguments) == 0 and (other / "mark").exists():
        return ok("two directories can swap their names in one step")
    return note("two directories cannot swap their names in one step; a snapshot that is replaced takes three renames")


def sync_directory(place: Path) -> Finding:
    """The names in a directory are flushed."""
    (place / "name").touch()
    try:
        Storage().sync_directory(place)
    except OSError as error:
        return problem(f"a directory cannot be flushed ({error.strerror}), and no snapshot be made durable", _ELSEWHERE)
    return ok("a directory can be flushed")


def locks(place: Path) -> Finding:
    """What one process has locked another must not get, until it is given back; with ``flock``, which we use, and with
    ``fcntl``, which others use.
    """
    file = place / "lock"
    file.touch()
    failed = []
    for name, lock in (("flock", fcntl.flock), ("fcntl", fcntl.lockf)):
        with file.open("r+b") as stream:
            try:
                lock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                failed.append(f"{name} fails ({error.strerror})")
                continue
            if in_child(lambda lock=lock: _can_lock(file, lock)):  # type: ignore[misc]
                failed.append(f"two processes get the same lock by {name}")
            lock(stream, fcntl.LOCK_UN)
            if not in_child(lambda lock=lock: _can_lock(file, lock)):  # type: ignore[misc]
                failed.append(f"a lock by {name} is not given back")
    return judge_locks(failed)


def judge_locks(failed: list[str]) -> Finding:
    """:param failed: what does not work, beginning with ``flock`` where it is that."""
    if any("flock" in text for text in failed):
        return problem(
            f"file locks do not work: {'; '.join(failed)}. A run could not tell whether another supervisor has it",
            "set run.dir to another filesystem, or ask for locks (Lustre: mount with flock; NFS: without nolock)",
        )
    if failed:
        return note(f"{'; '.join(failed)}; resilient does without, others may not")
    return ok("file locks work between processes of this machine")


def _can_lock(file: Path, lock: Callable[[int, int], None]) -> bool:
    descriptor = os.open(file, os.O_RDWR)
    lock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # raises where it is taken
    return True


def exclusive(place: Path) -> Finding:
    """A file that is there must not be made a second time."""
    file = place / "file"
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    if in_child(lambda: _can_make(file)):
        return problem("a file that exists can be made a second time (O_EXCL), so two writers could meet", _ELSEWHERE)
    return ok("a file is made by one process alone (O_EXCL)")


def _can_make(file: Path) -> bool:
    os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    return True


def direct(place: Path) -> Finding:
    """An aligned block is written past the page cache."""
    try:
        descriptor = os.open(place / "direct", os.O_CREAT | os.O_WRONLY | os.O_DIRECT, 0o600)
        try:
            os.write(descriptor, mmap.mmap(-1, 4096))
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:
            return problem(f"a file cannot be written past the page cache: {error.strerror}", _ELSEWHERE)
        return note("files cannot be written past the page cache (O_DIRECT): snapshots take the way through it")
    return ok("files can be written past the page cache (O_DIRECT)")


def links(place: Path) -> Finding:
    """A symbolic link, such as ``latest``, and a hard link."""
    (place / "file").write_bytes(b"content")
    try:
        Storage().point(place / "latest", "file")
        if (place / "latest").read_bytes() != b"content":
            return problem("a symbolic link does not lead where it should", _ELSEWHERE)
    except OSError as error:
        return problem(f"there are no symbolic links ({error.strerror}), and `latest` is one", _ELSEWHERE)
    try:
        (place / "hard").hardlink_to(place / "file")
    except OSError as error:
        return note(f"there are no hard links ({error.strerror}); resilient does without, others may not")
    return ok("symbolic and hard links work")


def mapping(place: Path) -> Finding:
    """What one process writes into a mapped file another must see, as in slots for which shared memory has no room."""
    file = place / "slot"
    file.write_bytes(bytes(4096))
    try:
        with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 4096) as mapped:
            seen = in_child(lambda: _write_mapped(file)) and mapped[:4] == b"mark"
    except OSError as error:
        seen, told = False, f" ({error.strerror})"
    else:
        told = ""
    if seen:
        return ok("mapped files are shared between processes")
    return warning(
        f"mapped files are not shared between processes{told}, so there is nowhere for slots that /dev/shm has no room "
        "for",
        "see that /dev/shm is large enough, or set snapshot.memory_dir or run.dir to another filesystem",
    )


def _write_mapped(file: Path) -> bool:
    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 4096) as mapped:
        mapped[:4] = b"mark"
    return True


def clock(place: Path) -> Finding:
    """The time that the file server gives a new file, beside the time here."""
    before = time.time()
    (place / "file").write_bytes(b"now")
    stamped = (place / "file").stat().st_mtime
    return judge_skew(before, stamped, time.time())


def judge_skew(before: float, stamped: float, after: float) -> Finding:
    skew = stamped - after if stamped > after else min(0.0, stamped - before)
    if abs(skew) <= _MOST_SKEW:
        return ok("the file server's clock agrees with this machine's")
    order = "ahead of" if skew > 0 else "behind"
    return warning(
        f"the file server's clock is {abs(skew):.0f} s {order} this machine's: of a script's own checkpoints it cannot "
        "be told which were written before it ended",
        "ask for both clocks to be set (NTP)",
    )


def _tried(look: Callable[[Path], Finding]) -> Callable[[World], Finding]:
    def tried(world: World) -> Finding:
        with world.trial() as place:
            return look(place)

    return tried


_STUCK = problem("the run directory's filesystem does not answer to this", _ELSEWHERE + ", or report it")


def _check(name: str, explains: str, look: Callable[[Path], Finding]) -> Check:
    return Check(f"disk.{name}", explains, _tried(look), stuck=_STUCK)


CHECKS = (
    _check("rename", "whether a rename replaces a file in one step", rename),
    _check("exchange", "whether directories can swap names", exchange),
    _check("sync_directory", "whether a directory can be flushed", sync_directory),
    _check("locks", "whether file locks work", locks),
    _check("exclusive", "whether a file is made only once", exclusive),
    _check("direct", "whether the page cache can be passed by", direct),
    _check("links", "whether there are symbolic and hard links", links),
    _check("mapping", "whether mapped files are shared", mapping),
    _check("clock", "the file server's clock", clock),
)
