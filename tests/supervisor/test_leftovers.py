"""What is done with the snapshot memory that runs have left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from resilient.errors import RunLocked
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.scratch import Scratch
from resilient.protocol.spill import Spill
from resilient.protocol.tenancy import TENANT, Tenancy, Tenant
from resilient.snapshot import manifest as manifests
from resilient.supervisor import leftovers
from resilient.supervisor.leftovers import Findings, reason_to_remove
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.status import Status

KEPT = Findings(step=7, durable=5)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (KEPT, None),
        (Findings(step=7), None),
        (Findings(step=7, durable=7), "durable"),
        (Findings(step=7, durable=9), "durable"),
        (Findings(step=None, durable=9), "nothing"),
        (Findings(step=None), "nothing"),
        (Findings(step=7, finished=True), "finished"),
        (Findings(step=7, same_run=False), "begun anew"),
        (Findings(step=7, same_boot=False), "switched on"),
        (Findings(step=7, reachable=False, root_lost=True), "deleted"),
        (Findings(step=7, reachable=False), None),
        (Findings(step=None, reachable=False), None),
        (Findings(step=None, reachable=False, same_boot=False), "switched on"),
    ],
)
def test_what_nobody_can_want_is_removed(found: Findings, reason: str | None) -> None:
    given = reason_to_remove(found)
    assert given is None if reason is None else reason in str(given)


@dataclass
class Machine:
    """Shared memory and runs of a machine."""

    memory: Path
    runs: Path
    lines: list[str] = field(default_factory=list)

    def run(self, name: str, step: int = 0, durable: int = 0) -> tuple[RunPaths, Path]:
        """A run that was killed when it had these steps in memory and on disk."""
        paths = RunPaths.of(self.runs, name)
        paths.create()
        RunLock(paths.lock, hostname()).release()
        place = self.memory / paths.memory_name
        memory = RunMemory(place, 1, 2, paths.identity(), paths.root)
        if step:
            slot = memory.arenas[0].slots[0]
            slot.begin(step, 64)
            slot.complete(1, {}, hold=False)
        if durable:
            paths.snapshot(durable).mkdir()
            (paths.snapshot(durable) / manifests.NAME).touch()
        memory.close()
        return paths, place

    def clear(self) -> list[str]:
        self.lines.clear()
        leftovers.clear(self.memory, self.memory / "own", self.lines.append)
        return self.lines


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    (tmp_path / "memory").mkdir()
    return Machine(tmp_path / "memory", tmp_path / "runs")


def finish(paths: RunPaths) -> None:
    Status("finished", 7, 7, 0, 0).write(paths.status)


def delete(paths: RunPaths) -> None:
    shutil.rmtree(paths.root)


def delete_all(paths: RunPaths) -> None:
    shutil.rmtree(paths.root.parent)


def begin_anew(paths: RunPaths) -> None:
    shutil.rmtree(paths.root)
    paths.create()
    paths.identity()


def lose_identity(paths: RunPaths) -> None:
    (paths.root / "identity").unlink()


@pytest.mark.parametrize("happened", [finish, delete, delete_all, begin_anew, lose_identity])
def test_the_memory_of_a_run_that_is_over_or_gone_is_removed(
    machine: Machine, happened: Callable[[RunPaths], None]
) -> None:
    paths, place = machine.run("left", step=7)
    happened(paths)
    assert [line.startswith("removed ") and "left" in line for line in machine.clear()] == [True]
    assert not place.exists()
    assert machine.clear() == []


def test_newer_state_is_kept_and_said_to_be_there_and_removed_when_it_is_durable(machine: Machine) -> None:
    paths, place = machine.run("left", step=7, durable=5)
    for _ in range(2):
        (line,) = machine.clear()
        for part in (f"left ({paths.root})", "step 7 in memory", "durable is step 5", f"delete {place}", "MiB"):
            assert part in line
    paths.snapshot(7).mkdir()
    (paths.snapshot(7) / manifests.NAME).touch()
    (line,) = machine.clear()
    assert "all of it is durable" in line
    assert not place.exists()


def test_a_kept_run_is_used_by_its_next_start(machine: Machine) -> None:
    paths, place = machine.run("left", step=7)
    machine.clear()
    memory = RunMemory(place, 1, 2, paths.identity(), paths.root)
    assert memory.newest_step() == 7
    memory.remove()
    assert not place.exists()


def test_what_is_on_disk_is_removed_too(machine: Machine) -> None:
    paths, place = machine.run("left", step=7)
    spill = Spill(paths.memory, lambda _: None)
    slot = place / "rank-00000.slot-1"
    paths.memory.mkdir()
    spill.file_of(slot).write_bytes(b"x" * 4096)
    spill.link(slot)
    finish(paths)
    machine.clear()
    assert not place.exists()
    assert not paths.memory.exists()


def test_a_run_on_a_filesystem_that_is_not_there_is_kept(machine: Machine) -> None:
    paths, place = machine.run("left", step=7)
    tenant = json.loads((place / TENANT).read_text())
    (place / TENANT).write_text(json.dumps({**tenant, "device": tenant["device"] + 1}))
    delete(paths)
    (line,) = machine.clear()
    assert "cannot be reached" in line
    assert place.exists()


def test_what_an_older_version_has_left_is_mentioned_and_left(machine: Machine) -> None:
    place = machine.memory / f"resilient-{os.getuid()}-0123456789abcdef"
    place.mkdir()
    (place / "identity").write_text("some run")
    (line,) = machine.clear()
    assert f"{place} holds" in line
    assert "unknown run" in line
    assert (place / "identity").exists()


def test_what_was_written_before_the_machine_was_switched_off_is_not_resumed_from(machine: Machine) -> None:
    paths, place = machine.run("left", step=7)
    tenant = json.loads((place / TENANT).read_text())
    (place / TENANT).write_text(json.dumps({**tenant, "boot": "another"}))
    memory = RunMemory(place, 1, 2, paths.identity(), paths.root)
    assert memory.newest_step() is None
    memory.close()
    (place / TENANT).write_text(json.dumps({**tenant, "boot": "another"}))
    (line,) = machine.clear()
    assert "switched on" in line
    assert not place.exists()


def test_another_hosts_and_another_users_memory_is_not_ours_to_judge(machine: Machine) -> None:
    paths, place = machine.run("left", step=7)
    tenant = json.loads((place / TENANT).read_text())
    (place / TENANT).write_text(json.dumps({**tenant, "owner": {**tenant["owner"], "host": "elsewhere"}}))
    finish(paths)
    other = machine.memory / f"resilient-{os.getuid() + 1}-0123456789abcdef"
    other.mkdir()
    assert machine.clear() == []
    assert place.exists()
    assert other.exists()


# --- alive


def test_memory_in_use_is_not_touched_whatever_its_run_looks_like(machine: Machine) -> None:
    paths, place = machine.run("up", step=7)
    memory = RunMemory(place, 1, 2, paths.identity(), paths.root)
    finish(paths)
    assert machine.clear() == []
    assert memory.newest_step() == 7
    memory.close()
    assert len(machine.clear()) == 1


def test_memory_of_a_run_whose_lock_is_taken_is_not_touched(machine: Machine) -> None:
    """By its next supervisor, which has not got to its memory yet, or by a worker that is just dying."""
    paths, place = machine.run("starting", step=7)
    finish(paths)
    lock = RunLock(paths.lock, hostname())
    assert machine.clear() == []
    assert place.exists()
    lock.release()
    assert len(machine.clear()) == 1


def test_a_run_that_starts_while_its_memory_is_being_removed_gets_a_new_one(machine: Machine) -> None:
    paths, place = machine.run("contested", step=7)
    tenancy = Tenancy(place)
    code = (
        "import sys; from pathlib import Path; from resilient.supervisor.memory import RunMemory\n"
        "print('starting', flush=True)\n"
        "memory = RunMemory(Path(sys.argv[1]), 1, 2, sys.argv[2], Path(sys.argv[3]))\n"
        "print(memory.newest_step()); memory.remove()"
    )
    command = [sys.executable, "-c", code, str(place), paths.identity(), str(paths.root)]
    starting = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert starting.stdout is not None
    assert starting.stdout.readline() == "starting\n"
    time.sleep(0.3)  # until it waits for the lock; any other moment must do as well
    tenancy.remove()
    tenancy.leave()
    assert starting.communicate(timeout=30)[0] == "None\n"
    assert starting.returncode == 0
    assert not place.exists()


def test_memory_that_another_process_is_using_is_refused(machine: Machine) -> None:
    """The run's directory was deleted and made anew under a run that is up."""
    _, place = machine.run("up", step=7)
    tenancy = Tenancy(place)
    tenancy.share()
    with pytest.raises(RunLocked, match=f"in use by process {os.getpid()}"):
        Tenancy(place, patience=0.05)
    tenancy.leave()
    Tenancy(place, patience=0.05).leave()
    assert Tenant.read(place) is not None


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"root": 1}', "[" * 5000, '{"root": "/", "owner": 3}'])
def test_a_damaged_record_is_an_unknown_run(machine: Machine, text: str) -> None:
    paths, place = machine.run("left", step=7)
    finish(paths)
    (place / TENANT).write_text(text)
    (line,) = machine.clear()
    assert "unknown run" in line
    assert place.exists()


def test_scratch_goes_with_the_memory_of_a_run_that_nobody_goes_on_with(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        paths, _ = machine.run("over", step=7)
        kept, _ = machine.run("kept", step=7)
        scratches = [Scratch(each.identity()).make() for each in (paths, kept)]
        finish(paths)
        machine.clear()
        assert [scratch is not None and scratch.exists() for scratch in scratches] == [False, True]
