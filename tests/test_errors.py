"""The error tree: every error carries its exit code and what to do next, and no two exit codes are alike."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

from resilient import errors
from resilient.errors import ExitCode, ResilientError, StorageFull


def _descendants(kind: type[ResilientError]) -> Iterator[type[ResilientError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _descendants(child)


TREE = tuple(_descendants(ResilientError))


def test_exit_codes_that_schedulers_know_are_the_documented_ones() -> None:
    known = (ExitCode.FINISHED, ExitCode.REQUEUE, ExitCode.TERMINATED)
    assert [int(code) for code in known] == [0, 75, 143]


def test_exit_codes_are_distinct_described_and_fit_into_a_process_status() -> None:
    assert len({code.value for code in ExitCode}) == len(ExitCode.__members__)
    assert len({code.description for code in ExitCode}) == len(ExitCode.__members__)
    assert all(0 <= code.value <= 255 and code.description for code in ExitCode)


def test_the_ways_to_end_for_good_lie_above_those_of_sysexits() -> None:
    ours = {
        ExitCode.WORKER_ERROR,
        ExitCode.CRASH_LOOP,
        ExitCode.BUDGET_SPENT,
        ExitCode.HUNG,
        ExitCode.DIVERGED,
    }
    assert {code.value for code in ours} == {80, 81, 82, 83, 84}


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_every_error_has_an_exit_code_of_the_table_and_a_docstring(kind: type[ResilientError]) -> None:
    assert isinstance(kind.exit_code, ExitCode)
    assert kind.exit_code is not ExitCode.FINISHED
    assert kind.__doc__


@pytest.mark.parametrize("kind", TREE, ids=lambda kind: kind.__name__)
def test_only_a_bug_of_ours_has_the_code_for_internal_errors(kind: type[ResilientError]) -> None:
    assert ResilientError.exit_code is ExitCode.INTERNAL
    assert kind.exit_code is not ExitCode.INTERNAL


def test_the_message_names_the_problem_and_the_next_thing_to_do() -> None:
    error = StorageFull("the disk is full: /runs", "free space there")
    assert str(error) == "the disk is full: /runs\n  next: free space there"
    assert str(StorageFull("the disk is full")) == "the disk is full"


def test_an_error_survives_the_way_from_a_data_loading_process() -> None:
    copy = pickle.loads(pickle.dumps(StorageFull("full", "free space")))  # noqa: S301  made here
    assert type(copy) is StorageFull
    assert (copy.problem, copy.remedy) == ("full", "free space")
