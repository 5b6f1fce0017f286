"""Trackers beside real runs: one run there for one run here, and training that never notices them."""

from __future__ import annotations

import json
import os
import re
import signal
import struct
import time
from typing import Any

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resilient.drill.faults import KillWorker, Preempt
from resilient.errors import ExitCode
from tests.run.harness import RunCase, Workspace
from tests.trackers.wandb_file import stored

SECRET = "T0PS3CRET"
MODULE = "resilient.trackers.process"


@pytest.fixture(autouse=True)
def _nobodys_login(workspace: Workspace) -> None:
    quiet = {name: "" for name in os.environ if name.startswith("WANDB_")}
    workspace.variables.update(quiet, HOME=str(workspace.directory), WANDB_API_KEY=SECRET)


def helpers(workspace: Workspace) -> list[psutil.Process]:
    return [process for process in workspace.processes() if MODULE in process.cmdline()]


def wait_for_helper(workspace: Workspace) -> psutil.Process:
    deadline = time.monotonic() + 60
    while not (found := helpers(workspace)):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found[0]


def details(case: RunCase) -> list[dict[str, Any]]:
    """Everything that the run's JSON lines say."""
    return [json.loads(line) for line in (case.paths.root / "trackers" / "details.jsonl").read_text().splitlines()]


def first_told(told: list[dict[str, Any]]) -> list[int]:
    """The steps of which there are metrics, without those that a relaunch has repeated."""
    return [body["step"] for body in told if body["kind"] == "metrics" and not body["facts"]["repeated"]]


def single(value: float) -> float:
    """As TensorBoard keeps it."""
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


def test_one_run_there_over_kills_a_preemption_and_a_requeue(workspace: Workspace, reference: RunCase) -> None:
    workspace.variables["HOOK"] = f"http://127.0.0.1:9/{SECRET}"  # where nobody listens
    textfile = workspace.directory / "run.prom"
    case = workspace.run(
        "tracked",
        "trackers.wandb.enabled=true",
        "trackers.wandb.mode=offline",
        "trackers.tensorboard.enabled=true",
        "trackers.jsonl.enabled=true",
        "trackers.webhook.url_variable=HOOK",
        f"trackers.prometheus.textfile={textfile}",
        "trackers.end_seconds=60",
        "train.step_seconds=0.05",
    )
    running = case.start().wait_for_step(8)
    wait_for_helper(workspace).kill()
    running.wait_for_step(16)
    KillWorker().inject(running.target)
    running.wait_for_step(30)
    arguments = [word for process in workspace.processes() for word in process.cmdline()]
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    first_log = case.paths.log(0, 0).read_text()
    assert case.finish() == 0, case.output()

    case.assert_equal_to(reference)
    losses = reference.losses()
    assert "the trackers' process has died; training goes on" in case.output()

    found = stored(case.paths.root)
    assert {run for each in found for run in each.run_ids} == {f"tracked-{case.paths.identity()[:10]}"}
    assert {row["train/step"]: row["loss"] for each in found for row in each.history if "loss" in row} == losses
    assert sum(each.preempting for each in found) >= 1
    assert [each.exit_code for each in found if each.exit_code is not None] == [75, 0]
    assert len(found) >= 2

    reader = EventAccumulator(str(case.paths.root / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    scalars = [(event.step, event.value) for event in reader.Scalars("loss")]
    assert scalars == [(step, single(loss)) for step, loss in losses.items()]

    told = details(case)
    assert first_told(told) == list(losses)
    assert [body["kind"] for body in told].count("ended") == 2

    figures = textfile.read_text()
    assert re.search(r'^resilient_steps_total{run="tracked"} 60$', figures, re.MULTILINE)
    assert re.search(r'^resilient_incidents_total{run="tracked",class="killed"} 1$', figures, re.MULTILINE)

    # what a requeue finds is what was left: logs are added to, and no secret is anywhere
    assert case.paths.log(0, 0).read_text() == first_log
    assert sorted(path.name for path in (case.paths.root / "logs").glob("round-*")) == [
        f"round-000{n}" for n in range(3)
    ]
    assert [data["last_round"] for data in case.journal("RunOpened")] == [-1, 1]
    assert "tracker webhook fails" in case.output()
    written = b"".join(path.read_bytes() for path in case.paths.root.rglob("*") if path.is_file())
    assert SECRET.encode() not in written
    assert SECRET not in "".join([case.output(), *arguments])


def test_trackers_that_hang_delay_neither_the_flush_nor_the_exit(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("hung", "trackers.jsonl.enabled=true", "trackers.end_seconds=600", "stop.grace_seconds=8")
    running = case.start().wait_for_step(10)
    wait_for_helper(workspace).send_signal(signal.SIGSTOP)
    running.wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()  # which the harness would not wait 600 s for
    assert "the trackers were not ready in time" in case.output()
    assert "NOT durable" not in case.output()
    assert case.finish() == 0, case.output()
    case.assert_equal_to(reference)
    assert first_told(details(case)) == list(range(1, 61))
