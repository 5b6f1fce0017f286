"""Steps counted at the optimizers of a script that knows nothing of us."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from resilient.protocol.board import Board, Flag, Word, WorkerPhase
from resilient.worker.progress import Progress, StepCounter


@pytest.fixture
def board(tmp_path: Path) -> Board:
    return Board.create(tmp_path / "board")


@pytest.fixture
def progress(board: Board) -> Iterator[Progress]:
    progress = Progress()
    progress.begin(str(board.path))
    yield progress
    progress.withdraw()


def parameter() -> torch.nn.Parameter:
    tensor = torch.nn.Parameter(torch.ones(3))
    tensor.grad = torch.ones(3)
    return tensor


def test_every_kind_of_step_counts(board: Board, progress: Progress) -> None:
    class Own(torch.optim.Optimizer):
        def __init__(self, parameters: Any) -> None:
            super().__init__(parameters, {"lr": 0.1})

        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            pass

    assert board[Word.PHASE] == WorkerPhase.STARTUP
    for number, kind in enumerate((Own, torch.optim.SGD, torch.optim.AdamW), start=1):
        optimizer = kind([parameter()])
        schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
        for _ in range(number * 2):  # it joins at the step that the one before has reached
            optimizer.step()
            schedule.step()
    assert board[Word.STEP] == 2 + 3 + 5
    assert board[Word.PHASE] == WorkerPhase.STEP


def test_lbfgs_counts_its_steps_and_not_its_evaluations(board: Board, progress: Progress) -> None:
    weight = parameter()
    optimizer = torch.optim.LBFGS([weight], max_iter=5)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (weight**2).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    optimizer.step(closure)  # type: ignore[no-untyped-call]
    assert board[Word.STEP] == 2


def test_step_that_the_scaler_leaves_out_is_none(board: Board, progress: Progress) -> None:
    weight = parameter()
    optimizer = torch.optim.SGD([weight])
    scaler = torch.amp.GradScaler("cpu")
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        scaler.scale((weight * factor).sum()).backward()  # type: ignore[no-untyped-call]
        scaler.step(optimizer)
        scaler.update()
    assert board[Word.STEP] == 2


def test_several_optimizers_are_one_step(board: Board) -> None:
    counter = StepCounter(board)
    generator, discriminator = parameter(), parameter()
    for _ in range(3):
        for _ in range(5):
            counter.count(discriminator)
        counter.count(generator)
    assert board[Word.STEP] == 15
    for _ in range(4):
        counter.count(parameter())  # made anew each time, as in cross validation
    assert board[Word.STEP] == 15
    assert board[Word.BEATS] == 22, "each is a sign of life all the same"


def test_the_count_goes_on_from_where_the_round_began(board: Board) -> None:
    board[Word.STEP] = 100
    counter = StepCounter(board)
    optimizer, other = parameter(), parameter()
    counter.count(optimizer)
    counter.count(other)
    counter.count(optimizer)
    assert board[Word.STEP] == 102


def test_nothing_counts_once_the_script_has_attached(board: Board, progress: Progress) -> None:
    optimizer = torch.optim.SGD([parameter()])
    optimizer.step()
    progress.withdraw()
    optimizer.step()
    assert board[Word.STEP] == 1


def test_compiled_step_is_left_alone(board: Board, progress: Progress) -> None:
    weight = parameter()
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torch.compile(lambda: optimizer.step(), backend="eager")()  # noqa: PLW0108
    assert weight[0].item() == 0.0


def test_handled_sigterm_is_noted(board: Board, progress: Progress) -> None:
    progress.end(asked=False)
    assert not board.has_flag(Flag.ASKED)
    progress.end(asked=True)
    assert board.has_flag(Flag.ASKED)


def test_board_that_is_gone_is_no_error(tmp_path: Path) -> None:
    progress = Progress()
    progress.begin(str(tmp_path / "none"))
    progress.end(asked=True)
    progress.withdraw()


def test_torch_is_imported_by_the_script_alone_and_then_counted(board: Board) -> None:
    source = f"""
import sys
from resilient.worker import bootstrap
from resilient.worker.progress import progress
progress.begin({str(board.path)!r})
assert "torch" not in sys.modules
import torch
assert type(sys.modules["torch.optim.optimizer"].__loader__).__name__ == "SourceFileLoader"
weight = torch.nn.Parameter(torch.ones(1)); weight.grad = torch.ones(1)
torch.optim.SGD([weight]).step()
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
    assert board[Word.STEP] == 1


def test_log_that_others_than_python_have_filled_is_rotated_at_a_step(board: Board, tmp_path: Path) -> None:
    source = f"""
import os
from pathlib import Path
from resilient.worker.log_file import open_log
from resilient.worker.progress import progress
open_log(Path({str(tmp_path / "rank.log")!r}), most=1000, keep=1)
progress.begin({str(board.path)!r})
import torch
weight = torch.nn.Parameter(torch.ones(1)); weight.grad = torch.ones(1)
optimizer = torch.optim.SGD([weight])
os.write(1, b"as a library in C writes\\n" * 100)
optimizer.step()
print("the next piece", flush=True)
"""
    subprocess.run([sys.executable, "-c", source], check=True, timeout=120)
    assert (tmp_path / "rank.log").read_text() == "the next piece\n"
