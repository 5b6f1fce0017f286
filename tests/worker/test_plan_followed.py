"""A script in a process of its own, under plans that leave data out, lower the rate or stop it; what its board says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.policy.lineage import Skip
from resilient.protocol.board import Board, Flag, Metrics
from resilient.protocol.environment import Rendezvous, WorkerEnvironment
from resilient.protocol.metrics_log import BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH, PHASE_CHANGE
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import FingerprintSettings, SnapshotSettings
from resilient.supervisor.memory import RunMemory

SCRIPT = """
import json, sys, torch, resilient
from torch.utils.data import DataLoader
torch.manual_seed(0)
kind = sys.argv[1]
model = torch.nn.Linear(1, 1)
optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
data = None if kind == "none" else DataLoader([float(x) for x in range(10)], batch_size=2, shuffle=True)
run = resilient.attach(model=model, optimizer=optimizer, data=data)
seen = []
for step, batch in run.steps(total=int(sys.argv[2])):
    number = run.batch if kind == "none" else batch.tolist()
    seen.append((step, number))
    if step == 3:
        run.phase_change()
    before = model.weight.item()
    model(torch.ones(1, 1)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    run.report(moved=before - model.weight.item(), lr=optimizer.param_groups[0]["lr"])
run.phase_change()
print(json.dumps([seen, run.step, run.finished, run.left_early, run.lr_factor]))
"""


class Round:
    """One launch of the script, and what it left on its board.

    :ivar told: where the data begins and ends that steps were resolved to.
    """

    def __init__(self, output: str, board: Board) -> None:
        self.seen, self.step, self.finished, self.left_early, self.lr_factor = json.loads(output.splitlines()[-1])
        self.metrics: list[Metrics] = board.unread_metrics()
        self.flags = {flag for flag in Flag if board.has_flag(flag)}
        self.told = board.skips

    @property
    def batches(self) -> list[Any]:
        return [batch for _, batch in self.seen]

    def values(self, name: str) -> dict[int, float]:
        return {item.step: item.values[name] for item in self.metrics if name in item.values}


class Bench:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._script = folder / "train.py"
        self._script.write_text(SCRIPT)
        self.memory = RunMemory(folder / "shared", 1, 3, "this run", folder)

    def round(self, kind: str = "loader", total: int = 12, **plan: Any) -> Round:
        self.memory.renew_boards()
        file = self.memory.write_plan(RoundPlan("run", str(self._folder), 0, str(self.memory.directory), **plan))
        variables = WorkerEnvironment(file).variables(Rendezvous())
        done = subprocess.run(
            [sys.executable, str(self._script), kind, str(total)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return Round(done.stdout, self.memory.boards[0])

    def steps_with_image(self) -> set[int]:
        infos = [slot.info() for slot in self.memory.arenas[0].slots]
        return {info.step for info in infos if info.complete}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.memory.remove()


NONE = SnapshotSettings(memory=False)


def test_steps_are_left_out_from_the_restored_step_on_and_it_is_said_which_data_that_was(bench: Bench) -> None:
    whole = bench.round(total=12, snapshot=NONE)
    assert whole.flags == {Flag.ATTACHED, Flag.FINISHED}
    assert bench.steps_with_image() == set()
    assert set(whole.values(BATCH_HASH)) == set(range(1, 13))
    assert len(set(whole.values(BATCH_HASH).values())) == 12
    assert whole.values(PHASE_CHANGE) == {3: 1.0}
    assert whole.told == ()
    bench.round(total=2)
    second = bench.round(total=5, restore_step=2, skip_steps=((4, 7),), lr_factor=0.25)
    assert second.batches == [whole.batches[2], *whole.batches[7:9]]
    assert second.values(BATCH_HASH)[4] == whole.values(BATCH_HASH)[8]
    assert second.told == (Skip((0, 6), (1, 4)),)
    slot = bench.memory.arenas[0].newest()
    assert slot is not None
    assert set(slot.meta["metrics"]) == {"moved", "lr"}, "hashes are no metrics of the user's"
    again = bench.round(total=8, restore_step=5, skip_steps=((4, 7),))
    assert again.told == second.told, "from a later snapshot, before the supervisor had heard of it"
    assert again.batches == whole.batches[9:12]
    assert (whole.lr_factor, second.lr_factor) == (1.0, 0.25)
    assert list(second.values("lr").values()) == [0.5] * 3
    assert list(second.values("moved").values()) == [pytest.approx(0.125)] * 3
    assert list(again.values("moved").values()) == [pytest.approx(0.5)] * 3


def test_a_script_that_makes_its_own_batches_is_told_which_one_is_next(bench: Bench) -> None:
    settings = FingerprintSettings(gradients=True, parameters=True)
    skips = (Skip((0, 2), (0, 4), "batches"),)
    done = bench.round("none", total=5, skips=skips, skip_steps=((2, 2),), fingerprint=settings)
    assert done.batches == [1, 5, 6, 7, 8]
    assert done.told == (Skip((0, 1), (0, 2), "batches"),)
    assert done.values(BATCH_HASH) == {}
    assert done.values(GRADIENT_HASH).keys() == done.values(PARAMETER_HASH).keys() == set(range(1, 6))
    assert len(set(done.values(PARAMETER_HASH).values())) == 5


def test_it_stops_after_the_step_that_the_plan_names_without_a_snapshot_of_it(bench: Bench) -> None:
    done = bench.round(stop_after=4, snapshot=SnapshotSettings(overlap=False))
    assert (done.step, done.finished, done.left_early) == (4, False, True)
    assert [step for step, _ in done.seen] == [1, 2, 3, 4]
    assert done.flags == {Flag.ATTACHED, Flag.STOPPED_AFTER}
    assert set(done.values("lr")) == {1, 2, 3, 4}
    assert bench.steps_with_image() == {1, 2, 3}
    last = bench.round(total=6, stop_after=6, restore_step=3, snapshot=NONE)
    assert not last.finished, "it stops also where it would have finished"
    assert last.flags == {Flag.ATTACHED, Flag.STOPPED_AFTER}
    assert bench.steps_with_image() == {1, 2, 3}
