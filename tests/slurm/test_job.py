"""The scheduler above a supervisor, told what a real SLURM has said in each case; clocks and commands are passed in."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from resilient.errors import ExitCode, RequeuesSpent
from resilient.policy.decisions import EndRun
from resilient.policy.events import StopKind
from resilient.policy.state import StopSettings
from resilient.slurm.commands import Answer, Call, Commands
from resilient.slurm.environment import JobEnvironment
from resilient.slurm.job import SlurmJob
from resilient.slurm.settings import Requeue, SlurmSettings
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.scheduler import Needed, Notice

NOW = time.mktime((2026, 11, 28, 12, 0, 0, 0, 0, -1))
STEP = JobEnvironment(7, 1, node="n1", node_list="n1", partition="low", step=0)
PREEMPTED = EndRun(ExitCode.REQUEUE, "Preempted at step 30.")


class FakeCall:
    """An answer that comes when it is let."""

    def __init__(self, cluster: FakeCluster, command: tuple[str, ...]) -> None:
        self._cluster, self._command = cluster, command

    def poll(self, now: float) -> Answer | None:
        return self._cluster.answer(self._command) if self._cluster.answers else None


class FakeCluster(Commands):
    """Answers as SLURM 22.05 did."""

    def __init__(self, absent: bool = False) -> None:
        self.absent = absent
        self.answers = True
        self.fields: dict[str, str] = {}
        self.asked: list[tuple[str, ...]] = []
        self.refuses: dict[str, str] = {}
        self.running()

    def running(self, ends: float = 3600.0, /, **fields: str) -> None:
        known = {"JobId": "7", "JobState": "RUNNING", "Reason": "None", "Requeue": "1", "Restarts": "1"}
        more = {"BatchFlag": "1", "EndTime": stamp(ends), "PreemptTime": "None", "ExcNodeList": "(null)"}
        self.fields = {**known, **more, **fields}

    def answer(self, command: tuple[str, ...]) -> Answer:
        self.asked.append(command)
        if self.absent:
            return Answer(problem="scontrol is not installed here", absent=True)
        verb = command[1]
        if verb in self.refuses:
            return Answer(problem=self.refuses[verb])
        if command[-1] == "config":
            return Answer("KillWait                = 30 sec\nRequeueExit = (null)\n")
        if command[-2:-1] == ("partition",):
            return Answer("PartitionName=low GraceTime=20 State=UP")
        return Answer(" ".join(f"{name}={value}" for name, value in self.fields.items()))

    def begin(self, *command: str) -> Call:
        return FakeCall(self, command)  # type: ignore[return-value]

    def call(self, *command: str) -> Answer:
        return self.answer(command)


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(NOW + seconds))


class World:
    """A job and what is around it.

    :ivar at: seconds since :data:`NOW`.
    """

    def __init__(
        self, directory: Path, settings: SlurmSettings | None = None, environment: JobEnvironment = STEP, **cluster: Any
    ) -> None:
        self.at = 0.0
        self.cluster = FakeCluster(**cluster)
        self.said: list[str] = []
        self.file = directory / "journal.jsonl"
        self.journal = Journal(self.file)
        self.distrusted: list[str] = []
        self.needed = Needed(1.0, 4.0)
        self.job = SlurmJob(
            environment,
            settings or SlurmSettings(),
            StopSettings(),
            distrusted=lambda: self.distrusted,
            commands=self.cluster,
            clock=lambda: 50.0 + self.at,
            wall=lambda: NOW + self.at,
        )

    def begin(self, *entries: Mapping[str, Any], step: int | None = 0) -> World:
        self.job.begin(entries, step, self.journal, self.said.append)
        self.cluster.asked.clear()
        return self

    def signalled(self, number: signal.Signals = signal.SIGTERM, *, stopping: bool = False) -> Notice | None:
        return self.job.signalled(number, stopping=stopping)

    def poll(self) -> Notice | None:
        return self.job.poll(lambda: self.needed)

    def pass_until(self, heard: Callable[[Notice], bool] = bool, last: float = 4000.0) -> Notice | None:
        """Let seconds pass until there is a notice."""
        while self.at < last:
            if (notice := self.poll()) is not None:
                assert heard(notice)
                return notice
            self.at += 1.0
        return None

    def ordered(self) -> list[tuple[str, ...]]:
        """What was asked of the controller beside looking."""
        return [command for command in self.cluster.asked if command[1] in {"requeue", "update"}]


def test_a_sigterm_counts_at_once_with_the_time_that_is_certain(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    notice = world.signalled()
    assert notice is not None
    assert notice.kind is StopKind.PREEMPTION
    assert notice.grace == 15.0  # GraceTime, less than KillWait, and the margin
    world.cluster.running(20.0, PreemptTime=stamp(0))
    world.at = 1.0
    told = world.poll()
    assert told is not None
    assert told.grace == 14.0
    assert "preempted" in told.reason


def test_a_controller_that_does_not_answer_delays_nothing(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.cluster.answers = False
    assert world.signalled() is not None
    assert world.poll() is None
    world.cluster.answers, world.cluster.fields = True, {}  # and then it answers with something else
    assert world.poll() is None
    assert [entry["name"] for entry in read_journal(world.file)][-1] == "slurm silent"


@pytest.mark.parametrize(
    ("fields", "grace", "words"),
    [
        ({"JobState": "COMPLETING", "Restarts": "2", "EndTime": "Unknown"}, 25.0, "being requeued"),
        ({"JobState": "COMPLETING"}, 25.0, "cancelled"),
        ({"JobState": "COMPLETING", "Reason": "TimeLimit"}, 25.0, "over its time limit"),
        ({}, 20.0, "not to be killed before its time limit"),  # stop.grace_seconds, as nobody follows it up
        ({"EndTime": "Unknown"}, 20.0, "not to be killed"),
    ],
)
def test_what_a_signal_means_is_what_the_controller_says(
    tmp_path: Path, fields: dict[str, str], grace: float, words: str
) -> None:
    world = World(tmp_path).begin()
    world.cluster.running(**fields)
    assert world.signalled() is not None
    notice = world.poll()
    assert notice is not None
    assert (notice.grace, words in notice.reason) == (grace, True)


def test_nobody_is_hurried_who_needs_more_time_after_a_signal_by_hand(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.needed = Needed(10.0, 300.0)
    world.signalled(signal.SIGUSR1)
    notice = world.poll()
    assert notice is not None
    assert notice.grace > 600.0


def test_slurm_repeats_its_signals_and_that_is_no_hurry(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.signalled()
    world.cluster.running(20.0, PreemptTime=stamp(0))
    assert world.poll() is not None
    world.at = 26.0
    assert world.signalled(stopping=True) is None
    notice = world.poll()  # the grace is over; what is left is what there is between SIGTERM and SIGKILL
    assert notice is not None
    assert notice.grace == 25.0


def test_a_person_at_the_terminal_is_waited_for(tmp_path: Path) -> None:
    notice = World(tmp_path).begin().signalled(signal.SIGINT)
    assert notice is not None
    assert notice.patient
    assert notice.kind is StopKind.REQUEST


def test_a_job_leaves_before_its_time_is_up(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    notice = world.pass_until()
    assert notice is not None
    assert "time limit" in notice.reason
    left = 3600.0 - world.at
    assert left == 30.0  # stop.grace_seconds, and a margin of 5 s
    assert notice.grace == 25.0
    assert world.poll() is None  # once


def test_a_large_state_or_long_steps_make_it_leave_earlier(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.needed = Needed(100.0, 280.0)
    assert world.pass_until() is not None
    # twice what a step and a flush need of the part of the grace in which both have to be over
    assert 3600.0 - world.at == pytest.approx(5.0 + 2 * 380.0 / 0.95, abs=1.0)


def test_a_limit_that_was_extended_is_heard_of_before_it_is_acted_on(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.cluster.running(7200.0)
    assert world.pass_until(last=3700.0) is None
    assert world.pass_until(last=7200.0) is not None
    assert len(world.cluster.asked) < 14  # and nobody was bothered with it all the time


def test_a_batch_script_has_to_look_for_a_preemption_itself(tmp_path: Path) -> None:
    script = JobEnvironment(7, 1, node="n1", partition="low")
    world = World(tmp_path, environment=script).begin()
    assert world.pass_until(last=100.0) is None
    world.cluster.running(world.at + 20.0, PreemptTime=stamp(world.at))
    notice = world.pass_until(last=120.0)
    assert notice is not None
    assert "preempted" in notice.reason


def test_a_job_is_requeued_as_the_last_thing(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    ending = world.job.conclude(PREEMPTED, 30)
    assert ending.exit_code is ExitCode.REQUEUE
    assert "goes back into the queue" in ending.diagnosis
    assert world.ordered() == []
    world.job.leave()
    assert world.ordered() == [("scontrol", "requeue", "7")]


@pytest.mark.parametrize(
    ("fields", "settings", "words"),
    [
        ({"JobState": "COMPLETING"}, SlurmSettings(), "was cancelled"),
        ({"Requeue": "0"}, SlurmSettings(), "--no-requeue"),
        ({"BatchFlag": "0"}, SlurmSettings(), "batch script"),
        ({}, SlurmSettings(requeue=Requeue.never), "slurm.requeue is never"),
    ],
)
def test_a_job_that_does_not_come_back_says_why(
    tmp_path: Path, fields: dict[str, str], settings: SlurmSettings, words: str
) -> None:
    world = World(tmp_path, settings).begin()
    world.cluster.running(**fields)
    ending = world.job.conclude(PREEMPTED, 30)
    world.job.leave()
    assert words in ending.diagnosis
    assert ending.exit_code is ExitCode.REQUEUE
    assert world.ordered() == []


def test_a_job_that_slurm_requeues_already_is_not_requeued_twice(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.cluster.running(JobState="COMPLETING", Restarts="2", EndTime="Unknown")
    world.job.conclude(PREEMPTED, 30)
    world.job.leave()
    assert world.ordered() == []


def test_an_order_that_was_heard_but_not_answered_is_not_given_again(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.job.conclude(PREEMPTED, 30)
    world.cluster.refuses["requeue"] = "did not answer in time"
    world.cluster.running(JobState="COMPLETING", Restarts="2")
    world.job.leave()
    assert len(world.ordered()) == 1
    assert not [said for said in world.said if "WARNING" in said]


@pytest.mark.parametrize("absent", [False, True])
def test_an_order_that_is_refused_leaves_the_exit_code_and_a_warning(tmp_path: Path, absent: bool) -> None:
    world = World(tmp_path, absent=absent).begin()
    world.cluster.refuses["requeue"] = "Access/permission denied"
    assert world.job.conclude(PREEMPTED, 30).exit_code is ExitCode.REQUEUE
    world.job.leave()
    assert "could not be requeued" in world.said[-1]
    assert len(world.ordered()) == (1 if absent else 3)


def test_other_endings_end_the_job(tmp_path: Path) -> None:
    for code in (ExitCode.FINISHED, ExitCode.TERMINATED, ExitCode.CRASH_LOOP, ExitCode.DISK_FULL):
        world = World(tmp_path).begin()
        ending = EndRun(code, "That was it.")
        assert world.job.conclude(ending, 30) == ending
        world.job.leave()
        assert world.ordered() == []


def test_a_job_of_an_array_speaks_for_itself_alone(tmp_path: Path) -> None:
    """One of them has the number of the whole array, and SLURM would requeue all."""
    world = World(tmp_path, environment=JobEnvironment(7, 1, step=0, array=(7, 3))).begin()
    world.job.conclude(PREEMPTED, 30)
    world.job.leave()
    assert world.ordered() == [("scontrol", "requeue", "7_3")]
    assert {command[-1] for command in world.cluster.asked} == {"7_3"}


def test_only_the_first_node_speaks_for_the_job(tmp_path: Path) -> None:
    world = World(tmp_path, environment=JobEnvironment(7, 1, nodes=2, node_rank=1, step=0)).begin()
    assert world.job.conclude(PREEMPTED, 30) == PREEMPTED
    world.job.leave()
    assert world.ordered() == []


def test_starts_without_progress_are_counted_over_requeues(tmp_path: Path) -> None:
    settings = SlurmSettings(max_without_progress=3)
    entries = [{"name": "slurm job", "job": 7, "restarts": 0, "step": 30}]
    world = World(tmp_path, settings).begin(*entries, step=30)
    assert world.job.conclude(PREEMPTED, 30).exit_code is ExitCode.REQUEUE
    entries = list(read_journal(world.file))
    environment = JobEnvironment(7, 2, step=0)
    world = World(tmp_path, settings, environment).begin(*entries_of(0, 1, step=30), step=30)
    ending = world.job.conclude(PREEMPTED, 30)
    assert ending.exit_code is ExitCode.BUDGET_SPENT
    assert "3 times without one new step" in ending.diagnosis
    world.job.leave()
    assert world.ordered() == []


def entries_of(*restarts: int, step: int) -> list[dict[str, Any]]:
    return [{"name": "slurm job", "job": 7, "restarts": number, "step": step} for number in restarts]


def test_a_job_that_slurm_brings_back_in_spite_of_that_ends_at_its_start(tmp_path: Path) -> None:
    """A node that is lost, or a preemption that was over before we were, asks nobody."""
    world = World(tmp_path, SlurmSettings(max_without_progress=2), JobEnvironment(7, 2, step=0))
    with pytest.raises(RequeuesSpent, match="2 times without one new step after step 30"):
        world.begin(*entries_of(0, 1, step=30), step=30)
    world = World(tmp_path, SlurmSettings(max_requeues=1), JobEnvironment(7, 2, step=0))
    with pytest.raises(RequeuesSpent, match=r"slurm\.max_requeues"):
        world.begin(*entries_of(0, step=10), step=30)
    World(tmp_path, SlurmSettings(max_requeues=1), JobEnvironment(7, 1, step=0)).begin(step=30)


def test_a_node_that_computes_wrong_is_left_and_kept_off_until_it_is_trusted_again(tmp_path: Path) -> None:
    world = World(tmp_path).begin()
    world.distrusted = ["n1"]
    world.cluster.running(ExcNodeList="n9")
    ending = world.job.conclude(EndRun(ExitCode.UNTRUSTED_NODE, "This machine computes wrong results."), 30)
    assert "goes back into the queue" in ending.diagnosis
    world.job.leave()
    assert world.ordered() == [
        ("scontrol", "requeue", "7"),
        ("scontrol", "update", "JobId=7", "ExcNodeList=n9,n1"),
    ]
    entries = list(read_journal(world.file))
    world = World(tmp_path, environment=JobEnvironment(7, 2, node="n2", step=0)).begin(*entries, step=40)
    world.cluster.running(Restarts="2", ExcNodeList="n[1,9]")
    world.job.conclude(PREEMPTED, 50)
    world.job.leave()
    assert world.ordered()[-1] == ("scontrol", "update", "JobId=7", "ExcNodeList=n9")


def test_without_scontrol_the_defaults_hold_and_nothing_fails(tmp_path: Path) -> None:
    world = World(tmp_path, environment=JobEnvironment(7, 0, step=0, ends_at=NOW + 600.0), absent=True).begin()
    assert "WARNING" in world.said[0]
    notice = world.signalled()
    assert notice is not None
    assert notice.grace == 25.0
    assert world.poll() is None
    other = World(tmp_path, environment=JobEnvironment(7, 0, step=0, ends_at=NOW + 600.0), absent=True).begin()
    heard = other.pass_until()
    assert heard is not None
    assert other.at == 570.0
