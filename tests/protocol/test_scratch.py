"""One directory for the sockets of all processes of a run, whatever becomes of them."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.protocol.scratch import Scratch

KILLED = """
import os, signal, sys
from multiprocessing import resource_sharer, synchronize
from resilient.protocol.scratch import use_scratch

use_scratch(sys.argv[1])
print(synchronize.SemLock._make_name())
if sys.argv[2] == "tidied up":
    os.rmdir(sys.argv[1])
if os.fork() == 0:
    resource_sharer.DupFd(0)  # as torch hands a batch over
    os.kill(os.getpid(), signal.SIGKILL)
os.wait()
"""


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    # not tmp_path, which is longer than a socket's address
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as directory:
        monkeypatch.setattr(tempfile, "tempdir", directory)
        yield Path(directory)


@pytest.mark.parametrize("before", ["there", "tidied up"])
def test_what_a_killed_process_leaves_goes_with_the_directory(temporary: Path, before: str) -> None:
    scratch = Scratch("0123456789abcdef0123")
    made = scratch.make()
    assert made is not None
    environment = {**os.environ, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", KILLED, str(made), before]
    done = subprocess.run(command, check=True, env=environment, capture_output=True, text=True)
    semaphore = Path(f"/dev/shm/sem.{done.stdout.strip()[1:]}")
    semaphore.touch()  # as it is when its process is killed between making and opening it
    assert [path.name.partition("-")[0] for path in made.iterdir()] == ["listener"]
    assert list(temporary.iterdir()) == [made]
    assert scratch.make() == made
    assert list(made.iterdir()) == []
    assert not semaphore.exists()
    scratch.remove()
    assert list(temporary.iterdir()) == []


def test_two_runs_have_two_and_a_successor_finds_its_own(temporary: Path) -> None:
    assert Scratch("a" * 32).directory == Scratch("a" * 32).directory != Scratch("b" * 32).directory


def test_what_somebody_else_has_put_there_is_neither_used_nor_removed(temporary: Path) -> None:
    other, scratch = temporary / "other", Scratch("c" * 32)
    other.mkdir()
    scratch.directory.symlink_to(other)
    assert scratch.make() is None
    scratch.remove()
    assert other.is_dir()


def test_a_name_too_long_for_sockets_is_not_used(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = temporary / ("d" * 80)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    assert Scratch("e" * 32).make() is None
    assert list(deep.iterdir()) == []
