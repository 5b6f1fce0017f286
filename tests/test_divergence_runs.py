"""The end-to-end divergence benchmark's own arithmetic, and that its faults are what they say."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import divergence_train
from benchmarks.divergence_runs import CLEAN, Ended, Job, report
from benchmarks.divergence_train import Once, Settings, build, loss_of


def ended(kind: str, arm: str, seed: int, val_loss: float, **changes: Any) -> Ended:
    given: dict[str, Any] = {"exit_code": 0, "seconds": 10.0, "found": 3, "rollbacks": 1, "discarded": 50}
    return Ended(kind, arm, seed, val_loss=val_loss, **{**given, **changes})


def test_losses_are_told_relative_to_the_clean_run_of_the_same_seed() -> None:
    runs = [ended(CLEAN, "clean", seed, loss) for seed, loss in ((0, 2.0), (1, 4.0))]
    runs += [ended("a", "rolled back", 0, 2.02, seconds=13.0), ended("a", "rolled back", 1, 4.0, found=None)]
    runs += [ended("a", "nothing done", 0, 3.0), ended("a", "nothing done", 1, math.nan)]
    (text,) = report(runs)
    assert "rolled back: loss +0.50 % (worst +1.0 %), finite in 2 of 2" in text
    assert "missed 1" in text
    assert "nothing done: loss +50.00 % (worst +50.0 %), finite in 1 of 2" in text


def test_a_job_names_its_fault_and_its_preset(tmp_path: Path) -> None:
    told = Job("slow drift", "rolled back", 3, 400, 700).configuration(tmp_path, tmp_path / "order.json")
    assert told["defaults"][0] == {"divergence": "default"}
    assert (told["train"]["fault"], told["train"]["length"]) == ("slow drift", 250)
    clean = Job(CLEAN, "clean", 3, 400, 700).configuration(tmp_path, tmp_path / "order.json")
    assert (clean["train"]["fault"], clean["train"]["length"]) == ("", 0)


@pytest.fixture
def training() -> tuple[Any, torch.optim.Optimizer]:
    model = build()
    return model, torch.optim.SGD(model.parameters(), lr=1.0)


def test_a_fault_of_the_machine_happens_in_its_steps_and_not_again(
    tmp_path: Path, training: tuple[Any, torch.optim.Optimizer]
) -> None:
    model, optimizer = training
    settings = Settings(fault="learning rate x 100", at=5, length=3, folder=str(tmp_path))
    rates = []
    for step in (4, 5, 6, 3, 4, 5, 6, 7):  # taken back once
        optimizer.param_groups[0]["lr"] = 1.0
        Once(settings).apply(step, model, optimizer)  # what it knows outlives the process
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [1.0, 100.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0]


def test_a_flipped_bit_is_one_bit(tmp_path: Path, training: tuple[Any, torch.optim.Optimizer]) -> None:
    model, optimizer = training
    before = model.head.weight.detach().clone()
    Once(Settings(fault="bit flip in a weight", at=1, length=1, folder=str(tmp_path))).apply(1, model, optimizer)
    changed = (model.head.weight.detach() != before).nonzero()
    assert len(changed) == 1


@pytest.mark.parametrize("fault", sorted(divergence_train.DATA))
def test_a_spoiled_sample_is_spoiled_in_the_same_way_each_time(fault: str) -> None:
    y = torch.arange(8)
    first, second = (divergence_train.DATA[fault](y, 7) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[1] == second[1]
    assert not torch.equal(first[0], y) or first[1] != 1.0


def test_one_infinite_weight_ruins_the_gradient(training: tuple[Any, torch.optim.Optimizer]) -> None:
    model, _ = training
    x = torch.zeros(2, 8, dtype=torch.int64)
    loss = loss_of(model, x, x, torch.tensor([1.0, math.inf]))
    loss.backward()  # type: ignore[no-untyped-call]  # of torch
    assert not math.isfinite(float(loss.detach()))
    assert any(
        not torch.isfinite(parameter.grad).all() for parameter in model.parameters() if parameter.grad is not None
    )
