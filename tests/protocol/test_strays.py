"""Finding what a supervisor has left behind, by its mark, and sparing everybody else."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from resilient.protocol.lock import Owner
from resilient.protocol.strays import MARK, find_strays, kill_strays, mark, owner_of

IDENTITY = "0123456789abcdef" * 2
GONE = Owner(1 << 22, 1e9, "here")
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts sleepers with a mark."""
    started: list[subprocess.Popen[bytes]] = []

    def start_one(value: str, code: str = "") -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", f"{code}\nprint(flush=True)\nimport time; time.sleep(600)"]
        process = subprocess.Popen(command, env={**os.environ, MARK: value}, stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        started.append(process)
        return process

    yield start_one
    for process in started:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def test_what_bears_the_mark_of_a_supervisor_that_is_gone_is_killed(start: Start) -> None:
    process = start(mark(IDENTITY, GONE))
    assert find_strays(IDENTITY, "here") == [process.pid]
    assert kill_strays(IDENTITY, "here") == [process.pid]
    assert process.wait() == -9
    assert kill_strays(IDENTITY, "here") == []


def test_everybody_else_is_spared(start: Start) -> None:
    others = [
        start(mark(IDENTITY, Owner.current("here"))),  # its supervisor lives
        start(mark("f" * 32, GONE)),  # of another run
        start(mark(IDENTITY, Owner(GONE.pid, GONE.started, "elsewhere"))),  # of another host
        start(mark(IDENTITY, GONE).replace(":", ":other-", 2)),  # of another namespace
        start("nonsense"),
    ]
    assert kill_strays(IDENTITY, "here") == []
    assert all(process.poll() is None for process in others)


def test_a_supervisor_whose_number_another_process_has_by_now_is_gone(start: Start) -> None:
    recycled = Owner(os.getpid(), Owner.current("here").started - 1000, "here")
    process = start(mark(IDENTITY, recycled))
    assert kill_strays(IDENTITY, "here") == [process.pid]


def test_forked_children_and_programs_bear_it_too(start: Start) -> None:
    """Forked ones show the environment of the program they were forked from."""
    code = "import os, subprocess, sys\nsubprocess.Popen(['sleep', '600'], start_new_session=True)\nos.fork()"
    process = start(mark(IDENTITY, GONE), code)
    assert len(kill_strays(IDENTITY, "here")) == 3
    assert process.wait() == -9


def test_a_process_that_looks_spares_itself_and_its_ancestors() -> None:
    code = "from resilient.protocol.strays import kill_strays; import sys; print(kill_strays(sys.argv[1], 'here'))"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1" "$2"; true', sys.executable, code, IDENTITY],
        env={**os.environ, MARK: mark(IDENTITY, GONE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_a_mark_names_its_supervisor() -> None:
    assert owner_of(mark(IDENTITY, GONE), IDENTITY) == GONE
    for value in ("", IDENTITY, f"{IDENTITY}:here", mark(IDENTITY, GONE) + "x", f"{IDENTITY}:here:0:x:y"):
        assert owner_of(value, IDENTITY) is None
