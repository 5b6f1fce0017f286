"""The board, as worker and supervisor see it through two mappings of one file."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilient.policy.lineage import Skip
from resilient.protocol.board import SIZE, Board, Command, Flag, Metrics, Word, WorkerPhase

RING = 4096
VALUES = 14
NAMES = 64


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[Board]:
    """The supervisor's board."""
    board = Board.create(tmp_path / "rank-00000.board")
    yield board
    board.close()


@pytest.fixture
def theirs(ours: Board) -> Iterator[Board]:
    """The same board in the worker."""
    board = Board.open(ours.path)
    yield board
    board.close()


def _report(step: int, **values: float) -> Metrics:
    return Metrics(step, 1.5 * step, values)


def _read(board: Board) -> list[Metrics]:
    found = board.unread_metrics()
    board.mark_read()
    return found


def test_a_fresh_board_is_blank(ours: Board) -> None:
    assert [ours[word] for word in Word if word is not Word.MAGIC] == [0] * (len(Word) - 1)
    assert _read(ours) == []
    assert not any(ours.has_flag(flag) for flag in Flag)


def test_every_beat_counts_and_only_a_step_moves_the_step(ours: Board, theirs: Board) -> None:
    theirs.beat(WorkerPhase.STEP, 7)
    assert (ours[Word.STEP], ours[Word.PHASE], ours[Word.BEATS]) == (7, WorkerPhase.STEP, 1)
    theirs.beat(WorkerPhase.EVALUATION)
    assert (ours[Word.STEP], ours[Word.PHASE], ours[Word.BEATS]) == (7, WorkerPhase.EVALUATION, 2)


def test_a_command_goes_down(ours: Board, theirs: Board) -> None:
    ours[Word.COMMAND] = Command.LEAVE
    assert Command(theirs[Word.COMMAND]) is Command.LEAVE


@pytest.mark.parametrize("count", [0, 1, 64])
def test_rank_0_says_which_data_is_left_out(ours: Board, theirs: Board, count: int) -> None:
    skips = tuple(Skip((0, 7 * n), (1, n), ("samples", "batches")[n % 2]) for n in range(count))
    theirs.tell_skips(skips)
    assert ours.skips == skips
    theirs.write_metrics(_report(1, loss=2.0))
    assert [item.values for item in _read(ours)] == [{"loss": 2.0}]


def test_of_more_skips_than_fit_nothing_is_said(ours: Board, theirs: Board) -> None:
    theirs.tell_skips([Skip((0, 0), (0, 1))] * 65)
    assert ours.skips == ()


def test_a_skip_in_a_unit_that_is_not_known_is_not_understood(ours: Board, theirs: Board) -> None:
    theirs.tell_skips([Skip((0, 0), (0, 1))])
    theirs._words[64] = 9
    assert ours.skips == ()


def test_flags_add_up(ours: Board, theirs: Board) -> None:
    theirs.raise_flag(Flag.ATTACHED)
    theirs.raise_flag(Flag.FINISHED)
    assert ours.has_flag(Flag.ATTACHED)
    assert ours.has_flag(Flag.FINISHED)
    assert not ours.has_flag(Flag.LEFT_EARLY)


def test_metrics_arrive_once_and_in_order(ours: Board, theirs: Board) -> None:
    theirs.write_metrics(_report(1, loss=3.0))
    theirs.write_metrics(_report(2, loss=2.0, lr=0.1))
    assert _read(ours) == [_report(1, loss=3.0), _report(2, loss=2.0, lr=0.1)]
    assert _read(ours) == []
    theirs.write_metrics(_report(3, lr=0.2))
    assert _read(ours) == [_report(3, lr=0.2)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.dictionaries(st.sampled_from([f"metric {number}" for number in range(30)]), st.floats(), max_size=VALUES))
def test_every_float_arrives_as_it_was(ours: Board, theirs: Board, values: dict[str, float]) -> None:
    theirs.write_metrics(Metrics(1, 0.0, values))
    (found,) = _read(ours)
    assert list(found.values) == list(values)
    for name, value in values.items():
        assert math.isnan(found.values[name]) if math.isnan(value) else found.values[name] == value
        assert math.copysign(1, found.values[name]) == math.copysign(1, value)


def test_a_reader_that_lags_loses_the_oldest_records_only(ours: Board, theirs: Board) -> None:
    for step in range(RING + 10):
        theirs.write_metrics(_report(step, loss=float(step)))
    found = _read(ours)
    assert [record.step for record in found] == list(range(10, RING + 10))
    assert all(record.values == {"loss": float(record.step)} for record in found)
    theirs.write_metrics(_report(9999, loss=0.0))
    assert [record.step for record in _read(ours)] == [9999]


def test_the_ring_holds_exactly_as_many_as_it_says(ours: Board, theirs: Board) -> None:
    for step in range(RING):
        theirs.write_metrics(_report(step, loss=0.0))
    assert len(_read(ours)) == RING


