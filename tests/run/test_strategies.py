"""Snapshots by time and on demand, and retention by a metric, on real runs."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence

from resilient.drill.faults import KillWorker
from resilient.errors import ExitCode
from resilient.protocol.board import Word
from resilient.snapshot import catalog, pins
from resilient.snapshot.storage import Storage
from resilient.supervisor.journal import read_journal
from tests.run.harness import RunCase, Workspace


def ask(case: RunCase, *options: str, command: Sequence[str] = ("snapshot",)) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "resilient.cli", *command, f"run={case.run_id}", *options]
    command.append(f"dir={case.paths.root.parent}")
    environment = case.workspace.environment()
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_snapshot_on_demand_is_taken_once_for_each_request(workspace: Workspace) -> None:
    case = workspace.run("on-demand", "snapshot.every_steps=1000", "train.step_seconds=0.02", steps=250)
    running = case.start().wait_for_step(10)
    answers = []
    for _ in range(2):
        asked_at = running.target.read(Word.STEP)
        output, errors = ask(case, "--json", "--timeout", "30").communicate(timeout=60)
        answer = json.loads(output or "{}")
        assert answer, errors
        assert answer["step"] >= asked_at
        assert answer["step"] in catalog.committed_steps(case.paths.snapshots)
        answers.append(answer["step"])
    assert running.wait() == 0, case.output()
    assert catalog.committed_steps(case.paths.snapshots) == (*answers, 250)
    done = ask(case)
    assert "nobody on this machine is running on-demand" in done.communicate(timeout=60)[1]
    assert done.returncode == ExitCode.NOT_RUNNING


def test_looking_works_while_the_run_is_up_and_pruning_is_refused(workspace: Workspace) -> None:
    case = workspace.run("looked-at", "train.step_seconds=0.15", "retention.last=100", steps=160)
    running = case.start().wait_for_step(25)
    for action in ("list", "verify"):
        looking = ask(case, "--json", command=("snapshots", action))
        output, errors = looking.communicate(timeout=60)
        assert looking.returncode == 0, errors
        assert [row["step"] for row in json.loads(output)["snapshots"]][:2] == [10, 20]
    pruning = ask(case, command=("snapshots", "prune"))
    assert "is owned by process" in pruning.communicate(timeout=60)[1]
    assert pruning.returncode == ExitCode.RUN_LOCKED
    assert running.wait() == 0, case.output()


def test_a_request_survives_the_death_of_the_worker(workspace: Workspace) -> None:
    """One that hangs in a step cannot obey; the one that takes its place does."""
    case = workspace.run("asked-again", "snapshot.every_steps=1000", "train.hang_at=20", "train.step_seconds=0.2")
    running = case.start().wait_for_step(19)
    request = ask(case, "--json", "--timeout", "60")
    time.sleep(1.0)
    assert request.poll() is None
    KillWorker().inject(running.target)
    output, errors = request.communicate(timeout=60)
    assert request.returncode == 0, errors
    assert json.loads(output)["step"] >= 19
    assert running.wait() == 0, case.output()


def test_time_alone_and_time_beside_steps(workspace: Workspace) -> None:
    settings = ("snapshot.every_steps=45", "snapshot.every_seconds=0.3", "retention.last=100")
    case = workspace.run("by-time", *settings, "train.step_seconds=0.02")
    assert case.finish() == 0, case.output()
    steps = catalog.committed_steps(case.paths.snapshots)
    created = [catalog.read_manifest(case.paths.snapshot(step)).created for step in steps]
    due = min(step for step in steps if step >= 45)  # or later, if the one before was not on disk yet
    assert due < 55
    assert 60 in steps
    by_time = set(steps) - {due, 60}
    assert 2 <= len(by_time) <= (created[-1] - created[0]) / 0.3 + 2


def test_the_best_and_the_pinned_stay_through_a_real_run(workspace: Workspace) -> None:
    settings = ("retention.last=1", "retention.best=2", "retention.best_metric=loss", "train.step_seconds=0.03")
    case = workspace.run("best", "snapshot.every_steps=5", *settings)
    running = case.start().wait_for_step(7)
    while 5 not in catalog.committed_steps(case.paths.snapshots):
        time.sleep(0.01)
    pins.pin(Storage(), case.paths.snapshots, 5)
    assert running.wait() == 0, case.output()
    losses = case.losses()
    durable = {int(str(note["step"])) for note in case.journal("Persisted")}
    assert {5, 60} <= durable
    assert len(durable) >= 6  # where the disk is slow, what falls due meanwhile becomes durable at a later step
    best = sorted(durable, key=lambda step: losses[step])[:2]
    assert set(catalog.committed_steps(case.paths.snapshots)) == {5, 60, *best}


def test_an_interval_chosen_from_costs_is_told_and_kept_to(workspace: Workspace) -> None:
    least, most = "snapshot.auto_least_seconds=0.4", "snapshot.auto_most_seconds=0.5"
    settings = ("snapshot.auto=true", "snapshot.every_steps=0", least, most)
    case = workspace.run("auto", *settings, "train.step_seconds=0.03", "retention.last=100", steps=120)
    assert case.finish() == 0, case.output()
    chosen = [entry for entry in read_journal(case.paths.journal) if entry["name"] == "interval chosen"]
    assert (chosen[0]["seconds"], chosen[0]["cost"]) == (0.4, 0.0)
    assert "durable snapshots every" in case.output()
    steps = catalog.committed_steps(case.paths.snapshots)
    created = [catalog.read_manifest(case.paths.snapshot(step)).created for step in steps]
    assert 3 <= len(steps) <= (created[-1] - created[0]) / 0.4 + 2
