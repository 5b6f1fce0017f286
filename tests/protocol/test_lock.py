"""One owner per run: two processes that want the same lock, and what a killed owner leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from resilient.errors import RunDirectoryNotWritable, RunLocked
from resilient.protocol.lock import Owner, RunLock, kept_idle
from tests.mounts import fill, mounted

HOLDER = """
import subprocess, sys
from pathlib import Path
from resilient.protocol.lock import RunLock
lock = RunLock(Path(sys.argv[1]), "node")
if "child" in sys.argv:  # a helper that inherits the lock, and outlives its parent by as long as its input is open
    child = subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=[lock.fileno()])
print("locked", flush=True)
input()
lock.release()
"""


class Holder:
    """Another process that owns the lock until it is told to release it, or is killed."""

    def __init__(self, path: Path, *arguments: str) -> None:
        command = [sys.executable, "-c", HOLDER, str(path), *arguments]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "locked\n"
        self.children = psutil.Process(self.process.pid).children()

    @property
    def pid(self) -> int:
        return self.process.pid

    def release(self) -> None:
        self.process.communicate("\n")

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        for child in self.children:
            if child.is_running():
                child.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None and not stream.closed:
                stream.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "supervisor-node.lock"


@pytest.fixture
def holder(path: Path) -> Iterator[Holder]:
    made = Holder(path)
    yield made
    made.close()


def test_a_second_process_is_refused_and_told_who_has_the_lock(path: Path, holder: Holder) -> None:
    with pytest.raises(RunLocked, match=f"process {holder.pid} on node") as raised:
        RunLock(path, "node")
    assert "run.id" in raised.value.remedy


def test_a_second_lock_in_the_same_process_is_refused_too(path: Path) -> None:
    lock = RunLock(path, "node")
    with pytest.raises(RunLocked, match=f"process {os.getpid()} on node"):
        RunLock(path, "node")
    lock.release()


def test_after_a_clean_release_there_is_no_predecessor(path: Path, holder: Holder) -> None:
    holder.release()
    lock = RunLock(path, "node")
    assert lock.predecessor is None
    lock.release()


def test_a_killed_owner_is_found_as_predecessor(path: Path, holder: Holder) -> None:
    started = psutil.Process(holder.pid).create_time()
    holder.kill()
    lock = RunLock(path, "node")
    assert lock.predecessor == Owner(holder.pid, started, "node")
    lock.release()


def test_the_predecessor_of_a_clean_successor_is_forgotten(path: Path, holder: Holder) -> None:
    holder.kill()
    RunLock(path, "node").release()
    lock = RunLock(path, "node")
    assert lock.predecessor is None
    lock.release()


def test_what_a_killed_owner_has_started_keeps_the_lock_until_it_is_gone(path: Path) -> None:
    holder = Holder(path, "child")
    holder.kill()
    with pytest.raises(RunLocked, match=f"process {holder.pid} on node"):
        RunLock(path, "node", patience=0.0)
    for child in holder.children:
        child.kill()
    lock = RunLock(path, "node")
    assert lock.predecessor is not None
    assert lock.predecessor.pid == holder.pid
    lock.release()
    holder.close()


def test_a_refused_lock_leaves_the_owners_name_in_place(path: Path, holder: Holder) -> None:
    before = path.read_bytes()
    for _ in range(2):
        with pytest.raises(RunLocked):
            RunLock(path, "node")
    assert path.read_bytes() == before


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"pid": 1}', '{"pid": "x", "started": 0, "host": "n"}'])
def test_a_lock_file_that_names_nobody_is_as_good_as_new(path: Path, text: str) -> None:
    path.write_text(text)
    lock = RunLock(path, "node")
    assert lock.predecessor is None
    lock.release()


def test_a_lock_file_that_cannot_be_opened_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryNotWritable, match=r"none/x\.lock"):
        RunLock(tmp_path / "none" / "x.lock", "node")


# --- keeping a run idle without owning it


def test_what_is_kept_idle_cannot_be_started_and_can_be_afterwards(path: Path) -> None:
    RunLock(path, "node").release()
    with kept_idle([path]), pytest.raises(RunLocked, match="another process"):
        RunLock(path, "node")
    RunLock(path, "node").release()


def test_what_is_owned_cannot_be_kept_idle(path: Path, holder: Holder) -> None:
    with pytest.raises(RunLocked, match=f"process {holder.pid} on node"), kept_idle([path]):
        raise AssertionError("not to be reached")
    holder.kill()
    before = path.read_bytes()
    with kept_idle([path]):
        pass
    assert path.read_bytes() == before, "the successor is still to learn who was killed"


def test_who_owns_it_can_be_read_by_anybody(path: Path) -> None:
    assert Owner.read(path) is None
    lock = RunLock(path, "node")
    assert Owner.read(path) == Owner.current("node")
    lock.release()
    assert Owner.read(path) is None


# --- who is alive


def test_we_are_alive() -> None:
    assert Owner.current("node").is_alive("node")


def test_an_owner_on_another_host_is_taken_to_be_alive() -> None:
    assert Owner(1, 0.0, "elsewhere").is_alive("node")


def test_a_process_number_that_was_given_out_again_is_another_process() -> None:
    assert not Owner(os.getpid(), psutil.Process().create_time() - 60.0, "node").is_alive("node")


def test_a_killed_process_is_not_alive_even_while_nobody_has_reaped_it(holder: Holder) -> None:
    owner = Owner(holder.pid, psutil.Process(holder.pid).create_time(), "node")
    assert owner.is_alive("node")
    os.kill(holder.pid, signal.SIGKILL)
    os.waitid(os.P_PID, holder.pid, os.WEXITED | os.WNOWAIT)
    assert not owner.is_alive("node")
    holder.kill()
    assert not owner.is_alive("node")


def test_on_a_full_disk_a_killed_owner_is_taken_over_and_no_new_one_gets_in(tmp_path: Path) -> None:
    with mounted(tmp_path / "small", "size=1m") as small:
        killed, fresh = small / "killed.lock", small / "fresh.lock"
        holder = Holder(killed)
        holder.kill()
        fill(small, 0)
        lock = RunLock(killed, "node")
        assert lock.predecessor is not None
        assert lock.predecessor.pid == holder.pid
        assert Owner.read(killed) == Owner.current("node")
        with pytest.raises(OSError, match="No space left"):
            RunLock(fresh, "node")
        lock.release()
        holder.close()
