"""The real wandb, offline: what it has written is read back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from resilient.errors import ExitCode
from resilient.policy.lineage import Rollback
from resilient.protocol.tracker_settings import WandbMode, WandbSettings
from resilient.trackers import lane
from resilient.trackers.tracker import Context, Tracker
from tests.trackers.logs import Logs, Telling, tell, wait_until
from tests.trackers.wandb_file import stored

OFFLINE = WandbSettings(enabled=True, mode=WandbMode.offline, system_metrics=False)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Logs:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))  # no login of whoever runs this
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    return Logs(tmp_path / "a run")


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """As in the trackers' process."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def make(context: Context) -> Tracker:
    from resilient.trackers.wandb_run import Wandb

    return Wandb(context)


def service() -> list[psutil.Process]:
    """wandb's own process."""
    return [child for child in psutil.Process().children() if child.name().startswith("wandb-core")]


def test_one_run_over_a_preemption_and_a_rollback(logs: Logs) -> None:
    context = logs.context(wandb=OFFLINE)
    logs.open()
    logs.steps(1, 8)
    logs.incident(1, 8)
    logs.roll_back(Rollback(5, 8, 0))
    logs.launch(1, 5)
    logs.steps(6, 7)
    logs.preempt()
    logs.end(ExitCode.REQUEUE)
    tell("wandb", make, context)
    logs.open(last_round=1, step=7)
    logs.steps(8, 9)
    logs.end()
    tell("wandb", make, context)
    first, second = stored(logs.paths.root)
    assert first.run_ids == second.run_ids
    assert first.run_ids == {f"a-run-{logs.identity[:10]}"}
    assert first.steps + second.steps == [1, 2, 3, 4, 5, 6, 7, 8, 6, 7, 8, 9]
    assert first.step_metrics["*"] == "train/step"  # so that steps after a rollback are no steps back
    rows = [row for row in first.history if "loss" in row]
    assert [row["resilient/lineage"] for row in rows] == [0] * 8 + [1] * 2
    counts = [row["_step"] for row in first.history + second.history]
    assert counts == sorted(set(counts))  # wandb itself drops what goes back
    assert first.config["train"] == {"lr": 0.1}
    assert first.alerts == ["Incident 1: killed", "Rollback"]
    assert (first.preempting, first.exit_code) == (1, 75)
    assert (second.preempting, second.exit_code) == (0, 0)
    assert first.summary["resilient/rollbacks"] == 1
    assert second.summary["resilient/ending"] == "It is over."


def test_a_signal_to_the_whole_job_does_not_end_it(logs: Logs) -> None:
    logs.open()
    with Telling("wandb", make, logs.context(wandb=OFFLINE)):
        (process,) = wait_until(service)
        process.send_signal(signal.SIGTERM)
        logs.steps(1, 3)
        logs.preempt()
        logs.end(ExitCode.REQUEUE)
    (found,) = stored(logs.paths.root)
    assert (found.steps, found.preempting, found.exit_code) == ([1, 2, 3], 1, 75)


def test_when_its_own_process_is_killed_nothing_is_lost(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "_FIRST_WAIT", 1.5)  # two of its runs in one second have one name
    logs.open()
    with Telling("wandb", make, logs.context(wandb=OFFLINE)):
        logs.steps(1, 20)
        (process,) = wait_until(service)
        wait_until(lambda: stored(logs.paths.root) and stored(logs.paths.root)[0].steps)  # written now and then
        logs.steps(21, 40)
        process.kill()
        logs.steps(41, 60)
        wait_until(lambda: len(list((logs.paths.root / "wandb").glob("offline-run-*"))) > 1)
        logs.end()
    found = stored(logs.paths.root)
    assert {step for each in found for step in each.steps} == set(range(1, 61))
    assert len({tuple(each.run_ids) for each in found if each.run_ids}) == 1
    assert found[-1].exit_code == 0


def test_without_a_login_the_run_is_kept_offline_with_a_warning(logs: Logs) -> None:
    said: list[str] = []
    logs.open()
    logs.steps(1, 3)
    logs.end()
    online: Any = WandbSettings(enabled=True, system_metrics=False)
    tell("wandb", make, logs.context(said.append, wandb=online))
    assert any("wandb cannot go online" in words for words in said)
    (found,) = stored(logs.paths.root)
    assert (found.steps, found.exit_code) == ([1, 2, 3], 0)
