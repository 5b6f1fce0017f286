"""Python, what there is to find out with when something goes wrong, and the clocks."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from resilient.doctor.clock import judge_monotonic, judge_wall
from resilient.doctor.finding import Level
from resilient.doctor.python import judge_python, judge_torch
from resilient.doctor.words import duration, size
from resilient.doctor.world import World
from tests.doctor.seccomp import Refused, under
from tests.doctor.worlds import check, look


@pytest.mark.parametrize(
    ("installed", "level"),
    [
        ("2.4.0", Level.OK),
        ("2.10.1+cu128", Level.OK),
        ("3.0", Level.OK),
        ("2.3.1+cpu", Level.PROBLEM),
        (None, Level.PROBLEM),
    ],
)
def test_the_version_of_torch(installed: str | None, level: Level) -> None:
    assert judge_torch(installed).level is level


def test_the_version_of_python() -> None:
    assert judge_python((3, 9, 18)).level is Level.PROBLEM
    assert look(check("python.version"), World()).level is Level.OK


def test_the_kernel_log_of_others(tmp_path: Path) -> None:
    (tmp_path / "kmsg").write_text("6,1,2,-;hello\n")
    assert look(check("evidence.kernel_log"), World(kernel_log=tmp_path / "kmsg")).level is Level.OK
    assert look(check("evidence.kernel_log"), World(kernel_log=tmp_path / "none")).level is Level.NOTE


def test_py_spy_reads_the_stacks_of_others_where_it_may() -> None:
    stacks = check("evidence.stacks")
    allowed = look(stacks, World())
    refused = look(under(stacks, Refused("ptrace", errno.EPERM), Refused("process_vm_readv", errno.EPERM)), World())
    assert refused.level is Level.NOTE
    assert "not allowed" in refused.sentence
    assert allowed.level is Level.OK or "not allowed" in allowed.sentence


def test_a_clock_that_was_never_set() -> None:
    assert judge_wall(86400.0).level is Level.WARNING
    assert "1970-01-02" in judge_wall(86400.0).sentence
    assert look(check("clock.wall"), World()).level is Level.OK


def test_a_clock_that_stands_still() -> None:
    assert judge_monotonic(0.0, 0.02).level is Level.PROBLEM
    assert judge_monotonic(0.021, 0.02).level is Level.OK


def test_sizes_and_times_for_people() -> None:
    assert [size(count) for count in (0, 999, 1536, 64 << 20, 200 << 20, 3 << 40)] == [
        "0 bytes",
        "999 bytes",
        "1.5 KiB",
        "64.0 MiB",
        "200 MiB",
        "3.0 TiB",
    ]
    assert [duration(seconds) for seconds in (0.25, 12, 150, 7200)] == ["0.25 s", "12 s", "2.5 min", "2.0 h"]
