"""The log of metrics across rounds and crashes."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.protocol.board import Board, Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog, read_metrics, series


def entry(step: int, number: int = 0, rank: int = 0, **values: float) -> Entry:
    """Values reported after ``step`` in round ``number``."""
    return Entry(number, rank, Metrics(step, 0.5 * step, values))


def write(path: Path, *entries: Entry) -> None:
    log = MetricsLog(path)
    log.write(entries)
    log.close()


def test_entries_are_read_in_the_order_in_which_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    entries = [entry(1, loss=3.0), entry(2, rank=1, loss=2.0, lr=0.1), entry(3)]
    write(path, *entries)
    assert list(read_metrics(path)) == entries


def test_a_later_life_appends(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, loss=3.0))
    write(path, entry(2, number=1, loss=2.0))
    assert [found.round for found in read_metrics(path)] == [0, 1]


@settings(max_examples=40)
@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.floats(), max_size=5))
def test_every_float_is_read_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, values: dict[str, float]) -> None:
    values = {name: value for name, value in values.items() if name not in {"round", "rank", "step", "time"}}
    path = tmp_path_factory.getbasetemp() / "exact.jsonl"
    path.unlink(missing_ok=True)
    write(path, Entry(0, 0, Metrics(1, 0.0, values)))
    found = next(read_metrics(path)).metrics.values
    assert list(found) == list(values)
    for name, value in values.items():
        assert found[name].hex() == value.hex()


def test_non_finite_values_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, a=math.inf, b=-math.inf, c=math.nan))
    (found,) = read_metrics(path)
    assert (found.metrics.values["a"], found.metrics.values["b"]) == (math.inf, -math.inf)
    assert math.isnan(found.metrics.values["c"])
    assert b"NaN" not in path.read_bytes()


def test_of_a_repeated_step_the_last_value_counts(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, loss=3.0), entry(2, loss=2.5), entry(3, loss=2.0))
    write(path, entry(2, number=1, loss=9.0), entry(3, number=1, loss=8.0))
    assert series(path, "loss") == {1: 3.0, 2: 9.0, 3: 8.0}
    assert list(series(path, "loss")) == [1, 2, 3]


def test_the_run_s_metrics_are_those_of_rank_0_and_the_others_are_there(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, loss=3.0), Entry(0, 1, Metrics(1, 0.0, {"loss": 7.0, "own": 1.0})))
    assert series(path, "loss") == {1: 3.0}
    assert series(path, "loss", rank=1) == {1: 7.0}
    assert series(path, "own") == {}


def test_a_series_has_only_the_steps_in_which_its_metric_was_reported(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, loss=3.0), entry(2, accuracy=0.5), entry(3, loss=2.0))
    assert series(path, "accuracy") == {2: 0.5}
    assert series(path, "unknown") == {}


def test_a_line_cut_short_by_a_crash_is_left_out_wherever_it_was_cut(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, entry(1, loss=3.0), entry(2, loss=2.0))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in range(first, len(whole) - 1):
        path.write_bytes(whole[:cut])
        assert [found.metrics.step for found in read_metrics(path)] == [1]


def test_no_log_is_an_empty_log(tmp_path: Path) -> None:
    assert list(read_metrics(tmp_path / "none.jsonl")) == []
    assert series(tmp_path / "none.jsonl", "loss") == {}


def test_nothing_to_write_writes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path)
    assert path.read_bytes() == b""


def test_a_metric_cannot_take_the_place_of_the_step(tmp_path: Path) -> None:
    path = tmp_path / "host.jsonl"
    write(path, Entry(0, 0, Metrics(7, 1.0, {"step": 99.0, "round": 99.0, "loss": 2.0})))
    (found,) = read_metrics(path)
    assert (found.round, found.metrics.step, found.metrics.values) == (0, 7, {"loss": 2.0})


@pytest.mark.parametrize("written", [0, 1, 2])
def test_each_report_is_taken_down_once_however_far_a_killed_predecessor_came(tmp_path: Path, written: int) -> None:
    path, board = tmp_path / "host.jsonl", Board.create(tmp_path / "rank-00001.board")
    reports = [Metrics(step, 1.7e9 + step / 3, {"loss": 1 / step}) for step in (1, 2)]
    for report in reports:
        board.write_metrics(report)
    write(path, entry(1, loss=2.0), *(Entry(4, 1, report) for report in reports[:written]))
    log = MetricsLog(path)
    assert [found.metrics for found in log.take_down(board, 4, 1)] == reports
    assert log.take_down(board, 4, 1) == []
    board.write_metrics(Metrics(1, 1.8e9, {"loss": 1.0}))  # the same step, done once more after a rollback
    log.take_down(board, 4, 1)
    log.close()
    found = [one for one in read_metrics(path) if one.rank == 1]
    assert [one.metrics.step for one in found] == [1, 2, 1]
    assert {one.round for one in found} == {4}
    board.close()
