"""Hardware that computes wrong under a real supervisor: the steps before are run again, and what that says is done."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from resilient.drill.equality import Same, compare_states
from resilient.errors import ExitCode
from resilient.policy.lineage import RollbackCause
from resilient.policy.verdict import VerdictKind
from resilient.protocol.distrusted import distrusted
from resilient.protocol.drill import DRILLED, Order
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.paths import hostname
from tests.run.harness import TIMEOUT, RunCase, Workspace

WATCHED = ("divergence.enabled=true", "divergence.warmup_steps=0", "divergence.good_after=5", "divergence.margin=2")


def watched(workspace: Workspace, run_id: str, *settings: str) -> RunCase:
    """A run of 50 steps that is watched for divergence, and whose snapshots are durable before it goes on."""
    workspace.variables = {"OMP_NUM_THREADS": "1"}
    lineage = workspace.directory / "runs" / run_id / "lineage.json"
    return workspace.run(run_id, *WATCHED, f"train.lineage={lineage}", *settings, steps=50, conf="checked")


def struck(workspace: Workspace, run_id: str, order: Order) -> RunCase:
    case = watched(workspace, run_id)
    case.paths.create()
    order.write(case.paths)
    workspace.variables[DRILLED] = str(case.paths.root)
    return case


def verdicts(case: RunCase) -> list[str]:
    return [entry["verdict"]["kind"] for entry in case.journal("ReplayEnded")]  # type: ignore[index]


def test_an_error_of_the_moment_costs_some_steps_and_no_data(workspace: Workspace) -> None:
    reference = watched(workspace, "right")
    assert reference.finish() == 0, reference.output()
    case = struck(workspace, "wrong-once", Order("flip", at=36, what="weight", bit=30))
    assert case.finish() == 0, case.output()
    assert verdicts(case) == [VerdictKind.TRANSIENT_HARDWARE.value], case.output()
    (rollback,) = read_lineage(case.paths).rollbacks
    assert (rollback.cause, rollback.skip, rollback.lr_factor) == (RollbackCause.HARDWARE, None, 1.0)
    assert case.losses() == reference.losses(), "in the end the run is as if nothing had been"
    assert compare_states(reference.paths, case.paths).same is Same.YES
    assert distrusted(case.paths) == ()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second core")
def test_a_machine_that_always_errs_is_left(workspace: Workspace) -> None:
    case = struck(workspace, "wrong-always", Order("flip", at=36, what="weight", bit=30, persistent=True))
    assert case.finish() == ExitCode.UNTRUSTED_NODE, case.output()
    assert verdicts(case) == [VerdictKind.PERSISTENT_HARDWARE.value]
    (found,) = distrusted(case.paths)
    assert found.host == hostname()
    rounds = case.paths.last_round()
    assert case.finish() == ExitCode.UNTRUSTED_NODE
    assert case.paths.last_round() == rounds
    workspace.variables.pop(DRILLED)  # repaired
    assert case.finish("run.trust_node=true") == 0, case.output()
    (rollback,) = read_lineage(case.paths).rollbacks
    assert rollback.skip is None
    assert len(case.losses()) == 50


def test_a_drill_of_it(workspace: Workspace) -> None:
    workspace.variables = {"OMP_NUM_THREADS": "1"}
    conf = workspace.directory / "conf" / "checked.yaml"
    words = [f"conf={conf}", "fault=flip", "what=weight", "at=36", "bit=30", "train.steps=50", *WATCHED]
    done = subprocess.run(
        [sys.executable, "-m", "resilient.cli", "drill", "--json", *words],
        cwd=workspace.directory,
        env=workspace.environment(),
        capture_output=True,
        text=True,
        timeout=4 * TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (outcome,) = json.loads(done.stdout)["drills"]
    assert outcome["injected"] == "bit 30 flips in a weight in step 36 of rank 0"
    assert outcome["passed"]
    assert outcome["exit_codes"] == [0]
