"""``resilient verify`` on real runs: whose hardware errs, whose data does, and whose script is not the same twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import ExitCode
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.drill import DRILLED, Order, Record
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.paths import RunPaths
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.scratch_run import remove_remains
from tests.run.harness import TIMEOUT, RunCase, Workspace
from tests.run.test_divergence import clean, diverging, poison  # noqa: F401  one of them is a fixture

two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs a second core")


def trained(workspace: Workspace, order: Order | None = None, *settings: str) -> RunCase:
    """A finished run with snapshots of every tenth step; ``order`` was carried out in it."""
    case = workspace.run("checked", "run.dir=runs", *settings, steps=40, conf="checked")
    workspace.variables = {"OMP_NUM_THREADS": "1"}
    if order is not None:
        case.paths.create()
        order.write(case.paths)
        workspace.variables[DRILLED] = str(case.paths.root)
    assert case.finish() == 0, case.output()
    assert order is None or Record.read(case.paths, order.id) is not None
    return case


def verify(workspace: Workspace, *words: str) -> tuple[int, Any]:
    """Exit code, and what it says as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "resilient.cli", "verify", "run=checked", "--json", *words],
        cwd=workspace.directory,
        env=workspace.environment(),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=False,
    )
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def files(case: RunCase) -> dict[Path, int]:
    """Everything in the run's directory, with the time of its last change."""
    return {path: path.stat().st_mtime_ns for path in case.paths.root.rglob("*")}


@two_cores
@pytest.mark.parametrize("poison", [0, 15])
def test_good_hardware_gives_the_same_again_whatever_the_data(workspace: Workspace, poison: int) -> None:
    case = trained(workspace, None, f"train.poison_at={poison}")
    assert (case.losses()[15] > 1e6) is bool(poison)
    before = files(case)
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == 0
    assert said["kind"] == VerdictKind.REPRODUCED.value
    assert [replay["place"] for replay in said["replays"]] == ["here", "elsewhere"]
    assert all(replay["reached"] == 20 for replay in said["replays"])
    assert files(case) == before, "the run is as it was"
    assert (workspace.directory / "after.txt").read_text() == "40\n", "what comes after the loop is not done again"
    assert list((workspace.directory / "runs").glob("verify-*")) == [], "and nothing is left beside it"


def test_the_first_steps_of_a_run_are_run_again_without_a_snapshot(workspace: Workspace) -> None:
    case = trained(workspace)
    into = case.paths.incident(1) / "replay"
    command = [sys.executable, "-m", "resilient.verify", "--run", str(case.paths.root), "--into", str(into), "--json"]
    done = subprocess.run(
        [*command, "--snapshot", "0", "--first", "5", "--last", "8"],
        cwd=workspace.directory,
        env=workspace.environment(),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=True,
    )
    assert json.loads(done.stdout)["kind"] == VerdictKind.REPRODUCED.value, done.stderr


@pytest.mark.parametrize("what", ["weight", "gradient", "batch", "loss"])
def test_a_bit_that_flipped_once_is_found_in_its_step(workspace: Workspace, what: str) -> None:
    case = trained(workspace, Order("flip", at=15, what=what, bit=22))
    before = files(case)
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == ExitCode.DIFFERENT
    assert (said["kind"], said["step"]) == (VerdictKind.TRANSIENT_HARDWARE.value, 15)
    field = {"gradient": "grad_norm", "batch": "resilient.batch"}.get(what, "loss")
    assert [(replay["step"], replay["place"]) for replay in said["replays"][:2]] == [(15, "here"), (15, "here")]
    assert said["replays"][0]["field"] == field
    assert said["replays"][0]["replay"] == said["replays"][1]["replay"]
    assert all(replay["reached"] == 18 for replay in said["replays"]), "a few steps more, and no further"
    assert files(case) == before
    assert Path(said["directory"]).is_dir(), "the evidence is kept"


@two_cores
def test_a_device_that_always_errs_is_told_by_another(workspace: Workspace) -> None:
    trained(workspace, Order("flip", at=15, what="loss", bit=22, persistent=True))
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == ExitCode.DIFFERENT
    assert (said["kind"], said["step"]) == (VerdictKind.PERSISTENT_HARDWARE.value, 15)
    assert [replay["place"] for replay in said["replays"]] == ["here", "elsewhere", "elsewhere"]


def test_data_that_nobody_seeds_is_not_the_hardware(workspace: Workspace) -> None:
    trained(workspace, None, "train.entropy=data", "train.entropy_from=13")
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == ExitCode.UNDECIDED
    assert said["kind"] == VerdictKind.NOT_REPRODUCIBLE.value
    assert said["step"] == 13
    assert "the data is not the same twice" in said["reason"]


def test_an_operation_that_is_not_deterministic_is_named(workspace: Workspace) -> None:
    trained(workspace, None, "train.entropy=kernel", "train.entropy_from=13")
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == ExitCode.UNDECIDED
    assert (said["kind"], said["step"]) == (VerdictKind.NOT_REPRODUCIBLE.value, 13)
    assert said["evidence"] == ["torch has no deterministic algorithm for put_"]
    assert said["replays"][-1]["deterministic"]


