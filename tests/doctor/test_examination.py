"""Checks that hang, die, raise or leave something behind: the others' findings are there all the same."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.doctor.check import Check, chosen
from resilient.doctor.examination import examine
from resilient.doctor.finding import Finding, Level, ok, problem
from resilient.doctor.registry import CHECKS
from resilient.doctor.world import World
from resilient.supervisor.processes import content
from tests.doctor.worlds import look, subject
from tests.mounts import frozen, mounted

GOOD = Check("test.good", "", lambda _world: ok("good"))


def _is_gone(pid: int) -> bool:
    return content(Path(f"/proc/{pid}/stat")).rpartition(") ")[2][:1] in ("", "Z")


def test_findings_come_in_the_order_of_the_checks(tmp_path: Path) -> None:
    checks = [Check(f"test.{name}", "", lambda _world, name=name: ok(name)) for name in "abc"]  # type: ignore[misc]
    assert [result.finding.sentence for result in examine(checks, World(directory=tmp_path))] == ["a", "b", "c"]


def test_a_check_that_hangs_is_given_up_with_what_it_has_started(tmp_path: Path) -> None:
    def hang(_world: World) -> Finding:
        with subprocess.Popen(["sleep", "600"]) as child:
            (tmp_path / "pid").write_text(str(child.pid))
            return ok("never")

    slow = Check("test.slow", "", hang, seconds=1.0, stuck=problem("it hangs", "wait"))
    results = examine([slow, GOOD], World(directory=tmp_path))
    assert [result.finding for result in results] == [problem("it hangs", "wait"), ok("good")]
    pid = int((tmp_path / "pid").read_text() or 0) if (tmp_path / "pid").exists() else 0  # 0: killed before it started
    while pid and not _is_gone(pid):
        time.sleep(0.01)


def test_without_words_of_its_own_a_check_that_hangs_is_a_warning(tmp_path: Path) -> None:
    def hang(_world: World) -> Finding:
        signal.pause()
        return ok("never")

    finding = look(Check("test.slow", "", hang, seconds=0.2), World(directory=tmp_path))
    assert (finding.level, finding.sentence) == (Level.WARNING, "there was no answer within 0 s")


def test_what_a_check_that_was_given_up_has_left_is_removed(tmp_path: Path) -> None:
    def hang(world: World) -> Finding:
        with world.trial() as place:
            (place / "file").write_bytes(b"left behind")
            (tmp_path / "proof").write_text(str(place))
            signal.pause()
        return ok("never")

    look(Check("test.slow", "", hang, seconds=1.0), World(directory=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= {"proof"}  # not there if it was killed before it got so far


def test_what_cannot_be_removed_is_said(tmp_path: Path) -> None:
    world = World(directory=tmp_path)
    with mounted(tmp_path / "trial", "size=1m") as trial:  # skips where that is not allowed
        pass
    trial.rmdir()

    def hang(world: World) -> Finding:
        made = tempfile.mkdtemp(prefix=world.mark, dir=tmp_path)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", made], check=True, capture_output=True)
        return ok("a mount point cannot be removed")

    *_, swept = examine([Check("test.mounts", "", hang)], world)
    (left,) = tmp_path.iterdir()
    subprocess.run(["umount", str(left)], check=True)
    assert swept.finding.level is Level.WARNING
    assert str(left) in swept.finding.sentence


def test_a_check_that_raises_or_dies_is_a_warning(tmp_path: Path) -> None:
    def fail(_world: World) -> Finding:
        raise ValueError("no number")

    def die(_world: World) -> Finding:
        os.kill(os.getpid(), signal.SIGKILL)
        return ok("never")

    failed, died, good = examine([Check("test.a", "", fail), Check("test.b", "", die), GOOD], World(directory=tmp_path))
    assert failed.finding.sentence == "the check failed: ValueError: no number"
    assert died.finding.sentence == "the check ended without an answer"
    assert failed.finding.level is died.finding.level is Level.WARNING
    assert good.finding.level is Level.OK


def test_what_a_check_prints_is_not_seen(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    look(Check("test.loud", "", lambda _world: ok(f"printed {os.write(1, b'noise')}")), World(directory=tmp_path))
    assert capfd.readouterr() == ("", "")


def test_a_filesystem_that_hangs_does_not_hang_the_doctor(tmp_path: Path) -> None:
    with frozen(tmp_path) as place:
        checks = [replace(each, seconds=1.0) for each in CHECKS if each.name in {"disk.writable", "disk.rename"}]
        results = examine([*checks, GOOD], World(subject(place)))
    assert [result.finding.level for result in results[:3]] == [Level.PROBLEM, Level.PROBLEM, Level.OK]
    assert all("does not answer" in result.finding.sentence for result in results[:2])


def test_names_and_groups_choose_checks() -> None:
    assert [check.name for check in chosen(CHECKS, ["gpu", "disk.speed"])[0]] == [
        *(check.name for check in CHECKS if check.group == "gpu"),
        "disk.speed",
    ]
    assert chosen(CHECKS, []) == (list(CHECKS), [])
    assert chosen(CHECKS, ["disks"])[1] == ["disks"]


def test_every_check_has_a_name_of_its_own_and_explains_itself() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.explains and check.name == f"{check.group}.{check.name.partition('.')[2]}" for check in CHECKS)
