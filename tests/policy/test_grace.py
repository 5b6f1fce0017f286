"""A run that was asked to stop, and then learns how long it really has."""

from __future__ import annotations

from resilient.policy.decisions import FlushMemory, KillWorkers, SignalWorkers
from resilient.policy.events import GraceKnown, StopKind, StopRequested, Tick, WorkerExited
from resilient.policy.state import Phase
from tests.policy.test_machine import KILLED, PERSON, PREEMPT, kinds, running


def test_more_time_than_was_assumed_is_given_to_the_workers() -> None:
    story = running()
    story.on(PREEMPT, at=100.0)
    assert story.on(GraceKnown(200.0), at=101.0) == ()
    assert story.on(Tick(), at=150.0) == ()  # the grace that was assumed is over
    assert kinds(story.on(Tick(), at=202.0)) == [SignalWorkers]
    assert kinds(story.on(Tick(), at=222.0)) == [KillWorkers]


def test_with_less_time_everything_comes_earlier() -> None:
    story = running()
    story.on(StopRequested(StopKind.PREEMPTION, grace=200.0), at=100.0)
    story.on(GraceKnown(10.0), at=101.0)
    assert kinds(story.on(Tick(), at=106.5)) == [SignalWorkers]


def test_a_flush_is_told_when_it_has_to_be_over() -> None:
    story = running()
    story.on(PREEMPT, at=100.0)
    (flush,) = story.on(WorkerExited(0, 11), at=102.0)
    assert flush == FlushMemory(by=119.0)
    (again,) = story.on(GraceKnown(100.0), at=103.0)
    assert again == FlushMemory(by=198.0)


def test_a_group_that_is_being_killed_and_a_person_who_waits_are_not_disturbed() -> None:
    story = running(ranks=2)
    story.lose(KILLED, 10)
    story.on(PREEMPT, at=100.0)
    assert story.on(GraceKnown(50.0), at=101.0) == ()
    assert [story.phase] == [Phase.CLEARING]
    patient = running()
    patient.on(PERSON, at=100.0)
    assert patient.on(GraceKnown(1.0), at=101.0) == ()
    assert patient.state.stop == PERSON