def test_all_ranks_are_compared(workspace: Workspace) -> None:
    """The error is on rank 1 alone, in what it alone reports."""
    case = workspace.run("checked", "run.dir=runs", "retention.last=10", steps=40, conf="ranks", ranks=2)
    workspace.variables = {DRILLED: str(case.paths.root)}
    case.paths.create()
    Order("flip", at=15, rank=1, what="loss", bit=22).write(case.paths)
    assert case.finish("divergence.enabled=false") == 0, case.output()
    code, said = verify(workspace, "from=10", "steps=10")
    assert code == ExitCode.DIFFERENT
    assert (said["kind"], said["step"]) == (VerdictKind.TRANSIENT_HARDWARE.value, 15)
    assert "loss of rank 1 of step 15" in said["reason"]


def test_after_a_rollback_steps_are_run_again_without_the_data_that_it_left_out(
    workspace: Workspace,
    clean: RunCase,  # noqa: F811  a fixture is asked for by its name
) -> None:
    settings = [f"train.deadly={poison(clean, 35)}", "divergence.ladder.cut_from=1", "retention.last=20"]
    case = diverging(workspace, "checked", *settings)
    assert case.finish() == 0, case.output()
    (rollback,) = read_lineage(case.paths).rollbacks
    assert rollback.skipped is not None
    assert rollback.lr_factor < 1
    code, said = verify(workspace, f"from={rollback.target}", "steps=8")
    assert code == 0, said
    assert said["kind"] == VerdictKind.REPRODUCED.value
    assert said["replays"][0]["reached"] == rollback.target + 8


def test_what_a_person_reads_and_which_snapshot_is_taken(workspace: Workspace) -> None:
    trained(workspace, Order("flip", at=15, what="loss", bit=22))

    def said(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "resilient.cli", "verify", *words]
        done = subprocess.run(
            command, cwd=workspace.directory, env=workspace.environment(), capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, text = said("run=checked", "from=10", "steps=7")
    assert code == ExitCode.DIFFERENT
    assert "transient hardware: computed wrong once: loss of step 15 was" in text
    assert "Step 15" in text
    code, text = said("run=runs/checked", "steps=10")
    assert code == 0, text
    assert "steps 31 to 40" in text
    assert said("run=checked", "steps=100")[0] == ExitCode.NOT_FOUND
    assert said("run=checked", "from=11")[0] == ExitCode.NOT_FOUND
    assert said("run=chekced")[0] == ExitCode.NOT_FOUND
    assert said("steps=3")[0] == said("run=checked", "step=3")[0] == said("run=checked", "steps=x")[0] == ExitCode.USAGE


def supervised(workspace: Workspace, case: RunCase, into: Path) -> list[str]:
    span = ["--snapshot", "10", "--first", "15", "--last", "20"]
    command = [sys.executable, "-m", "resilient.verify", "--run", str(case.paths.root), *span]
    return [*command, "--into", str(into), "--json"]


def test_the_verdict_for_a_supervisor_is_one_line(workspace: Workspace) -> None:
    case = trained(workspace, Order("flip", at=15, what="gradient", bit=22))
    into = case.paths.incident(1)
    done = subprocess.run(
        supervised(workspace, case, into),
        cwd=workspace.directory,
        env=workspace.environment(),
        capture_output=True,
        text=True,
        timeout=2 * TIMEOUT,
        check=True,
    )
    (line,) = done.stdout.splitlines()
    verdict = Verdict.from_json(json.loads(line))
    assert (verdict.kind, verdict.step) == (VerdictKind.TRANSIENT_HARDWARE, 15)
    assert (into / "1-here" / "metrics").is_dir(), "its evidence"
    assert not (into / "1-here" / "snapshots").exists(), "but no snapshots, which would hold disk space"


def test_without_a_snapshot_nothing_is_concluded(workspace: Workspace) -> None:
    case = workspace.run("missing")
    case.paths.create()
    done = subprocess.run(
        supervised(workspace, case, workspace.directory / "into"), capture_output=True, text=True, check=True
    )
    verdict = Verdict.from_json(json.loads(done.stdout))
    assert verdict.kind is VerdictKind.INCONCLUSIVE
    assert "no snapshot of step 10" in verdict.reason


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_with_whoever_wanted_the_verdict_everything_ends(workspace: Workspace, number: signal.Signals) -> None:
    case = trained(workspace)
    into = workspace.directory / "into"
    wanting = (
        "import subprocess, sys, signal; child = subprocess.Popen(sys.argv[1:]); "
        "signal.signal(signal.SIGTERM, lambda *_: child.terminate()); child.wait()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", wanting, *supervised(workspace, case, into)],
        cwd=workspace.directory,
        env=workspace.environment(),
    )
    while not (into / "1-here" / "status.json").exists():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(number)
    process.wait(TIMEOUT)
    assert workspace.wait_until_alone() == []
    memory = RunMemory.place(RunPaths(into / "1-here"), "")
    assert memory.exists() is (number == signal.SIGKILL), "who is killed gives nothing back"
    remove_remains(into)
    assert not memory.exists()
