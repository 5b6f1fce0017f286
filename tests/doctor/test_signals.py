"""Signals: with a parent that ignores them, and a kernel that only pretends."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from resilient.doctor import signals
from resilient.doctor.finding import Level
from resilient.doctor.signals import judge_ignored
from resilient.doctor.world import World
from resilient.errors import ExitCode
from tests.doctor.seccomp import Refused, under
from tests.doctor.worlds import check, doctor, look

IGNORING = ("sh", "-c", 'trap "" "$0"; exec "$@"')


def test_all_is_well_here(tmp_path: Path) -> None:
    findings = {each.name: look(each, World()) for each in signals.CHECKS}
    assert {finding.level for finding in findings.values()} <= {Level.OK, Level.NOTE}, findings


def test_a_shell_above_that_ignores_sigterm(tmp_path: Path) -> None:
    code, found = doctor("--only", "signals", cwd=tmp_path, before=[*IGNORING, "TERM"])
    assert code == ExitCode.WILL_NOT_WORK
    assert found["signals.sigterm"]["level"] == "problem"
    assert found["signals.parent_death"]["level"] == "ok"


@pytest.mark.parametrize(("name", "level"), [("HUP", "note"), ("USR1", "warning")])
def test_a_shell_above_that_ignores_others(tmp_path: Path, name: str, level: str) -> None:
    _, found = doctor("--only", "signals", cwd=tmp_path, before=[*IGNORING, name])
    assert found["signals.ignored"]["level"] == level
    assert found["signals.sigterm"]["level"] == "ok"


def test_where_the_death_of_children_is_ignored_the_doctor_still_answers(tmp_path: Path) -> None:
    ignoring = [
        "python3",
        "-c",
        "import os,signal,sys; signal.signal(17, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])",
    ]
    code, found = doctor("--only", "signals,clock", cwd=tmp_path, before=ignoring)
    assert code == ExitCode.WILL_NOT_WORK
    assert {name: each["level"] for name, each in found.items() if each["level"] != "ok"} == {
        "signals.ignored": "problem"
    }


def test_the_worst_of_the_ignored_ones_counts() -> None:
    assert judge_ignored([]).level is Level.OK
    assert judge_ignored([signal.SIGHUP, signal.SIGINT]).level is Level.NOTE
    assert judge_ignored([signal.SIGHUP, signal.SIGUSR1]).level is Level.WARNING
    assert judge_ignored([signal.SIGHUP, signal.SIGCHLD]).level is Level.PROBLEM


@pytest.mark.parametrize("name", ["parent_death", "orphans"])
def test_a_kernel_that_only_pretends(name: str) -> None:
    finding = look(under(check(f"signals.{name}"), Refused("prctl", 0)), World())
    assert finding.level is Level.PROBLEM, finding.sentence
