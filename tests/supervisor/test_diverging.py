"""The shell's part of a rollback: what is written, what is kept when it cannot be, and what is asked and answered."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import LineageUnreadable
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.divergence import Alarm, Divergence, DivergenceKind, Finding, Recovered
from resilient.policy.divergence.known_good import Grade, Graded, KnownGood
from resilient.policy.divergence.ladder import LadderState
from resilient.policy.lineage import Lineage, Rollback, RollbackCause, Skip
from resilient.policy.state import Phase, PolicySettings, RunState
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.distrusted import distrusted
from resilient.protocol.lineage_file import read_lineage, write_lineage
from resilient.protocol.paths import RunPaths
from resilient.protocol.rollback_request import RollbackRequest, ask, read_answer
from resilient.protocol.settings import SnapshotSettings
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.console import Console
from resilient.supervisor.divergence_sensor import DivergenceSensor
from resilient.supervisor.divergence_words import finding_in_words, lineage_in_words, rollback_in_words
from resilient.supervisor.diverging import Diverging
from resilient.supervisor.memory import RunMemory
from resilient.supervisor.settings import WorkerSettings
from resilient.supervisor.spec import RunSpec
from resilient.supervisor.start import lineage_of

BACK = Rollback(20, 40, 1, (21, 42), reason="nonfinite of loss")
PENDING = Lineage().rolled_back(BACK)
RUNNING = RunState(phase=Phase.RUNNING)
SKIP = Skip((0, 80), (0, 168))


class Disk:
    """What the persistence is told, in order."""

    def __init__(self) -> None:
        self.told: list[object] = []
        self.restored: dict[str, Any] = {}

    def adopt_lineage(self, lineage: Lineage) -> None:
        self.told.append(("adopt", lineage.target))

    def follow(self, lineage: Lineage) -> None:
        self.lineage = lineage

    def discard_after(self, step: int) -> None:
        self.told.append(("discard", step))

    def forget_after(self, step: int) -> None:
        self.told.append(("forget", step))

    def set_aside(self) -> None:
        self.told.append("set aside")

    def delete_discarded(self) -> None:
        self.told.append("delete")


class Replay:
    def __init__(self) -> None:
        self.pid = 1
        self.verdict: Verdict | None = None
        self.abandoned = False

    def poll(self) -> Verdict | None:
        return self.verdict

    def abandon(self) -> None:
        self.abandoned = True


class Bench:
    def __init__(self, root: Path, lineage: Lineage | None = None) -> None:
        self.paths = RunPaths.of(root, "run")
        self.paths.create()
        self.memory = RunMemory(root / "arena", ranks=1, slots=2, identity="this run")
        self.now = 100.0
        self.events: list[on.Event] = []
        self.replay = Replay()
        self.disk = Disk()
        self.text = io.StringIO()
        self.console = Console(io.StringIO(), self.text)
        policy = PolicySettings()
        spec = RunSpec(self.paths, WorkerSettings(script="train.py"), SnapshotSettings(), policy, lineage=lineage)
        parts: dict[str, Any] = {"memory": self.memory, "persistence": self.disk, "console": self.console}
        self.diverging = Diverging(
            spec,
            **parts,
            sensor=DivergenceSensor(policy.divergence),
            clock=lambda: self.now,
            feed=self.events.append,
            start_replay=self._start,
        )

    def _start(self, window: do.ReplayWindow) -> Any:
        if window.number < 0:
            raise OSError(11, "no more processes")
        return self.replay

    def carry_out(self, *decisions: do.Decision) -> None:
        for decision in decisions:
            self.diverging.handlers[type(decision)](decision)

    def fill_the_disk(self) -> Path:
        """No new file can take the place of the lineage."""
        obstacle = self.paths.fresh(self.paths.lineage)
        obstacle.mkdir()
        return obstacle

    def said(self) -> str:
        self.console.flush()
        return self.text.getvalue()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.memory.remove()


def test_a_rollback_is_durable_before_anything_is_discarded(bench: Bench) -> None:
    bench.carry_out(do.SaveLineage(PENDING))
    assert read_lineage(bench.paths) == PENDING
    assert bench.disk.told == []
    bench.carry_out(do.DiscardAfter(20))
    assert bench.disk.told == [("discard", 20)]
    assert "rolling back to step 20, leaving out the data of steps 21 to 42: nonfinite of loss" in bench.said()


def test_what_cannot_be_written_down_discards_nothing_durable_until_it_is(bench: Bench) -> None:
    obstacle = bench.fill_the_disk()
    bench.carry_out(do.SaveLineage(PENDING), do.DiscardAfter(20), do.SaveLineage(PENDING.launched()))
    assert bench.disk.told == [("forget", 20)]
    assert bench.disk.lineage == PENDING.launched()  # the run goes on all the same
    assert bench.said().count("WARNING") == 1
    assert "kept until it is written down" in bench.said()
    bench.now += 60
    bench.diverging.poll(RUNNING)
    assert bench.disk.told == [("forget", 20)]
    obstacle.rmdir()
    bench.diverging.poll(RUNNING)  # not at once again
    assert not bench.paths.lineage.exists()
    bench.now += 60
    bench.diverging.poll(RUNNING)
    assert read_lineage(bench.paths) == PENDING.launched()
    assert bench.disk.told == [("forget", 20), "set aside"]


def test_a_rollback_that_could_not_be_written_down_to_the_end_is_said(bench: Bench) -> None:
    bench.fill_the_disk()
    bench.carry_out(do.SaveLineage(PENDING), do.DiscardAfter(20))
    bench.diverging.close()
    assert "the rollback to step 20, leaving out the data of steps 21 to 42 is not written down" in bench.said()
    assert not bench.paths.lineage.exists()


def test_one_that_was_written_down_at_last_needs_no_word(bench: Bench) -> None:
    obstacle = bench.fill_the_disk()
    bench.carry_out(do.SaveLineage(PENDING), do.DiscardAfter(20))
    obstacle.rmdir()
    bench.diverging.close()
    assert "is not written down" not in bench.said()
    assert read_lineage(bench.paths) == PENDING


def known(*steps: int) -> KnownGood:
    return KnownGood(tuple(Graded(step, Grade.TAKEN, step) for step in steps))


@pytest.mark.parametrize(
    ("lineage", "deleted"),
    [
        (replace(PENDING.launched(), known=known(20, 50)), True),
        (replace(PENDING, known=known(20, 50)), False),  # nothing goes on from there yet
        (replace(PENDING.launched(), known=known(20, 40)), False),  # it has not come past it
        (replace(PENDING.launched(), known=known(20, 50), ladder=LadderState((20,), until=140)), False),
        (Lineage(known=known(50)), False),
    ],
)
def test_discarded_snapshots_are_evidence_until_the_episode_is_over(
    bench: Bench, lineage: Lineage, deleted: bool
) -> None:
    bench.carry_out(do.SaveLineage(lineage))
    assert ("delete" in bench.disk.told) is deleted


# --- opening


def test_the_lineage_is_that_of_the_file(tmp_path: Path) -> None:
    bench = Bench(tmp_path, PENDING)
    assert bench.diverging.open(told=None) == PENDING
    assert bench.disk.told == [("adopt", 20)]
    bench.memory.remove()


def snapshot(paths: RunPaths, step: int, lineage: Lineage | None) -> None:
    said = {} if lineage is None else {"lineage": lineage.to_json()}
    commit(Storage(), paths.snapshots, Draft("run", step, 0, {0: memoryview(b"image")}, divergence=said))


def test_without_a_file_it_is_that_of_the_snapshot_made_last(bench: Bench) -> None:
    snapshot(bench.paths, 60, Lineage())
    snapshot(bench.paths, 30, PENDING.launched())  # after a rollback
    assert bench.diverging.open(told=Lineage()) == PENDING.launched()
    assert read_lineage(bench.paths) == PENDING.launched()


def test_with_nothing_here_it_is_that_of_the_remote_tier(bench: Bench) -> None:
    assert bench.diverging.open(told=PENDING.launched()) == PENDING.launched()
    assert read_lineage(bench.paths) == PENDING.launched()


def test_a_rollback_that_only_a_later_snapshot_tells_of_is_not_forgotten(tmp_path: Path) -> None:
    bench = Bench(tmp_path, Lineage())
    snapshot(bench.paths, 30, PENDING.launched())
    assert bench.diverging.open(told=None) == PENDING.launched()
    assert read_lineage(bench.paths) == PENDING.launched()
    bench.memory.remove()


def test_a_file_that_knows_more_than_the_snapshots_is_believed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, PENDING)
    snapshot(bench.paths, 30, Lineage())
    assert bench.diverging.open(told=None) == PENDING
    other = Lineage().rolled_back(replace(BACK, round=7)).rolled_back(replace(BACK, round=9))
    snapshot(bench.paths, 40, other)
    assert bench.diverging.open(told=None) == PENDING, "of another lineage"
    bench.memory.remove()


def test_a_new_run_has_none_and_needs_no_file(bench: Bench) -> None:
    assert bench.diverging.open(told=None) == Lineage()
    assert not bench.paths.lineage.exists()


def write_skip(bench: Bench) -> None:
    bench.memory.boards[0].tell_skips([SKIP])


def test_what_a_killed_supervisor_had_not_read_of_the_data_left_out_is_not_lost(tmp_path: Path) -> None:
    bench = Bench(tmp_path, PENDING.launched())
    write_skip(bench)
    assert bench.diverging.open(told=None).skips == (SKIP,)
    assert read_lineage(bench.paths).skips == (SKIP,)
    bench.memory.remove()


def test_a_board_from_before_the_rollback_says_nothing_of_it(tmp_path: Path) -> None:
    bench = Bench(tmp_path, PENDING)
    write_skip(bench)
    assert bench.diverging.open(told=None).skips == ()
    bench.memory.remove()


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 99}', "\udcff"])
def test_a_damaged_file_is_an_error_and_stays(bench: Bench, text: str) -> None:
    bench.paths.lineage.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(LineageUnreadable):
        lineage_of(bench.paths)
    assert bench.paths.lineage.exists()


def test_a_sound_file_is_read_at_the_start(bench: Bench) -> None:
    assert lineage_of(bench.paths) is None
    write_lineage(bench.paths, PENDING)
    assert lineage_of(bench.paths) == PENDING


# --- what comes in


def test_rank_0_says_which_data_it_is(bench: Bench) -> None:
    bench.diverging.poll(replace(RUNNING, lineage=PENDING.launched()))
    assert bench.events == []
    write_skip(bench)
    bench.diverging.poll(replace(RUNNING, lineage=PENDING.launched()))
    assert bench.events == [on.SkipResolved((SKIP,))]


def test_data_that_is_known_or_of_a_round_to_come_is_not_asked_for(bench: Bench) -> None:
    write_skip(bench)
    for lineage in (PENDING, PENDING.launched().resolved([SKIP]), Lineage()):
        bench.diverging.poll(replace(RUNNING, lineage=lineage))
    assert bench.events == []


def test_a_request_is_taken_once_and_answered(bench: Bench) -> None:
    request = RollbackRequest("a1", 20, (21, 30), 0.5)
    ask(bench.paths, request)
    bench.diverging.poll(RUNNING)
    bench.diverging.poll(RUNNING)
    assert bench.events == [on.RollbackRequested(20, (21, 30), 0.5, "a1")]
    assert not bench.paths.rollback_request.exists()
    bench.carry_out(do.SaveLineage(Lineage().rolled_back(replace(BACK, cause=RollbackCause.REQUEST))))
    given = read_answer(bench.paths, request)
    assert given is not None
    assert (given.accepted, given.target) == (True, 20)


def test_a_refusal_is_answered_with_its_reason(bench: Bench) -> None:
    request = RollbackRequest("a1", 20)
    ask(bench.paths, request)
    bench.diverging.poll(RUNNING)
    bench.carry_out(do.RefuseRollback(on.RollbackRequested(20, request="a1"), "there is no snapshot of step 20"))
    given = read_answer(bench.paths, request)
    assert given is not None
    assert (given.accepted, given.why) == (False, "there is no snapshot of step 20")


def test_whoever_asks_a_run_that_ends_meanwhile_is_told(bench: Bench) -> None:
    request = RollbackRequest("a1", 20)
    ask(bench.paths, request)
    bench.diverging.poll(RUNNING)
    bench.diverging.close()
    given = read_answer(bench.paths, request)
    assert given is not None
    assert not given.accepted


def test_a_request_that_is_none_is_told_and_gone(bench: Bench) -> None:
    bench.paths.rollback_request.write_text("back!")
    bench.diverging.poll(RUNNING)
    assert bench.events == []
    assert "cannot be read" in bench.said()
    assert not bench.paths.rollback_request.exists()


def test_the_run_is_not_asked_before_it_is_open(bench: Bench) -> None:
    ask(bench.paths, RollbackRequest("a1", 20))
    bench.diverging.poll(RunState())
    assert bench.events == []
    assert bench.paths.rollback_request.exists()


# --- replays and machines


def window(number: int = 1) -> do.ReplayWindow:
    return do.ReplayWindow(number, 20, 31, 35, 200.0)


def test_the_verdict_of_a_replay_is_told_once(bench: Bench) -> None:
    bench.carry_out(do.ReplayWindow(1, 20, 31, 35, 200.0))
    bench.diverging.poll(RUNNING)
    assert bench.events == []
    bench.replay.verdict = Verdict(VerdictKind.REPRODUCED, "the same")
    bench.diverging.poll(RUNNING)
    bench.diverging.poll(RUNNING)
    assert bench.events == [on.ReplayEnded(bench.replay.verdict)]


def test_a_replay_that_cannot_be_started_is_inconclusive(bench: Bench) -> None:
    bench.carry_out(window(-1))
    (event,) = bench.events
    assert isinstance(event, on.ReplayEnded)
    assert event.verdict.kind is VerdictKind.INCONCLUSIVE
    assert "no more processes" in event.verdict.reason


def test_an_abandoned_replay_says_nothing(bench: Bench) -> None:
    bench.carry_out(window(), do.AbandonReplay())
    bench.replay.verdict = Verdict(VerdictKind.REPRODUCED, "the same")
    bench.diverging.poll(RUNNING)
    assert bench.replay.abandoned
    assert bench.events == []


def test_a_machine_that_errs_is_written_down(bench: Bench) -> None:
    bench.carry_out(do.DistrustNode("it adds wrong", 4))
    (found,) = distrusted(bench.paths)
    assert (found.reason, found.incident) == ("it adds wrong", 4)


# --- words


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            Alarm(DivergenceKind.SPIKE, "loss", 30, 31, 31, 10.51179, 2.32197, 0.1, ("two of three",)),
            "step 31: ALARM, spike of loss since step 30: loss is 10.512 where 2.322 was to be expected",
        ),
        (
            Divergence(DivergenceKind.SPIKE, "loss", 30, 31, 43, 5.69489, 2.32197, 0.1, ("it stays",)),
            "step 43: DIVERGENCE, loss is 5.6949 where 2.322 was to be expected",
        ),
        (
            Divergence(DivergenceKind.NONFINITE, "loss", 30, 30, 30, math.nan, 0.0, 0.0, ("loss is nan",)),
            "step 30: DIVERGENCE, loss is nan",
        ),
        (
            Recovered(DivergenceKind.SPIKE, "loss", 30, 31, 37, 2.3, 2.3, 0.1, ("it came back",)),
            "step 37: the spike of loss since step 30 is over (it came back)",
        ),
    ],
)
def test_what_was_found_takes_one_line_and_says_nothing_that_the_next_one_says(found: Finding, words: str) -> None:
    assert finding_in_words(found) == words


def test_rollbacks_in_words() -> None:
    assert (
        rollback_in_words(Rollback(0, 9, 0, lr_factor=0.5), 1.0) == "rolling back to the beginning, learning rate × 0.5"
    )
    assert rollback_in_words(Rollback(5, 9, 0, lr_factor=0.5, reason="why"), 0.5) == "rolling back to step 5: why"


def test_a_round_in_words() -> None:
    assert lineage_in_words(Lineage()) == ""
    assert lineage_in_words(PENDING) == "leaving out the data of steps 21 to 42"
    assert lineage_in_words(PENDING.resolved([SKIP])) == "leaving out 88 samples"
    lowered = Lineage(inherited=(SKIP, Skip((0, 90), (1, 4))), inherited_lr_factor=0.25)
    assert (
        lineage_in_words(lowered)
        == "learning rate × 0.25, leaving out 88 samples, leaving out the data of 1 more window"
    )
