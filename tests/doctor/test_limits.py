"""Limits, set for a doctor of our own; and where that has no effect on root, in numbers."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from resilient.doctor.finding import Level
from resilient.doctor.limits import (
    Needs,
    judge_addresses,
    judge_cores,
    judge_file_size,
    judge_files,
    judge_locked,
    judge_processes,
)
from resilient.doctor.world import World
from resilient.supervisor.settings import WorkerSettings
from tests.doctor.worlds import check, doctor, look, subject

GIB = 1 << 30
INFINITY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("name", "kind", "limit", "level"),
    [
        ("addresses", resource.RLIMIT_AS, 4 * GIB, "problem"),
        ("files", resource.RLIMIT_NOFILE, 128, "problem"),
        ("files", resource.RLIMIT_NOFILE, 1024, "warning"),
        ("file_size", resource.RLIMIT_FSIZE, 1 << 20, "warning"),
        ("locked", resource.RLIMIT_MEMLOCK, 65536, "ok"),
    ],
)
def test_a_limit_that_is_inherited(tmp_path: Path, name: str, kind: int, limit: int, level: str) -> None:
    code, found = doctor(
        "--only",
        f"limits.{name}",
        cwd=tmp_path,
        preexec_fn=lambda: resource.setrlimit(kind, (limit, limit)),
    )
    assert found[f"limits.{name}"]["level"] == level, found
    assert (code != 0) == (level == "problem")


def test_addresses() -> None:
    assert judge_addresses(INFINITY, Needs()).level is Level.OK
    assert judge_addresses(20 * GIB, Needs()).level is Level.OK
    assert judge_addresses(20 * GIB, Needs(slots=15 * GIB)).level is Level.PROBLEM
    assert judge_addresses(900 * GIB, Needs(has_gpu=True)).level is Level.PROBLEM


def test_locked_memory() -> None:
    assert judge_locked(INFINITY, Needs(has_infiniband=True)).level is Level.OK
    assert judge_locked(65536, Needs(has_gpu=True)).level is Level.NOTE
    assert judge_locked(65536, Needs(has_gpu=True, has_infiniband=True)).level is Level.WARNING


def test_files() -> None:
    assert judge_files(INFINITY, INFINITY).level is Level.OK
    assert judge_files(1024, 1048576).next_step == "ulimit -n 1048576"
    assert "ask" in judge_files(1024, 1024).next_step


def test_the_size_of_files() -> None:
    assert judge_file_size(INFINITY, 5 * GIB).level is Level.OK
    assert judge_file_size(GIB, 5 * GIB).level is Level.PROBLEM


def test_core_files() -> None:
    assert judge_cores(0, "core").level is Level.OK
    assert judge_cores(INFINITY, "|/usr/lib/systemd/systemd-coredump %P").level is Level.OK
    assert judge_cores(INFINITY, "core.%p").level is Level.NOTE


@pytest.mark.parametrize(("used", "level"), [(100, Level.OK), (900, Level.WARNING), (1020, Level.PROBLEM)])
def test_processes(used: int, level: Level) -> None:
    assert judge_processes(1024, used, Needs(ranks=4), "the cgroup").level is level


@pytest.mark.parametrize("version", [1, 2])
def test_the_cgroup_above_may_be_the_tighter(tmp_path: Path, version: int) -> None:
    proc, root = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text("0::/job/step\n" if version == 2 else "5:pids:/job/step\n3:memory:/elsewhere\n")
    job = root / "job" if version == 2 else root / "pids/job"
    (job / "step").mkdir(parents=True)
    for place, limit in ((job, "100"), (job / "step", "max")):
        (place / "pids.max").write_text(limit + "\n")
        (place / "pids.current").write_text("60\n")
    examined = subject(tmp_path, WorkerSettings(script="train.py", ranks=8))
    finding = look(check("limits.processes"), World(examined, proc=proc, cgroups=root))
    assert (finding.level, "the cgroup allows 100" in finding.sentence) == (Level.PROBLEM, True)
