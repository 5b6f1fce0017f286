"""The checks find what they are there to find."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry as Reported
from resilient.protocol.metrics_log import MetricsLog
from resilient.snapshot.commit import TEMPORARY
from tests.buckets import make_snapshot
from tests.chaos import checks
from tests.chaos.checks import Evidence
from tests.chaos.plan import STEPS, plan
from tests.chaos.scheduler import ChaosWorkspace, History

SEED = next(
    seed
    for seed in range(100)
    if plan(seed).ranks == 1 and plan(seed).slots == 3 and plan(seed).memory_every_steps == 1
)


def entry(name: str, time: float = 0.0, **data: Any) -> dict[str, Any]:
    return {"name": name, "time": time, "data": data}


OPENED, LAUNCHED = entry("RunOpened", takeover=False), entry("LaunchRound", round=0, step=None)
EXITED, ENDED = entry("WorkerExited"), entry("EndRun", exit_code=0)
TAKEN = entry("RunOpened", takeover=True)


def incident(number: int) -> dict[str, Any]:
    return entry("RecordIncident", incident={"number": number})


@pytest.fixture
def evidence(tmp_path: Path) -> Evidence:
    workspace = ChaosWorkspace(tmp_path)
    for directory in (workspace.temporary, tmp_path / "pids"):
        directory.mkdir()
    case = workspace.run("run")
    case.paths.create()
    case.paths.lock.touch()
    make_snapshot(case.paths.snapshots, STEPS)
    return Evidence(workspace, case, case, plan(SEED), History(), [])


def found(check: Any, evidence: Evidence, *journal: dict[str, Any]) -> list[str]:
    evidence.journal = list(journal)
    return list(check(evidence))


def test_lives(evidence: Evidence) -> None:
    assert not found(checks.lives, evidence, OPENED, ENDED)
    assert not found(checks.lives, evidence, OPENED, TAKEN, ENDED)
    assert "did not notice" in found(checks.lives, evidence, OPENED, OPENED, ENDED)[0]
    assert "twice" in found(checks.lives, evidence, OPENED, ENDED, ENDED)[0]
    assert "endings" in found(checks.lives, evidence, OPENED)[0]


def test_rounds(evidence: Evidence) -> None:
    second = entry("LaunchRound", round=1, step=5)
    assert not found(checks.rounds, evidence, LAUNCHED, EXITED, second, TAKEN)
    assert "never ended" in found(checks.rounds, evidence, LAUNCHED, second, EXITED)[0]
    assert "came after" in found(checks.rounds, evidence, LAUNCHED, EXITED, LAUNCHED, EXITED)[0]


def test_incidents(evidence: Evidence) -> None:
    assert not found(checks.incidents, evidence, incident(1), incident(2))
    assert found(checks.incidents, evidence, incident(1), incident(3))
    assert found(checks.incidents, evidence, incident(1), incident(1))


def test_launches(evidence: Evidence) -> None:
    log = MetricsLog(evidence.paths.metrics)
    log.write([Reported(0, 0, Metrics(step, 10.0 + step, {"loss": 1.0})) for step in range(1, 31)])
    log.close()
    durable, behind = entry("Persisted", 35.0, step=30), entry("LaunchRound", 50.0, round=1, step=28)
    assert len(found(checks.launches, evidence, durable, behind)) == 2, "behind what is durable, and in memory"
    assert not found(checks.launches, evidence, entry("LaunchRound", 50.0, round=1, step=29))
    evidence.history.memory_lost.append(45.0)
    assert found(checks.launches, evidence, durable, behind) == [
        "round 1 resumed from step 28, though step 30 was durable"
    ]
    evidence.history.disk_lost.append(45.0)
    assert not found(checks.launches, evidence, durable, behind)


def test_commits(evidence: Evidence) -> None:
    persisted = entry("Persisted", step=STEPS, removed=())
    assert not found(checks.commits, evidence, persisted)
    image = next(evidence.paths.snapshot(STEPS).glob("*.safetensors"))
    image.write_bytes(b"x" + image.read_bytes()[1:])
    assert "checksum" in found(checks.commits, evidence, persisted)[0]
    gone = entry("Persisted", step=STEPS + 1, removed=())
    assert "is gone" in found(checks.commits, evidence, gone)[-1]
    assert len(found(checks.commits, evidence, gone, entry("Persisted", step=STEPS, removed=[STEPS + 1]))) == 1


def test_leftovers(evidence: Evidence) -> None:
    evidence.paths.latest.unlink()
    evidence.paths.latest.symlink_to(evidence.paths.snapshot(STEPS).name)
    assert not found(checks.leftovers, evidence)
    (evidence.paths.snapshots / f"{TEMPORARY}step-000000001-abc").mkdir()
    (evidence.paths.root / ".status.json.1").touch()
    evidence.paths.lock.write_text("{}")
    assert len(found(checks.leftovers, evidence)) == 3


def test_leftovers_of_torch(evidence: Evidence) -> None:
    (evidence.workspace.directory / "pids" / str(os.getpid())).touch()
    assert not found(checks.torch_leftovers, evidence)
    (evidence.workspace.temporary / "pymp-abc").mkdir()
    Path(f"/dev/shm/torch_{os.getpid()}_chaos").touch()
    assert len(found(checks.torch_leftovers, evidence)) == 2


def test_status(evidence: Evidence) -> None:
    assert found(checks.status, evidence, LAUNCHED) == ["it cannot be read"]