def test_what_its_reader_has_not_marked_as_read_is_still_there(ours: Board, theirs: Board) -> None:
    theirs.write_metrics(_report(1, loss=3.0))
    assert ours.unread_metrics() == [_report(1, loss=3.0)]
    theirs.write_metrics(_report(2, loss=2.0))
    ours.mark_read()  # the first alone
    assert _read(ours) == [_report(2, loss=2.0)]


def test_a_successor_collects_what_its_predecessor_had_not(ours: Board, theirs: Board) -> None:
    theirs.write_metrics(_report(1, loss=3.0))
    assert len(_read(ours)) == 1
    theirs.write_metrics(_report(2, grad_norm=2.0))
    successor = Board.open(ours.path)
    assert _read(successor) == [_report(2, grad_norm=2.0)]
    successor.close()


def test_what_a_killed_worker_reported_is_there(ours: Board) -> None:
    script = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from resilient.protocol.board import Board, Metrics, WorkerPhase\n"
        "board = Board.open(Path(sys.argv[1]))\n"
        "board.write_metrics(Metrics(5, 7.5, {'loss': 0.25}))\n"
        "board.beat(WorkerPhase.STEP, 5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(ours.path)], check=False)
    assert done.returncode == -9
    assert ours[Word.STEP] == 5
    assert _read(ours) == [_report(5, loss=0.25)]


def test_a_full_record_arrives_and_one_more_value_is_refused(ours: Board, theirs: Board) -> None:
    full = {f"m{number}": float(number) for number in range(VALUES)}
    theirs.write_metrics(Metrics(1, 0.0, full))
    with pytest.raises(ValueError, match=f"at most {VALUES}"):
        theirs.write_metrics(Metrics(2, 0.0, {**full, "one more": 0.0}))
    assert [record.values for record in _read(ours)] == [full]


def test_as_many_names_as_fit_and_not_one_more(ours: Board, theirs: Board) -> None:
    for number in range(NAMES):
        theirs.write_metrics(Metrics(number, 0.0, {f"name {number}": 1.0}))
    with pytest.raises(ValueError, match="one too many"):
        theirs.write_metrics(Metrics(99, 0.0, {"name 64": 1.0}))
    theirs.write_metrics(Metrics(100, 0.0, {"name 0": 2.0}))
    for number in range(4):  # there is room for ours all the same
        theirs.register(f"resilient.{number}")
    with pytest.raises(ValueError, match="one too many"):
        theirs.register("resilient.4")
    found = _read(ours)
    assert [next(iter(record.values)) for record in found] == [*(f"name {number}" for number in range(NAMES)), "name 0"]
    assert 99 not in [record.step for record in found]


@pytest.mark.parametrize("name", ["x" * 64, "größe", "損失", "a b/c.d:e"])
def test_a_name_of_up_to_64_bytes_arrives_as_it_was(ours: Board, theirs: Board, name: str) -> None:
    theirs.write_metrics(Metrics(1, 0.0, {name: 1.0}))
    assert [record.values for record in _read(ours)] == [{name: 1.0}]


@pytest.mark.parametrize("name", ["x" * 65, "損" * 22])
def test_a_longer_name_is_refused(theirs: Board, name: str) -> None:
    with pytest.raises(ValueError, match="longer than 64 bytes"):
        theirs.write_metrics(Metrics(1, 0.0, {name: 1.0}))


def test_an_empty_report_arrives_empty(ours: Board, theirs: Board) -> None:
    theirs.write_metrics(Metrics(3, 4.5, {}))
    assert _read(ours) == [_report(3)]


@pytest.mark.parametrize("content", [b"", b"x" * 100, bytes(SIZE), b"\xff" * SIZE, bytes(SIZE + 1)])
def test_a_file_that_is_no_board_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="not a board of this version"):
        Board.open(path)


def test_a_new_board_replaces_an_old_one(ours: Board, theirs: Board) -> None:
    theirs.write_metrics(_report(1, loss=3.0))
    theirs.raise_flag(Flag.FINISHED)
    fresh = Board.create(ours.path)
    assert not fresh.has_flag(Flag.FINISHED)
    assert _read(fresh) == []
    fresh.close()


def test_the_board_is_readable_by_its_owner_alone(ours: Board) -> None:
    assert ours.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("name", ["generate", "x", "é" * 16, "x" * 32])
def test_the_name_of_a_phase_arrives_whole_and_without_the_one_before(ours: Board, theirs: Board, name: str) -> None:
    theirs.name_phase("a name that is a bit longer")
    theirs.name_phase(name)
    assert ours.phase_name == name
    assert (ours[Word.OWN_STEPS], ours[Word.BEATS], ours[Word.COMMAND]) == (0, 0, 0), "its neighbours are as they were"
