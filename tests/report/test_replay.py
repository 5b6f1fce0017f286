"""Journals replayed: the same policy decides the same, another one where it should, and nothing is passed over."""

from __future__ import annotations

import dataclasses
import io
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from resilient.errors import ExitCode, JournalUnreadable
from resilient.policy.decisions import (
    EndRun,
    KillWorkers,
    RefuseRollback,
    ReplayWindow,
    ReportFinding,
    SaveLineage,
)
from resilient.policy.divergence import (
    Accepted,
    Alarm,
    Divergence,
    DivergenceKind,
    DivergenceSettings,
    LadderSettings,
    MetricSettings,
    Recovered,
)
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.divergence.ladder import LadderState
from resilient.policy.events import (
    Event,
    MetricsJudged,
    ReplayEnded,
    RestoreFailed,
    RollbackRequested,
    RunOpened,
    SnapshotDurable,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    Tier,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.hang import HangSettings, HangWatch
from resilient.policy.lineage import Fork, Lineage, Rollback, RollbackCause, Skip
from resilient.policy.machine import UnlistedTransition, decide
from resilient.policy.restarts import RestartSettings
from resilient.policy.state import PolicySettings, Reaction, RunState
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.decoding import NotDecodable, decode
from resilient.report.replay import Change, Line, Replay, read_lines, replay
from resilient.report.replay_table import as_json, render
from resilient.supervisor.journal import Journal, plain
from resilient.supervisor.recorder import Recorder, differences, patch, patched
from tests.policy.test_machine_properties import Shell

KILLED = Failure(FailureClass.KILLED, "SIGKILL")


NAN_LOSS = (DivergenceKind.NONFINITE, "loss", 3, 3, 3, math.inf, 0.0, 0.0, ("not finite",))
DIVERGED = MetricsJudged(
    3, (Alarm(*NAN_LOSS), Divergence(*NAN_LOSS), Recovered(*NAN_LOSS), Accepted(*NAN_LOSS)), open_onset=3
)
LINEAGE = Lineage(
    (Rollback(2, 5, 0, (3, 5), Skip((0, 16), (1, 0)), 0.5, RollbackCause.HARDWARE, "why"),),
    pending=True,
    known=KnownGood().taken(1, 1).taken(2, 1).alarmed(2, 1),
    ladder=LadderState((2,), 7, 5, 1, 0.5),
    forked_from=Fork("other", 3, "x"),
    inherited=(Skip((0, 0), (0, 4), "batches"),),
)


class Supervisor:
    """The part of a supervisor that decides and writes down."""

    def __init__(self, path: Path, policy: PolicySettings | None = None) -> None:
        self.journal = Journal(path)
        self.state = RunState(settings=policy or PolicySettings())
        self.recorder = Recorder(self.journal, self.state)
        self.now = 1000.0

    def feed(self, event: Event, seconds: float = 0.0) -> Supervisor:
        self.now = round(self.now + seconds, 6)  # as the supervisor's clock, and the journal
        self.state, _ = self.recorder.decide(self.state, event, self.now)
        return self

    def start(self, step: int | None = None, *, last_round: int = -1) -> Supervisor:
        return self.feed(RunOpened(last_round=last_round)).feed(SnapshotsListed(step))

    def fail(self, step: int) -> Supervisor:
        """The worker dies, and if the run goes on, it is launched again."""
        self.feed(WorkerExited(0, step, KILLED))
        if self.state.phase.value == "waiting":
            self.feed(Tick(), self.state.relaunch_at - self.now)
        if self.state.phase.value == "choosing":
            self.feed(SnapshotsListed(step))
        return self


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def again(path: Path, change: Change = lambda settings: settings) -> Replay:
    return replay(read_lines(path), change)


def with_restarts(**values: Any) -> Change:
    return lambda old: dataclasses.replace(old, restarts=dataclasses.replace(old.restarts, **values))


def with_hang(**values: Any) -> Change:
    return lambda old: dataclasses.replace(old, hang=dataclasses.replace(old.hang, **values))


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- any history


class RecordedShell(Shell):
    """Any history, written down as the supervisor does it, and replayed."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "journal.jsonl"
        self.journal = Journal(self.path)
        self.recorder: Recorder | None = None

    def feed(self, event: Event) -> None:
        self.now = round(self.now, 6)
        if self.recorder is None or isinstance(event, RunOpened):
            self.recorder = Recorder(self.journal, self.state)
        after, decisions = decide(self.state, event, self.now)
        self.recorder.record(event, self.now, self.state, after, decisions)
        super().feed(event)

    @rule()
    def clock_ticks(self) -> None:
        self.time_passes(0.05)

    def teardown(self) -> None:
        try:
            super().teardown()
            if not self.rounds or not self.sound:
                return
            found = again(self.path)
            assert not found.problems
            assert found.differences == ()
            if self.ends:
                assert found.state == self.state
            assert sum(len(one.then) for one in found.judged) == sum(
                entry["kind"] == "decision" for entry in entries(self.path)
            )
            for change in (with_restarts(crash_loop=1, first_wait=3.0), with_hang(min_seconds=0.1, factor=1.0)):
                assert not again(self.path, change).problems
        finally:
            self.journal.close()
            self.directory.cleanup()


RecordedShell.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestRecordedShell = RecordedShell.TestCase


# --- what if


def test_a_higher_limit_would_have_gone_on_where_the_run_stopped(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=3))).start()
    for _ in range(3):
        supervisor.fail(5)
    assert not again(path).differences
    (difference,) = again(path, with_restarts(crash_loop=5)).differences
    assert difference.event == "WorkerExited"
    assert [name for name, _ in difference.then] == ["RecordIncident", "FlushMemory"]
    assert [name for name, _ in difference.now] == ["RecordIncident"], "it would have waited and tried again"


def test_after_a_difference_it_goes_on_with_what_happened(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=5))).start()
    for _ in range(4):
        supervisor.fail(5)
    found = again(path, with_restarts(crash_loop=2))
    assert [one.line for one in found.differences] == [
        number for number, entry in enumerate(entries(path), 1) if entry["name"] == "WorkerExited"
    ][1:]
    assert not any(one.problem for one in found.judged)


def test_a_longer_wait_is_seen_in_what_is_said_of_the_failure(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=5))).start()
    supervisor.fail(5).fail(5).fail(5)
    (difference,) = again(path, with_restarts(first_wait=50.0)).differences
    assert difference.event == "WorkerExited"
    remedies = [one[0][1]["incident"]["remedy"] for one in (difference.then, difference.now)]
    assert remedies[0] == "relaunch (in 1.0 s)"
    assert remedies[1].startswith("relaunch (in 5")


def test_a_shorter_hang_limit_is_seen_at_the_last_look_before_something_happened(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(hang=HangSettings(min_seconds=60))).start()
    for step in range(1, 6):
        supervisor.feed(WorkerProgressed(0, step), 1.0).feed(Tick(), 0.05)
    supervisor.feed(Tick(), 30.0).feed(Tick(), 0.05)
    supervisor.feed(WorkerExited(0, 5, KILLED), 0.01)
    assert not again(path).differences
    found = again(path, with_hang(min_seconds=5))
    assert [(one.event, [name for name, _ in one.now]) for one in found.differences] == [("Tick", ["DumpStacks"])]


def test_a_hang_is_decided_again_from_what_was_learned(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(hang=HangSettings(min_seconds=1, factor=3))).start()
    for step in range(1, 200):
        supervisor.feed(WorkerProgressed(0, step), 2.0 + step % 3 / 10).feed(Tick(), 0.05)
    for _ in range(20):
        supervisor.feed(Tick(), 0.5)
        if supervisor.state.phase.value == "dumping":
            break
    assert supervisor.state.phase.value == "dumping"
    assert not again(path).differences


# --- how much is written


def test_a_divergence_is_decided_again_and_otherwise_by_other_settings(path: Path) -> None:
    supervisor = Supervisor(path).start()
    for step in (500, 501, 1000):
        supervisor.feed(WorkerProgressed(0, step)).feed(MetricsJudged(step))
        if step == 500:
            supervisor.feed(SnapshotDurable(500))
    found = Divergence(DivergenceKind.NONFINITE, "loss", 1000, 1000, 1000, math.nan, 0.0, 0.0, ("not finite",))
    supervisor.feed(MetricsJudged(1000, (found,), 1000)).feed(WorkerExited(0, 1000, KILLED))
    assert again(path).differences == ()
    assert again(path).state.lineage == supervisor.state.lineage

    def change(settings: PolicySettings) -> PolicySettings:
        divergence = dataclasses.replace(settings.divergence, ladder=LadderSettings(cut_from=1))
        return dataclasses.replace(settings, divergence=divergence)

    first = again(path, change).differences[0]
    names = [name for name, _ in first.now]
    assert names == [ReportFinding.__name__, SaveLineage.__name__, KillWorkers.__name__]
    told = first.now[1][1]["lineage"]["rollbacks"][0]
    assert (told["target"], told["lr_factor"]) == (500, 0.5)


def test_settings_that_are_refused_today_are_told_and_todays_defaults_assumed(path: Path) -> None:
    Supervisor(path).start()
    text = path.read_text()
    assert '"good_after": 100' in text
    path.write_text(text.replace('"good_after": 100', '"good_after": -1'))
    found = again(path)
    assert any("divergence.good_after must lie between" in problem for problem in found.problems)
    assert found.differences == ()


def test_a_healthy_run_writes_nothing_while_it_runs(path: Path) -> None:
    supervisor = Supervisor(path).start()
    supervisor.feed(WorkerProgressed(0, 1), 1.0)
    before = len(entries(path))
    for step in range(2, 2000):
        supervisor.feed(WorkerProgressed(0, step), 0.1).feed(Tick(), 0.05)
    assert len(entries(path)) == before
    supervisor.feed(StopRequested(StopKind.REQUEST, 10.0), 0.1)
    told = entries(path)[before]
    assert told["before"]["step"] == {"=": 1999}
    assert not again(path).differences


def test_a_long_history_of_failures_is_not_written_down_each_time(path: Path) -> None:
    supervisor = Supervisor(path, PolicySettings(restarts=RestartSettings(intensity=250, intensity_seconds=1.0)))
    supervisor.start()
    for number in range(300):
        supervisor.feed(WorkerProgressed(0, number + 1), 10.0)
        supervisor.fail(number + 1)
    assert not again(path).differences
    assert max(len(line) for line in path.read_text().splitlines()) < 2500


# --- journals that are not as they should be


def test_a_line_cut_short_and_one_that_is_none_are_told_with_their_numbers(path: Path) -> None:
    Supervisor(path).start().fail(3)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:2], "\x00garbage\n", *lines[2:], '{"time": 1, "kin']))
    found = again(path)
    assert found.problems == (
        "line 3 is no entry",
        f"line {len(lines) + 2} is no entry (the last line: its writer was killed, or is writing it now)",
    )
    assert not found.differences


def test_decisions_that_were_not_written_any_more_are_no_difference(path: Path) -> None:
    Supervisor(path).start().fail(3)
    lines = path.read_text().splitlines(keepends=True)
    last = max(number for number, line in enumerate(lines) if '"kind": "event"' in line)
    path.write_text("".join(lines[: last + 1]))
    found = again(path)
    assert found.problems == (f"line {last + 1}: not all of its decisions were written down",)
    assert not found.differences


def test_each_supervisor_begins_anew_with_its_own_settings(path: Path) -> None:
    Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=2))).start().fail(3).fail(3)
    Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=9))).start(last_round=1).fail(3).fail(3)
    found = again(path)
    assert not found.differences
    assert not found.problems
    assert len(again(path, with_restarts(crash_loop=9)).differences) == 1


def test_an_event_that_nobody_knows_is_named_and_the_rest_replayed(path: Path) -> None:
    supervisor = Supervisor(path).start()
    supervisor.journal.write("event", "MeteorStruck", 1.0, data={"size": 3})
    supervisor.journal.write("event", "WorkerExited", 1.0, data={"rank": "none"})
    supervisor.fail(3)
    first, second = again(path).problems
    assert "MeteorStruck is no event that this version knows" in first
    assert "WorkerExited" in second
    assert not again(path).differences


def test_a_journal_without_settings_and_states_is_replayed_as_well_as_it_can_be(path: Path) -> None:
    Supervisor(path).start().fail(3)
    old = [
        {key: value for key, value in entry.items() if key not in {"settings", "before", "after", "decisions"}}
        for entry in entries(path)
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    found = again(path)
    assert found.problems == ("line 1: the settings are not recorded, today's defaults are assumed",)
    assert not found.differences


def test_a_field_that_is_new_since_then_says_nothing(path: Path) -> None:
    Supervisor(path).start().fail(3)
    old = entries(path)
    for entry in old:
        if entry["name"] == "LaunchRound":
            del entry["data"]["source"]
            entry["data"]["of_the_past"] = 1
    path.write_text("".join(json.dumps(entry) + "\n" for entry in old))
    assert not again(path).differences


def test_what_today_no_longer_foresees_is_a_difference_and_no_crash(path: Path) -> None:
    supervisor = Supervisor(path).start()
    supervisor.journal.write("event", "SnapshotsListed", supervisor.now, data={})
    (difference,) = again(path).differences
    assert "UnlistedTransition" in difference.problem


def test_what_the_core_had_no_answer_to_is_in_the_journal(path: Path) -> None:
    supervisor = Supervisor(path).start()
    with pytest.raises(UnlistedTransition):
        supervisor.recorder.decide(supervisor.state, SnapshotsListed(), supervisor.now)
    assert "SnapshotsListed in phase starting" in entries(path)[-1]["error"]
    found = again(path)
    assert "SnapshotsListed in phase starting" in found.judged[-1].problem
    assert not found.differences, "it has none today either"


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(JournalUnreadable):
        list(read_lines(tmp_path / "none"))
    assert list(read_lines(Path("/dev/null"))) == []
    assert replay([Line(1, {"kind": "note", "name": "x"})]).judged == ()


def test_of_very_many_ranks_only_what_has_changed_is_written_down() -> None:
    old = RunState(live=frozenset(range(300)), steps=dict.fromkeys(range(300), 7))
    new = dataclasses.replace(old, live=old.live - {4, 9}, steps={**old.steps, 3: 8})
    changes = differences(old, new)
    assert frozenset(patched(plain(old.live), changes["live"])) == new.live
    assert patched(plain(old.steps), changes["steps"]) == plain(new.steps)
    assert len(json.dumps(changes)) < 100


# --- what is shown


def test_the_table_shows_the_difference_and_the_summary_counts(path: Path) -> None:
    Supervisor(path, PolicySettings(restarts=RestartSettings(crash_loop=2))).start().fail(5).fail(5)
    found, out = again(path, with_restarts(crash_loop=5)), io.StringIO()
    render(found, out, everything=False)
    text = out.getvalue()
    assert "FlushMemory" in text
    assert "RunOpened" not in text
    assert "WorkerExited(rank=0, step=5" in text
    assert "decides otherwise on 1." in text
    render(again(path), out, everything=True)
    assert "RunOpened" in out.getvalue()
    assert "decides the same." in out.getvalue()
    body = as_json(found)
    assert json.loads(json.dumps(body, allow_nan=False))["differences"][0]["then"][1]["name"] == "FlushMemory"


# --- from JSON and back

VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=2), inner, max_size=4),
    max_leaves=20,
)


@given(old=VALUES, new=VALUES)
def test_a_patch_leads_from_any_value_to_any_other(old: Any, new: Any) -> None:
    assert patched(old, patch(old, new)) == new


@given(old=st.lists(st.integers(0, 3), max_size=12), added=st.lists(st.integers(0, 3), max_size=4))
def test_a_list_that_has_grown_is_patched_with_what_was_added(old: list[int], added: list[int]) -> None:
    for new in (old + added, old[1:] + added[:1]):
        assert patched(old, patch(old, new)) == new
    if len(old) >= 4:
        assert len(patch(old, old + added)["add"]) == len(added)


@pytest.mark.parametrize(
    "value",
    [
        PolicySettings(ranks=3),
        RunState(
            live=frozenset({1, 2}),
            watches={0: HangWatch(1.5, "eval", 3, {"step": (0.5, math.inf)})},
            stop=StopRequested(StopKind.PREEMPTION, 3.0),
            ending=EndRun(ExitCode.REQUEUE, "why"),
        ),
        SnapshotsListed(None, (1, 2), remote_problem="none"),
        SnapshotsListed(peer_step=3, ranks=4),
        RestoreFailed(3, "timed out", Tier.PEER),
        WorkerExited(0, 3, KILLED),
        DIVERGED,
        ReportFinding(DIVERGED.findings[0]),
        RunState(lineage=LINEAGE, reaction=Reaction(Divergence(*NAN_LOSS), LINEAGE, "no more", 3.5), watched=4),
        PolicySettings(divergence=DivergenceSettings(metrics={"val": MetricSettings(nonfinite=3)}), rolls_back=False),
        ReplayEnded(Verdict(VerdictKind.REPRODUCED, "so", 3, ("and so",))),
        RefuseRollback(RollbackRequested(None, (3, 4), 0.5, "me"), "why"),
        ReplayWindow(3, 0, 1, 4, 600.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_was_made_plain_is_made_whole_again(value: Any) -> None:
    assert decode(type(value), json.loads(json.dumps(plain(value)))) == value


@pytest.mark.parametrize(
    ("kind", "value", "told"),
    [
        (WorkerExited, {"rank": 0}, "step is missing"),
        (WorkerExited, {"rank": "0", "step": 1}, "rank: '0' is no int"),
        (WorkerExited, {"rank": True, "step": 1}, "rank: True is no int"),
        (Failure, {"failure_class": "meteor", "signature": ""}, "'meteor' is no FailureClass"),
        (tuple[int, ...], 3, "3 is no list"),
        (dict[int, str], {"x": "y"}, "no key"),
        (float, "fast", "no float"),
        (PolicySettings, [], "no PolicySettings"),
    ],
)
def test_what_is_not_of_the_type_is_named(kind: Any, value: Any, told: str) -> None:
    with pytest.raises(NotDecodable, match=told):
        decode(kind, value)
