"""The supervisor's side of a script that knows nothing of us."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import ExitCode
from resilient.policy.events import FlushEnded
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.restarts import FailedRound, History, RestartSettings, stop_rule
from resilient.policy.state import PolicySettings
from resilient.protocol.board import Board, Flag, Word, WorkerPhase
from resilient.protocol.metrics_log import MetricsLog, read_metrics
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor.cold import variables_set_before_import
from resilient.supervisor.settings import ExitMeaning, FinishedBy, WorkerSettings
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.unmodified import UnmodifiedScript


class Round:
    """One round of a script, with a clock that stands at what the test says."""

    def __init__(self, directory: Path, **worker: Any) -> None:
        self.paths = RunPaths.of(directory / "runs", "r")
        self.paths.create()
        self.paths.round_logs(0).mkdir(parents=True)
        settings = WorkerSettings(script="a.py", finished_by=FinishedBy.exit_code, **worker)
        spec = RunSpec(self.paths, settings, SnapshotSettings(), PolicySettings(), directory=directory)
        self.said: list[str] = []
        self.now = 1000.0
        self.metrics = MetricsLog(self.paths.metrics)
        self.script = UnmodifiedScript(spec, self.metrics, self.said.append, lambda: self.now)
        self.board = Board.create(directory / "board")
        self.start = self.script.begin_round(0)

    def prints(self, text: str) -> Any:
        with self.paths.log(0, 0).open("a") as stream:
            stream.write(text)
        return self.script.poll(self.board)

    def steps_to(self, step: int) -> None:
        self.board.beat(WorkerPhase.STEP, step)
        self.script.poll(self.board)

    def recorded(self) -> list[tuple[int, float]]:
        return [(entry.metrics.step, entry.metrics.values["loss"]) for entry in read_metrics(self.paths.metrics)]


def test_what_it_prints_is_recorded_at_its_step(tmp_path: Path) -> None:
    round_ = Round(tmp_path)
    round_.steps_to(7)
    round_.prints("loss: 1.5\nnothing\n")
    round_.steps_to(8)
    round_.prints("\rloss: 1.25\rloss: 1.25\r")
    assert round_.recorded() == [(7, 1.5), (8, 1.25)]


def test_until_its_first_step_any_line_is_a_sign_of_life(tmp_path: Path) -> None:
    round_ = Round(tmp_path)
    event = round_.prints("epoch 1\n")
    assert (event.rank, event.phase) == (0, "startup")
    assert round_.prints("half a li") is None
    round_.steps_to(1)
    assert round_.prints("ne\nmore\n") is None, "from then on the step is what counts"


def test_steps_may_be_read_from_what_it_prints(tmp_path: Path) -> None:
    round_ = Round(tmp_path, step_pattern=r"step (\d+)")
    event = round_.prints("step 3 loss: 0.5\nstep 2\n")
    assert (event.step, event.phase) == (3, "step")
    assert round_.recorded() == [(3, 0.5)]
    assert round_.script.step(round_.board) == 3


def test_the_steps_that_rank_0_prints_are_those_of_all_ranks_whose_own_nothing_counts(tmp_path: Path) -> None:
    round_ = Round(tmp_path, step_pattern=r"step (\d+)")
    other = Board.create(tmp_path / "other")
    round_.prints("loading\n")
    assert not round_.script.speaks_for(other), "that it is loading says nothing about others"
    event = round_.prints("step 3\n")
    assert (event.step, event.phase) == (3, "step")
    assert round_.script.speaks_for(other)
    other.beat(WorkerPhase.STEP, 3)
    assert not round_.script.speaks_for(other)


def test_losses_are_counted_for_steps_where_no_optimizer_is_seen(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}")
    round_ = Round(tmp_path, checkpoints="c.json", resume_args=["{latest}"])
    event = round_.prints("epoch 1\nloss: 1.5\nloss: 1.5\n")
    assert (event.step, event.phase) == (1, "startup"), "its next line may take as long as its first"
    round_.prints("loss: 1.25\n")
    assert round_.recorded() == [(1, 1.5), (2, 1.25)]
    round_.script.ended(round_.board, failed=True, orderly=False)
    round_.script.begin_round(0)
    round_.prints("loss: 1\n")
    round_.steps_to(9)
    round_.prints("loss: 0.5\n")
    assert round_.recorded()[2:] == [(3, 1.0), (9, 0.5)], "on from the checkpoint; an optimizer counts better"


def test_a_script_that_finishes_without_a_step_is_told_how_to_show_them(tmp_path: Path) -> None:
    round_ = Round(tmp_path)
    round_.prints("not enough GPUs\n")
    round_.script.ended(round_.board, failed=False, orderly=True)
    assert round_.script.describe(FlushEnded(None)).own == "Its checkpoints are its own.", "it was asked to stop"
    round_.script.ended(round_.board, failed=False, orderly=True, finished=True)
    assert "worker.step_pattern" in round_.script.describe(FlushEnded(None)).own
    round_.steps_to(1)
    assert round_.script.describe(FlushEnded(None)).own == "Its checkpoints are its own."


def test_a_script_that_attaches_speaks_for_itself(tmp_path: Path) -> None:
    round_ = Round(tmp_path)
    round_.board.raise_flag(Flag.ATTACHED)
    assert round_.prints("loss: 1.5\n") is None
    assert round_.recorded() == []


def test_the_count_goes_on_from_the_step_of_its_checkpoint(tmp_path: Path) -> None:
    round_ = Round(tmp_path, checkpoints="c_*.json", resume_args=["--resume", "{latest}"])
    assert round_.start.arguments == ()
    for step in range(1, 50):
        round_.now += 1.0
        round_.steps_to(step)
        if step == 30:
            (tmp_path / "c_1.json").write_text("{}")
            os.utime(tmp_path / "c_1.json", (round_.now + 0.5, round_.now + 0.5))
    round_.script.ended(round_.board, failed=True, orderly=False)
    start = round_.script.begin_round(1)
    assert start.arguments == ("--resume", "c_1.json")
    assert start.step == 30
    assert "c_1.json" in start.source


@pytest.mark.parametrize(("orderly", "arguments"), [(True, ("c_1.bin",)), (False, ())])
def test_what_was_written_just_before_is_whole_where_the_script_came_to_its_end(
    tmp_path: Path, orderly: bool, arguments: tuple[str, ...]
) -> None:
    round_ = Round(tmp_path, checkpoints="c_*.bin", resume_args=["{latest}"])
    (tmp_path / "c_1.bin").write_bytes(b"of no format that shows its end")
    os.utime(tmp_path / "c_1.bin", (round_.now, round_.now))
    round_.script.ended(round_.board, failed=False, orderly=orderly)
    assert round_.script.begin_round(1).arguments == arguments


def test_an_error_of_the_code_on_a_checkpoint_is_tried_again_with_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "c_1.json").write_text("{}")
    (tmp_path / "c_2.json").write_text("{}")
    round_ = Round(tmp_path, checkpoints="c_*.json", resume_args=["{latest}"])
    error = Failure(FailureClass.CODE, "KeyError: 'model'")
    for expected in ("c_2.json", "c_2.json", "c_1.json"):
        assert round_.script.begin_round(0).arguments == (expected,)
        assert round_.script.failure(error, round_.board).failure_class is FailureClass.APPLICATION
        round_.script.ended(round_.board, failed=True, orderly=False)
    round_.script.begin_round(0)
    round_.board[Word.STEP] = 5
    assert round_.script.failure(error, round_.board) == error


@pytest.mark.parametrize(
    ("code", "asked", "meaning"),
    [
        (0, False, ExitMeaning.finished),
        (0, True, ExitMeaning.requeue),
        (3, False, ExitMeaning.finished),
        (3, True, ExitMeaning.finished),
        (17, False, ExitMeaning.stop),
        (75, False, ExitMeaning.requeue),
        (1, False, None),
        (-9, False, None),
    ],
)
def test_exit_codes(tmp_path: Path, code: int, asked: bool, meaning: ExitMeaning | None) -> None:
    round_ = Round(tmp_path, exit_codes={3: "finished", 17: "stop", 75: "requeue"})
    assert round_.script.meaning(code, round_.board, asked=asked) is meaning


def test_exit_0_after_a_sigterm_of_its_own_is_a_preemption(tmp_path: Path) -> None:
    round_ = Round(tmp_path)
    round_.board.raise_flag(Flag.ASKED)
    assert round_.script.meaning(0, round_.board, asked=False) is None
    unfinished = Failure(FailureClass.UNFINISHED, "exit 0")
    assert round_.script.failure(unfinished, round_.board).failure_class is FailureClass.PREEMPTION


def test_declared_stop_is_final_whatever_the_progress() -> None:
    failure = Failure(FailureClass.DECLARED, "it says stop")
    verdict = stop_rule(RestartSettings())(History((FailedRound(failure, 0, 50, 1.0),)))
    assert verdict is not None
    assert verdict.exit_code is ExitCode.WORKER_ERROR


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os\nos.environ['OMP_NUM_THREADS'] = '4'\nimport torch", ["OMP_NUM_THREADS"]),
        ('environ.setdefault("MKL_NUM_THREADS", "1")', ["MKL_NUM_THREADS"]),
        ("os.putenv('TORCH_LOGS', 'x')", ["TORCH_LOGS"]),
        ("os.environ['CUDA_VISIBLE_DEVICES'] = '0'", []),
        ("if os.environ['OMP_NUM_THREADS'] == '4': pass", []),
        ("print(os.environ.get('OMP_NUM_THREADS'))", []),
    ],
)
def test_variables_that_a_warm_process_would_read_too_early(tmp_path: Path, source: str, names: list[str]) -> None:
    (tmp_path / "a.py").write_text(source)
    assert variables_set_before_import(tmp_path / "a.py") == names
