"""The loop over steps: which snapshots are taken when copies are held back, voided or put off."""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from resilient.errors import UsageError
from resilient.protocol.board import Command, WorkerPhase
from resilient.protocol.metrics_log import BATCH_HASH, PARAMETER_HASH, PHASE_CHANGE, series
from resilient.protocol.paths import RunPaths
from resilient.protocol.settings import RetentionSettings, SnapshotSettings
from resilient.snapshot import catalog
from resilient.worker.capture import restore
from resilient.worker.overlap import Copier, Trust, copy_all
from resilient.worker.positions import Opened
from resilient.worker.rng import GlobalRandomState
from resilient.worker.run import Run
from resilient.worker.standalone import StandaloneHost


class Counting:
    """Data without end: the number of the batch."""

    def __init__(self) -> None:
        self.position = 0

    def batches(self, opened: Opened) -> Iterator[int]:
        opened()
        while True:
            self.position += 1
            yield self.position

    def state_dict(self) -> dict[str, Any]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.position = state["position"]


class AskedToLeave(StandaloneHost):
    """Asks the loop to leave from a step on."""

    leave_at: int | None = None
    step = 0

    def command(self) -> Command:
        return Command.LEAVE if self.leave_at is not None and self.step >= self.leave_at else Command.NONE

    def left(self, step: int) -> None:
        self._wait_for_writer()


class Bench:
    """A run in this process, over a folder of its own."""

    def __init__(self, folder: Path, settings: SnapshotSettings) -> None:
        self.paths = RunPaths.of(str(folder), "run")
        self.host = AskedToLeave(self.paths, settings, RetentionSettings(last=100))
        self.model = nn.Linear(3, 1)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        data, random = Counting(), GlobalRandomState()
        self.objects: dict[str, Any] = {
            "model": self.model,
            "optimizer": self.optimizer,
            "position": data,
            "rng": random,
        }
        self.run = Run(self.host, self.objects, data, random)
        self.hold = threading.Event()
        self.hold.set()
        self.run._copier = Copier(self._copy)
        self.at: dict[int, torch.Tensor] = {}
        self.on_copy: Callable[[], None] = lambda: None

    def _copy(self, targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        assert self.hold.wait(20)
        self.on_copy()
        copy_all(targets, sources)

    def train(self) -> None:
        self.model(torch.ones(2, 3)).sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.host._wait_for_writer()  # so that what is due next need not wait for the slot to be written
        step = self.run.step + 1
        self.host.step = step
        self.at[step] = self.model.weight.detach().clone()

    def durable(self) -> list[int]:
        self.host._wait_for_writer()
        return list(catalog.committed_steps(self.paths.snapshots))

    def assert_all_as_at_their_steps(self) -> None:
        """Every complete slot and every durable snapshot holds the weight of its step."""
        images = [slot.image for slot in self.host.arena.slots if slot.info().complete]
        for step in self.durable():
            file = catalog.read_manifest(self.paths.snapshot(step)).files[0]
            images.append(memoryview(bytearray(file.checksum.size)))
            catalog.read_image(self.paths.snapshot(step), file, images[-1])
        assert images
        for image in images:
            step = restore(image, self.objects, allow_pickle=False)
            assert torch.equal(self.model.weight, self.at[step]), f"step {step}"


@pytest.fixture
def benches(tmp_path: Path) -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**settings: Any) -> Bench:
        made.append(Bench(tmp_path, SnapshotSettings(**settings)))
        return made[-1]

    yield make
    for bench in made:
        bench.hold.set()
        bench.run._alignment.close()
        bench.run._copier.close()
        bench.host._wait_for_writer()
        bench.host.arena.close()


Benches = Callable[..., Bench]


def test_hashes_go_to_the_log_and_not_into_snapshots(benches: Benches) -> None:
    bench = benches(every_steps=2)
    for step, _ in bench.run.steps(total=4):
        bench.train()
        bench.run.report(loss=1.0 / step)
    found = series(bench.paths.metrics, BATCH_HASH)
    assert list(found) == [1, 2, 3, 4]
    assert len(set(found.values())) == 4
    assert bench.durable() == [2, 4]
    assert set(catalog.read_manifest(bench.paths.snapshot(4)).metrics) == {"loss"}
    assert series(bench.paths.metrics, PARAMETER_HASH) == {}


def test_a_run_that_takes_no_snapshots_ends_without_any(benches: Benches) -> None:
    bench = benches(memory=False)
    bench.host.leave_at = 3
    for _ in bench.run.steps(total=4):
        bench.train()
    assert bench.run.left_early
    assert bench.durable() == []
    assert bench.host.arena.newest() is None


def test_batches_are_numbered_only_for_scripts_that_make_their_own(benches: Benches) -> None:
    with pytest.raises(UsageError, match="make their own"):
        _ = benches().run.batch


