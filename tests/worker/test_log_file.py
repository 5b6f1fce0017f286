"""The worker's log, each in a process whose stdout it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from resilient.protocol.log_pieces import piece_numbers, piece_path
from resilient.supervisor.output import LogFollower

PREAMBLE = """
import os, sys, threading
from pathlib import Path
from resilient.worker.log_file import open_log, rotate_if_large

path = Path(sys.argv[1])
"""


def run(log: Path, body: str) -> None:
    """Run ``body`` in a process of its own; it says what is wrong by its exit code."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body, str(log)], capture_output=True, check=False, timeout=60
    )
    told = log.read_text(errors="replace")[-2000:] if log.is_file() else ""
    assert done.returncode == 0, (done.stdout + done.stderr).decode() + told


def pieces(log: Path) -> list[Path]:
    return [*(piece_path(log, number) for number in piece_numbers(log)), log]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "rank-00000.log"


def test_it_is_appended_to_and_whatever_the_process_writes_goes_there(log: Path) -> None:
    log.write_text("before\n")
    run(
        log,
        "open_log(path)\n"
        "print('python')\n"
        "os.write(1, b'descriptor 1\\n')\n"
        "os.write(2, b'descriptor 2\\n')\n"
        "os.system('echo a program')\n"
        "print('error', file=sys.stderr)\n"
        "sys.stdout.buffer.write(b'bytes\\n')\n"
        "assert not sys.stdout.isatty() and sys.stdout.fileno() == 1 and sys.stderr.fileno() == 2\n",
    )
    lines = ["before", "python", "descriptor 1", "descriptor 2", "a program", "error", "bytes"]
    assert log.read_text().splitlines() == lines


def test_a_large_log_is_rotated_and_no_line_is_lost(log: Path) -> None:
    run(
        log,
        "open_log(path, most=100_000, keep=1000)\n"
        "threads = [threading.Thread(target=lambda n=n: [print(f'{n} {i:06d} ' + 'x' * 90) for i in range(5000)])\n"
        "           for n in range(3)]\n"
        "[thread.start() for thread in threads]\n"
        "[thread.join() for thread in threads]\n",
    )
    found = pieces(log)
    assert len(found) > 5
    assert all(piece.stat().st_size < 400_000 for piece in found)
    lines = [line.split()[:2] for piece in found for line in piece.read_text().splitlines()]
    for number in range(3):
        mine = [int(line[1]) for line in lines if line and line[0] == str(number)]
        assert sorted(mine) == list(range(5000)), "threads share a stream; no line is lost"


def test_what_c_code_wrote_is_rotated_at_a_step_boundary(log: Path) -> None:
    run(
        log,
        "open_log(path, most=4096)\n"
        "os.write(1, b'x' * 5000 + b'\\n')\n"
        "assert rotate_if_large()\n"
        "os.write(1, b'new\\n')\n"
        "assert not rotate_if_large()\n",
    )
    assert piece_path(log, 1).stat().st_size == 5001
    assert log.read_text() == "new\n"


def test_a_line_is_not_torn_unless_it_has_no_end(log: Path) -> None:
    run(
        log,
        "open_log(path, most=4096)\n"
        "os.write(1, b'x' * 5000)\n"
        "assert not rotate_if_large()\n"
        "os.write(1, b'x' * 5000)\n"
        "assert rotate_if_large()\n",
    )


def test_only_so_many_older_pieces_are_kept(log: Path) -> None:
    run(
        log,
        "open_log(path, most=4096, keep=2)\n"
        "for number in range(6):\n"
        "    os.write(1, b'%d' % number + b'x' * 5000 + b'\\n')\n"
        "    assert rotate_if_large()\n",
    )
    assert piece_numbers(log) == [5, 6]
    assert piece_path(log, 6).read_text().startswith("5x")


def test_forked_children_move_on_to_the_new_file_and_rotate_nothing(log: Path) -> None:
    run(
        log,
        "open_log(path, most=4096)\n"
        "ready, go = os.pipe(), os.pipe()\n"
        "if os.fork() == 0:\n"
        "    os.read(go[0], 1)\n"
        "    print('the child ' + 'y' * 9000)\n"
        "    assert not rotate_if_large()\n"
        "    os._exit(0)\n"
        "os.write(1, b'x' * 5000 + b'\\n')\n"
        "assert rotate_if_large()\n"
        "os.write(go[1], b'.')\n"
        "assert os.wait()[1] == 0\n",
    )
    assert log.read_text().startswith("the child")
    assert "child" not in piece_path(log, 1).read_text()


def test_a_script_that_has_put_its_own_file_there_keeps_it(log: Path) -> None:
    run(
        log,
        "open_log(path, most=4096)\n"
        "own = os.open(path.with_name('own'), os.O_WRONLY | os.O_CREAT)\n"
        "os.dup2(own, 1)\n"
        "os.write(2, b'x' * 5000 + b'\\n')\n"
        "assert rotate_if_large()\n"
        "os.write(1, b'to its own')\n"
        "os.write(2, b'to the log')\n"
        "os.dup2(own, 2)\n"
        "os.truncate(path, 1 << 20)\n"
        "assert not rotate_if_large()\n",
    )
    assert log.with_name("own").read_text() == "to its own"
    assert log.read_text(errors="replace").startswith("to the log")


def test_a_full_disk_does_not_end_the_script_and_what_is_missing_is_told(log: Path) -> None:
    """``/dev/full`` refuses every write as a full disk does."""
    run(
        log,
        "opened = open_log(path)\n"
        "print('before')\n"
        "log, full = os.dup(1), os.open('/dev/full', os.O_WRONLY)\n"
        "os.dup2(full, 1)\n"
        "print('lost')\n"
        "print('lost, too')\n"
        "os.dup2(log, 1)\n"
        "print('after')\n",
    )
    told = "resilient: 15 bytes of output are missing here: the disk was full, or did not answer"
    assert log.read_text().splitlines() == ["before", "", told, "after"]


def test_a_disk_full_in_the_middle_of_a_line_is_told_in_its_place(log: Path) -> None:
    run(
        log,
        "import resource, signal\n"
        "from resilient.worker import log_file\n"
        "import errno\n"
        "log_file.LATER = log_file.LATER | {errno.EFBIG}\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "open_log(path)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))\n"
        "print('x' * 150)\n"
        "print('y')\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "print('z')\n",
    )
    first, told, last = log.read_text().splitlines()
    assert first == "x" * 100
    assert "53 bytes" in told
    assert last == "z"


def test_another_error_is_the_scripts_to_hear_of(log: Path) -> None:
    run(
        log,
        "open_log(path)\nos.close(1)\ntry:\n    print('nobody hears')\nexcept OSError:\n    os._exit(0)\nos._exit(1)\n",
    )


def test_a_process_whose_output_is_not_ours_rotates_nothing(log: Path) -> None:
    run(log, "assert not rotate_if_large()\n")


def test_the_supervisor_follows_a_real_writer_over_its_rotations(log: Path) -> None:
    count = 20_000
    body = f"open_log(path, most=50_000, keep=1000)\nfor number in range({count}):\n    print('line', number)\n"
    follower = LogFollower(log)
    writer = subprocess.Popen([sys.executable, "-c", PREAMBLE + body, str(log)])
    seen: list[str] = []
    while writer.poll() is None:
        seen += follower.read(10_000)
    while lines := follower.read(1 << 20):
        seen += lines
    follower.close()
    assert writer.returncode == 0
    assert seen == [f"line {number}" for number in range(count)]
    assert len(pieces(log)) > 3
