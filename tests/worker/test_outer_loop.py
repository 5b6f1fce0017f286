"""A loop that is somebody else's: the same snapshots, the same place in the data, the same end as with its own."""

from __future__ import annotations

import atexit
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import resilient
from resilient.protocol.metrics_log import series
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.compare import first_difference
from resilient.worker.loaders import StatefulData
from resilient.worker.outer_loop import OuterLoop
from resilient.worker.run import Run

STEPS, ACCUMULATED = 23, 2  # an epoch has 13 batches: 7 steps of two, the last of one


class Training:
    """What a framework does, which fetches ahead, accumulates, and evaluates in its own time."""

    def __init__(self, folder: Path, **attached: Any) -> None:
        torch.manual_seed(0)
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
        self.optimizer = torch.optim.AdamW(self.model.parameters())
        data = DataLoader(TensorDataset(torch.randn(50, 3)), batch_size=4, shuffle=True)
        os.environ["RESILIENT_RUNS"] = str(folder)
        self.run: Run = resilient.attach(
            model=self.model,
            optimizer=self.optimizer,
            data=data,
            run_id="run",
            snapshot=resilient.SnapshotSettings(every_steps=5),
            **attached,
        )
        self.losses: dict[int, float] = {}

    def forward(self, batch: Any) -> torch.Tensor:
        loss: torch.Tensor = self.model(batch[0]).pow(2).mean()
        torch.autograd.backward(loss / ACCUMULATED)
        return loss

    def step(self, loss: torch.Tensor) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.run.report(loss=loss)

    def outer(self, stop_at: int = 0) -> OuterLoop:
        loop = self.run.outer_loop(STEPS)
        going = loop.goes_on()
        while going:
            batches = _ahead(iter(loop.epochs))
            while going and (group := [batch for _, batch in zip(range(ACCUMULATED), batches, strict=False)]):
                loop.begin_step(group)
                for batch in group:
                    loss = self.forward(batch)
                    loop.consumed()
                self.step(loss)
                if self.run.step + 1 == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                if self.run.step + 1 == STEPS:
                    loop.finish()
                    return loop
                going = loop.end_step()
        return loop


def _ahead(batches: Iterator[Any]) -> Iterator[Any]:
    """One batch is always fetched before it is asked for."""
    held = list(zip(range(1), batches, strict=False))
    while held:
        _, batch = held.pop()
        held = list(zip(range(1), batches, strict=False))
        yield batch


@pytest.fixture(autouse=True)
def _signals(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from resilient.worker.signals import sigterm

    monkeypatch.setenv("RESILIENT_RUNS", "")
    monkeypatch.setattr(atexit, "register", lambda _: None)  # of this process
    yield
    sigterm.received = False
    sigterm.uninstall()


def _final(folder: Path) -> bytes:
    paths = RunPaths.of(folder, "run")
    assert max(catalog.committed_steps(paths.snapshots)) == STEPS
    return (paths.snapshot(STEPS) / "rank-00000.safetensors").read_bytes()


def test_interrupted_loop_ends_as_the_uninterrupted_one(tmp_path: Path) -> None:
    whole = Training(tmp_path / "whole")
    whole.outer()
    assert whole.run.finished
    for stop_at in (4, 7, 18):  # in an epoch, at its end, and in the last one
        first = Training(tmp_path / f"{stop_at}")
        first.outer(stop_at)
        assert first.run.left_early
        assert not first.run.finished
        assert first.run.step == stop_at
        _as_if_it_were_gone(first.run)
        second = Training(tmp_path / f"{stop_at}")
        assert second.run.step == stop_at
        second.outer()
        assert second.run.finished
        assert first_difference(_final(tmp_path / f"{stop_at}"), _final(tmp_path / "whole")) is None
        losses = [series(RunPaths.of(tmp_path / name, "run").metrics, "loss") for name in (str(stop_at), "whole")]
        assert losses[0] == losses[1]
        assert len(losses[0]) == STEPS


def _as_if_it_were_gone(run: Run) -> None:
    from resilient.worker.signals import sigterm

    sigterm.received = False
    run._host._lock.release()  # type: ignore[attr-defined]


def test_a_step_that_is_left_unfinished_is_done_again(tmp_path: Path) -> None:
    training = Training(tmp_path)
    loop = training.run.outer_loop()
    assert loop.goes_on()
    for number, batch in zip(range(3), loop.epochs, strict=False):
        loop.begin_step(batch)
        loop.consumed()
        training.step(training.forward(batch))
        if number < 2:
            assert loop.end_step()
    assert not loop.leaves_unfinished(), "nobody has asked"
    os.kill(os.getpid(), signal.SIGTERM)
    assert loop.leaves_unfinished()
    assert training.run.left_early
    loop.finish()
    assert not training.run.finished, "whatever the framework says when it ends"
    assert training.run.step == 2
    assert sorted(series(training.run._host._paths.metrics, "loss")) == [1, 2]  # type: ignore[attr-defined]
    _as_if_it_were_gone(training.run)
    again = Training(tmp_path)
    assert again.run.step == 2
    assert torch.equal(next(iter(again.run.outer_loop().epochs))[0], batch[0])


class Counting:
    """A loader with a state of its own, which counts what it has handed out."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Iterator[int]:
        while self.at < 10:
            self.at += 1
            yield self.at
        self.at = 0

    def state_dict(self) -> dict[str, int]:
        return {"at": self.at}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.at = state["at"]


def test_a_loader_with_a_state_of_its_own_goes_on_behind_what_was_used_not_what_was_fetched() -> None:
    data = StatefulData(Counting())
    opened: list[int] = []
    batches = data.epoch(lambda: opened.append(1))
    fetched = [next(batches) for _ in range(4)]
    assert data.state_dict()["inner"] == {"at": 0}
    for used in fetched[:3]:
        data.passed()
        assert data.state_dict()["inner"] == {"at": used}
    data.passed()
    assert data.state_dict() == {"kind": "stateful", "count": 4, "epoch": 0, "inner": {"at": 4}}
    assert opened == [1]
    other = StatefulData(Counting())
    other.load_state_dict(data.state_dict())
    assert list(other.epoch(lambda: None)) == [5, 6, 7, 8, 9, 10]


class Late(DataLoader[Any]):
    """As that of MosaicML's streaming: all is made with the first batch."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        yield from super().__iter__()

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        pass


def test_a_loader_that_is_made_late_draws_nothing_that_training_would_have_drawn() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    data = StatefulData(Late(TensorDataset(torch.zeros(8)), batch_size=2))

    def opened() -> None:
        torch.manual_seed(5)

    next(data.batches(opened))
    assert torch.equal(torch.rand(3), expected)


def test_step_that_ends_when_the_next_epoch_has_begun_is_followed_by_that(tmp_path: Path) -> None:
    """A framework may leave an epoch before its data ends, and begin the next one before it fetches of it."""
    first = Training(tmp_path)
    loop = first.run.outer_loop(STEPS)
    assert loop.goes_on()
    batch = next(iter(loop.epochs))
    loop.begin_step(batch)
    loop.consumed()
    first.step(first.forward(batch))
    following = iter(loop.epochs)
    os.kill(os.getpid(), signal.SIGTERM)
    assert not loop.end_step()
    _as_if_it_were_gone(first.run)
    second = Training(tmp_path)
    assert second.run.step == 1
    again = second.run.outer_loop(STEPS)
    assert again.goes_on()
    assert torch.equal(next(iter(again.epochs))[0], next(following)[0])
