"""Scripts that know nothing of us, as people have them, without one changed line."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from resilient.drill.faults import KillWorker, Preempt, Target
from resilient.errors import ExitCode
from resilient.protocol.metrics_log import read_metrics
from resilient.protocol.start import python_command
from tests.run.harness import RunCase, Running, Workspace

EXAMPLE = Path(__file__).parents[2] / "examples" / "script" / "train.py"
SCRIPTS = Path(__file__).with_name("scripts")
RESUMING = ("worker.checkpoints=out/**/c*.pt", "worker.resume_args=[--resume,{latest}]")


@dataclass
class ScriptCase(RunCase):
    """A run of a copy of a script in the workspace."""

    arguments: tuple[str, ...] = field(default=())

    def start(self, *extra: str) -> Running:
        directory = self.workspace.directory
        words = ["train", "conf=script", f"script={self.run_id}.py", *self.settings, *extra, "--", *self.arguments]
        command = python_command("resilient.cli", *words)
        with (directory / f"{self.run_id}.out").open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**self.workspace.environment(), "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Running(self, process, Target(self.paths, process.pid))

    def log(self, number: int = 0) -> str:
        return self.paths.log(number, 0).read_text()


def script(workspace: Workspace, source: Path, *settings: str, arguments: tuple[str, ...] = ()) -> ScriptCase:
    shutil.copy(source, workspace.directory)
    return ScriptCase(workspace, source.stem, settings, arguments=arguments)


def plainly(case: ScriptCase) -> subprocess.CompletedProcess[str]:
    """The same script, the same arguments, without us."""
    return subprocess.run(
        [sys.executable, f"{case.run_id}.py", *case.arguments],
        cwd=case.workspace.directory,
        env={**case.workspace.environment(), "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def test_killed_example_ends_as_it_would_have(workspace: Workspace) -> None:
    arguments = ("--epochs", "4", "--samples", "6400")
    case = script(workspace, EXAMPLE, *RESUMING, arguments=arguments)
    running = case.start().wait_for_step(500)  # of 200 in each epoch
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"]
    assert "resumed from out/ckpt_" in case.log(1)
    shutil.rmtree(workspace.directory / "out")
    tests = [line for line in plainly(case).stdout.splitlines() if "Test set" in line]
    assert tests[-1] in case.log(1)
    entries = [entry for entry in read_metrics(case.paths.metrics) if "loss" in entry.metrics.values]
    assert len(entries) > 60
    # The count went on from the checkpoint, to within the steps of one look; from the beginning it would be 400.
    assert 600 <= entries[-1].metrics.step <= 800


def test_own_sigterm_handler_saves_and_exit_0_is_not_taken_for_finished(workspace: Workspace) -> None:
    case = script(workspace, SCRIPTS / "saving.py", *RESUMING)
    running = case.start().wait_for_step(30)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert "saved at" in case.log()
    assert "Its newest checkpoint is out/checkpoint-" in case.output()
    running = case.start().wait_for_step(120)
    KillWorker(number=signal.SIGTERM).inject(running.target)
    assert running.wait() == 0, case.output()
    assert "SIGTERM reached the worker alone" in case.output()
    assert "done" in case.log(2)
    assert "resumed at" in case.log(2)


def test_hung_script_is_killed_and_goes_on_from_its_checkpoint(workspace: Workspace) -> None:
    case = script(workspace, SCRIPTS / "saving.py", *RESUMING, "hang.min_seconds=2", arguments=("--hang-at", "150"))
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["hang"]
    assert "resumed at 100" in case.log(1)
    assert "round 1: starting from its own checkpoint out/checkpoint-100.pt" in case.output()


def test_steps_of_spawned_ranks_are_seen(workspace: Workspace) -> None:
    case = script(workspace, SCRIPTS / "spawning.py", arguments=("400",))
    running = case.start().wait_for_step(20)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert case.incidents() == ["killed"]
    assert "all ranks are done" in case.log(1)
    assert "round 0: starting from the beginning" in case.output()
    assert "round 1: starting from its own checkpoint, if it finds one" in case.output()
    assert 390 <= max(entry.metrics.step for entry in read_metrics(case.paths.metrics)) <= 400


def test_bad_checkpoints_are_passed_over(workspace: Workspace) -> None:
    case = script(workspace, SCRIPTS / "saving.py", *RESUMING, arguments=("--steps", "120"))
    out = workspace.directory / "out"
    out.mkdir()
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.Adam(model.parameters())
    state = {"step": 107, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    for number in (107, 109):
        torch.save(state, out / f"checkpoint-{number}.pt")
    whole = (out / "checkpoint-109.pt").read_bytes()
    (out / "checkpoint-109.pt").write_bytes(whole[: len(whole) // 2])
    with zipfile.ZipFile(out / "checkpoint-108.pt", "w") as archive:  # whole to look at
        archive.writestr("checkpoint-108/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("checkpoint-108/version", b"3\n")
    assert case.finish() == 0, case.output()
    assert "checkpoint-109.pt is not complete (the directory at its end is missing)" in case.output()
    assert "checkpoint-108.pt is passed over: the script has crashed on it 2 times" in case.output()
    assert "resumed at 107" in case.log(2)


def test_script_sees_what_it_would_see_without_us(workspace: Workspace) -> None:
    arguments = ("--lr", "1e-3", "key=value", "a, b", "${x}", "{latest}")
    case = script(workspace, SCRIPTS / "showing.py", "restarts.crash_loop=1", arguments=arguments)
    (workspace.directory / "grp.py").write_text("")  # torch has imported Python's
    expected = plainly(case)
    assert expected.returncode == 1
    assert "that was all" in expected.stdout
    assert case.finish() == ExitCode.CRASH_LOOP
    assert sorted(case.log().splitlines()) == sorted(expected.stdout.splitlines())


@pytest.mark.parametrize(
    ("meaning", "code", "said"),
    [("finished", 0, "Finished"), ("stop", ExitCode.WORKER_ERROR, "exit code 7"), ("requeue", 75, "Preempted")],
)
def test_exit_codes_of_the_scripts_own(workspace: Workspace, meaning: str, code: int, said: str) -> None:
    source = workspace.directory / "seven.py"
    source.write_text("raise SystemExit(7)\n")
    case = ScriptCase(workspace, "seven", ["worker.preload=[]", f"worker.exit_codes={{7: {meaning}}}"])
    assert case.finish() == code, case.output()
    assert said in case.output()
    assert len(case.journal("LaunchRound")) == 1