def test_a_change_of_phase_outside_the_loop_is_one_of_the_next_step(benches: Benches) -> None:
    bench = benches()
    bench.run.phase_change()
    for step, _ in bench.run.steps(total=5):
        bench.train()
        if step == 3:
            bench.run.phase_change()
    bench.run.phase_change()
    assert series(bench.paths.metrics, PHASE_CHANGE) == {1: 1.0, 3: 1.0}


def test_parameters_may_be_exchanged_for_an_evaluation(benches: Benches) -> None:
    bench = benches(every_steps=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step, _ in bench.run.steps(total=6):
            if step > 1:
                threading.Timer(0.02, bench.hold.set).start()
                with bench.run.phase("eval"), torch.no_grad():
                    kept = bench.model.weight.clone()
                    bench.model.weight.zero_()
                    bench.model.weight.copy_(kept)
            bench.train()
            if step < 6:
                bench.hold.clear()
    assert bench.durable() == [2, 4, 6]
    bench.assert_all_as_at_their_steps()


class Watched(AskedToLeave):
    """Keeps what a supervisor would see."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.seen: list[str] = []
        self.named = ""

    def name_phase(self, name: str) -> None:
        self.named = name

    def beat(self, phase: WorkerPhase, step: int | None = None) -> None:
        self.seen.append(self.named if phase is WorkerPhase.NAMED else phase.name.lower())


def test_phases_may_have_any_name_and_lie_within_each_other(tmp_path: Path) -> None:
    data, random = Counting(), GlobalRandomState()
    host = Watched(RunPaths.of(str(tmp_path), "run"), SnapshotSettings(), RetentionSettings())
    run = Run(host, {"position": data, "rng": random}, data, random)
    for step, _ in run.steps(total=3):
        if step == 1:
            with run.phase("generate"):
                pass
            assert host.seen == [], "until the first step is complete, everything is start-up"
        if step == 2:
            host.seen.clear()
            with run.phase("generate"):
                with run.phase("eval"), run.phase("write samples"):
                    pass
                assert host.seen[-1] == "generate"
            assert host.seen == [
                *("generate", "evaluation", "write samples", "evaluation", "generate", "step"),
            ]
    host._wait_for_writer()
    host.arena.close()


@pytest.mark.parametrize("name", ["", "step", "startup", "finished", "stopping", "x" * 33, "é" * 17, "a\0b", "a\nb"])
def test_a_name_that_cannot_be_a_phase_is_refused(benches: Benches, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a phase"), benches().run.phase(name):
        pass


def train_and_change_after(bench: Bench, steps: Sequence[int], total: int) -> None:
    """Train, and change a parameter while the snapshots of ``steps`` are being copied."""
    for step, _ in bench.run.steps(total=total):
        if step - 1 in steps:
            with torch.no_grad():
                bench.model.weight.mul_(0.5)
            bench.hold.set()
        bench.train()
        if step in steps:
            bench.hold.clear()


def test_a_void_copy_is_made_good_at_the_next_boundary_and_warned_of_once(benches: Benches) -> None:
    bench = benches(every_steps=10)
    with pytest.warns(UserWarning, match="changed between two optimizer steps") as warned:
        train_and_change_after(bench, (5, 10), 14)
    assert len(warned) == 1
    assert bench.durable() == [11, 14]  # step 10 was due
    bench.assert_all_as_at_their_steps()


def test_a_void_copy_that_was_on_its_way_to_disk_is_due_still(benches: Benches) -> None:
    bench = benches(every_steps=10)
    bench.host.writes_growing = True
    seen: list[list[int]] = []
    bench.on_copy = lambda: seen.append([slot.info().step for slot in bench.host.arena.slots if slot.info().growing])
    with pytest.warns(UserWarning, match="changed between two optimizer steps"):
        train_and_change_after(bench, (10,), 14)
    assert [10] in seen
    assert all(not slot.info().growing for slot in bench.host.arena.slots)
    assert bench.durable() == [11, 14]
    bench.assert_all_as_at_their_steps()


def test_a_copy_that_failed_on_its_way_to_disk_does_not_keep_later_ones_from_it(benches: Benches) -> None:
    bench = benches(every_steps=2, memory_every_steps=1)
    bench.host.writes_growing = True

    def fail() -> None:
        if any(slot.info().growing and slot.info().step == 4 for slot in bench.host.arena.slots):
            raise RuntimeError("no more")

    bench.on_copy = fail
    for step, _ in bench.run.steps(total=8):
        if step == 5:
            with pytest.raises(RuntimeError, match="no more"):
                bench.run._wait_for_copy()
        bench.train()
    assert bench.durable() == [2, 5, 6, 8]
    bench.assert_all_as_at_their_steps()


def test_a_void_memory_snapshot_is_due_again(benches: Benches) -> None:
    bench = benches(memory_every_steps=4, every_steps=100)
    with pytest.warns(UserWarning, match="changed"):
        train_and_change_after(bench, (4,), 7)
    assert bench.host.arena.find(4) is None
    assert bench.host.arena.find(5) is not None
    bench.assert_all_as_at_their_steps()


def test_overlap_is_left_off_once_after_a_void_copy_and_for_good_after_three() -> None:
    trust = Trust(on=True)
    assert trust.allows()
    for _ in range(2):
        trust.voided()
        assert not trust.allows()
        assert trust.allows()
    trust.voided()
    assert not any(trust.allows() for _ in range(100))
    assert trust.lost_first()
    assert not trust.lost_first()
    assert not Trust(on=False).allows()
    assert not Trust(on=False).lost_first()


def test_what_is_due_while_gradients_accumulate_is_taken_after_the_optimizer_has_stepped(benches: Benches) -> None:
    bench = benches(every_steps=2)
    for step, _ in bench.run.steps(total=10):
        bench.model(torch.ones(2, 3)).sum().backward()
        if step % 3 == 0:
            bench.train()
    assert bench.durable() == [3, 6, 9, 10]


def test_nothing_is_overlapped_before_an_optimizer_has_been_seen_to_step(benches: Benches) -> None:
    """Of tensors whose optimizer steps unseen nobody knows when they may change."""
    bench = benches(every_steps=100)
    bench.hold.clear()  # an overlapped copy would never end
    for step, _ in bench.run.steps(total=3):
        with torch.no_grad():
            bench.model.weight.add_(1)
        bench.at[step] = bench.model.weight.detach().clone()
    bench.assert_all_as_at_their_steps()


def test_a_request_to_leave_is_put_off_until_the_optimizer_has_stepped(benches: Benches) -> None:
    bench = benches(every_steps=100)
    bench.host.leave_at = 4
    for step, _ in bench.run.steps(total=20):
        bench.host.step = step
        bench.model(torch.ones(2, 3)).sum().backward()
        if step % 3 == 0:
            bench.train()
    assert bench.run.left_early
    assert bench.run.step == 6
    assert bench.durable() == [6]
    bench.assert_all_as_at_their_steps()


def test_a_request_to_leave_before_the_first_step_is_obeyed_at_once(benches: Benches) -> None:
    bench = benches(every_steps=100)
    bench.host.leave_at = 0
    assert list(bench.run.steps(total=20)) == []
    assert bench.run.left_early
    assert bench.durable() == []


def test_the_wait_of_an_optimizer_for_the_copy_is_a_cost_of_the_snapshot_and_not_of_the_step(benches: Benches) -> None:
    bench = benches(memory_every_steps=0, overhead=0.01, every_steps=1000)
    copies = 0

    def slow(targets: Sequence[torch.Tensor], sources: Sequence[torch.Tensor]) -> None:
        nonlocal copies
        copies += 1
        time.sleep(0.2)  # as much as a hundred steps and more
        copy_all(targets, sources)

    bench.run._copier = Copier(slow)
    for _ in bench.run.steps(total=60):
        bench.train()
    assert copies <= 2  # the first one comes before anything is known, and is copied at once
    assert bench.run._schedule._pace.stall > 0.05
    assert bench.run._schedule._pace.step < 0.1


def test_a_disk_that_stands_still_does_not_make_memory_snapshots_more_frequent(benches: Benches) -> None:
    bench = benches(memory_every_steps=10, every_steps=10)
    bench.host.durable_requested = lambda slot: None  # type: ignore[method-assign]  # held, and never written
    for _ in bench.run.steps(total=40):
        bench.train()
    assert bench.host.arena.next_sequence() == 5


def test_a_forked_process_neither_waits_for_a_copy_nor_hangs_at_its_end(benches: Benches) -> None:
    bench = benches(every_steps=1000)
    for step, _ in bench.run.steps(total=4):
        if step == 3:
            child = os.fork()
            if child == 0:
                bench.optimizer.step()
                bench.run._copier._settle()  # what runs when the interpreter ends
                os._exit(0)
            assert _exit_code(child) == 0
            bench.hold.set()
        bench.train()
        if step == 2:
            bench.hold.clear()
    assert 4 in bench.durable()


def _exit_code(pid: int) -> int | None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_where_no_thread_can_be_started_snapshots_become_durable_all_the_same(
    benches: Benches, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "resilient-commit":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    bench = benches(every_steps=2)
    for _ in bench.run.steps(total=6):
        bench.train()
    assert bench.durable() == [2, 4, 6]
    bench.assert_all_as_at_their_steps()


def test_a_loop_that_is_left_on_purpose_leaves_its_newest_snapshot_on_disk(benches: Benches) -> None:
    bench = benches(every_steps=100)
    for step, _ in bench.run.steps(total=1000):
        bench.train()
        if step == 7:
            break
    bench.run.finish()
    assert bench.durable() == [6]
    bench.assert_all_as_at_their_steps()
