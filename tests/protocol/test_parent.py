"""Dying with one's parent, as generations of real processes. Each says what it has to say through a pipe."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from resilient.protocol import wire

FAMILY = """
import os, sys
from resilient.protocol.parent import die_with_parent, outlive_parent

report, watched, held = map(int, sys.argv[1:])

def say(words):
    os.write(report, words + b"\\n")

def wait_until_parent_is_gone():  # which alone holds the other end
    os.close(held)
    os.read(watched, 1)

parent = os.getpid()
if os.fork() == 0:
    {child}
    os._exit(0)
os.close(watched)
os.read(0, 1)
"""

ADOPTION = """
import os, sys
from resilient.protocol.parent import adopt_orphans

if sys.argv[1] == "adopts":
    adopt_orphans()
watched, held = os.pipe()
reports, report = os.pipe()
if os.fork() == 0:
    if os.fork() == 0:
        os.close(held)
        os.read(watched, 1)  # until the child in between is gone
        os.write(report, str(os.getppid()).encode())
    os._exit(0)
os.wait()
os.close(held)
print(int(os.read(reports, 100)) == os.getpid())
"""


class Family:
    """A parent that lives until it is killed, and a child that reports."""

    def __init__(self, child: str) -> None:
        (reports, report), (watched, held) = os.pipe(), os.pipe()
        self._reports = os.fdopen(reports, "rb")
        passed = (report, watched, held)
        command = [sys.executable, "-c", FAMILY.format(child=child), *map(str, passed)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=passed)
        for descriptor in passed:
            os.close(descriptor)

    def hear(self) -> bytes:
        """The next report, or nothing when all who could make one are gone."""
        return self._reports.readline().strip()

    def kill_parent(self) -> None:
        self._parent.kill()
        self._parent.wait()

    def close(self) -> None:
        self.kill_parent()
        assert self._parent.stdin is not None
        self._parent.stdin.close()
        self._reports.close()


@contextmanager
def family(child: str) -> Iterator[Family]:
    made = Family(child)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize(
    ("tie", "last_words"),
    [
        ("die_with_parent(parent)", b""),
        ("pass", b"alive"),
        ("die_with_parent(parent); outlive_parent()", b"alive"),
    ],
    ids=["tied", "not tied", "tied and untied"],
)
def test_a_child_dies_with_a_killed_parent_as_long_as_it_is_tied_to_it(tie: str, last_words: bytes) -> None:
    with family(f"{tie}; say(b'up'); wait_until_parent_is_gone(); __import__('time').sleep(1); say(b'alive')") as one:
        assert one.hear() == b"up"
        one.kill_parent()
        assert one.hear() == last_words


def test_a_child_whose_parent_is_gone_already_ends_at_once() -> None:
    """Else the signal would never come."""
    script = "from resilient.protocol.parent import die_with_parent\ndie_with_parent(1 << 22)\nprint('alive')"
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGKILL, b"")


@pytest.mark.parametrize("adopts", [True, False], ids=["adopts", "does not"])
def test_an_orphan_becomes_the_child_of_an_ancestor_that_adopts(adopts: bool) -> None:
    command = [sys.executable, "-c", ADOPTION, "adopts" if adopts else "does not"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == str(adopts)


def test_a_forkserver_whose_supervisor_was_killed_while_python_started_ends_at_once() -> None:
    """Else it would import torch first, with the run locked meanwhile."""
    ours, theirs = wire.socket_pair()
    with ours, theirs, tempfile.TemporaryFile() as lock:
        passed = (theirs.fileno(), lock.fileno())
        arguments = [*map(str, passed), str(1 << 22), "", "a_module_nobody_has"]
        command = [sys.executable, "-m", "resilient.worker.forkserver", *arguments]
        done = subprocess.run(command, check=False, pass_fds=passed, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGKILL, "")


def test_what_a_killed_orphan_was_handing_over_in_shared_memory_goes_with_it() -> None:
    script = (
        "import subprocess\n"
        "from pathlib import Path\n"
        "from resilient.protocol.parent import kill_orphans\n"
        "pid = subprocess.Popen(['sleep', '600'], stdout=subprocess.DEVNULL, start_new_session=True).pid\n"
        "batch = Path(f'/dev/shm/torch_{pid}_1_0')\n"
        "batch.touch()\n"
        "kill_orphans(keep=())\n"
        "print(batch.exists())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


ORPHANS = """
import os, signal, subprocess, sys, time
from resilient.protocol.parent import adopt_orphans, children, kill_orphans

os.setsid()
adopt_orphans()
"""


def run_orphans(body: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", ORPHANS + body], check=False, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_orphans_that_fork_while_they_are_killed_are_all_killed() -> None:
    storm = (
        "import os, time\\n"
        "for number in range(300):\\n"
        "    if os.fork() == 0:\\n"
        "        if number % 2: os.setsid()\\n"
        "        time.sleep(0.002); os.fork(); time.sleep(600)\\n"
        "    if number == 20: print(flush=True)\\n"
        "    time.sleep(0.001)\\n"
        "time.sleep(600)"
    )
    assert run_orphans(
        f"process = subprocess.Popen([sys.executable, '-c', '''{storm}'''], start_new_session=True,\n"
        "                           stdout=subprocess.PIPE)\n"
        "process.stdout.readline()\n"
        "print(kill_orphans(()), children())\n"
    ) == ["[] []"]


def test_children_in_ones_own_session_and_those_to_keep_are_left_alone() -> None:
    """A shell that has become the supervisor by ``exec`` had children of its own."""
    assert run_orphans(
        "own = subprocess.Popen(['sleep', '600'])\n"
        "kept = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "other = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "assert kill_orphans({kept.pid}) == []\n"
        "print(own.poll(), kept.poll(), os.path.exists(f'/proc/{other.pid}'))\n"
        "own.kill(); kept.kill()\n"
    ) == ["None None False"]


def test_what_cannot_be_killed_is_not_waited_for_for_ever() -> None:
    """A process that waits for a disk cannot be made here; one whose kill is held back stands for it."""
    assert run_orphans(
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "from resilient.protocol import parent\n"
        "parent._kill_with_group = lambda pid: None\n"
        "print(kill_orphans((), patience=0.1) == [child.pid])\n"
        "child.kill()\n"
    ) == ["True"]
