"""Reading logs while they are written: whole lines, in order, once, and not without end."""

from __future__ import annotations

from pathlib import Path

from resilient.trackers.tail import Tail
from tests.trackers.logs import Logs

MUCH = 1 << 20


def read(tail: Tail, most: int = 1 << 30) -> list[int]:
    """The steps of metrics, and -1 for a line of the journal."""
    found = []
    for line in tail.lines():
        found.append(-1 if line.of_journal else int(line.body["step"]))
        tail.passed(line)
        if len(found) == most:
            break
    return found


def test_lines_come_in_the_order_of_their_times_and_once(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.steps(1, 2)
    logs.persisted(2)
    logs.steps(3, 3)
    tail = Tail(logs.paths, {}, MUCH)
    assert read(tail) == [1, 2, -1, 3]
    assert read(tail) == []
    logs.steps(4, 4)
    assert read(tail) == [4]


def test_a_line_that_is_being_written_is_read_when_it_is_whole(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.steps(1, 2)
    whole = logs.paths.metrics.read_bytes()
    logs.paths.metrics.write_bytes(whole[:-10])
    tail = Tail(logs.paths, {}, MUCH)
    assert read(tail) == [1]
    logs.paths.metrics.write_bytes(whole)
    assert read(tail) == [2]


def test_a_successor_begins_after_what_was_passed(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.steps(1, 5)
    tail = Tail(logs.paths, {}, MUCH)
    assert read(tail, most=3) == [1, 2, 3]
    assert read(Tail(logs.paths, tail.places, MUCH)) == [4, 5]


def test_what_another_host_has_left_unread_is_read_too(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.steps(1, 2)
    logs.paths.metrics.rename(logs.paths.metrics.with_name("elsewhere.jsonl"))
    later = Logs(tmp_path / "run")
    later.steps(3, 3)
    assert read(Tail(later.paths, {}, MUCH)) == [1, 2, 3]


def test_damage_is_passed_over(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.steps(1, 1)
    with logs.paths.metrics.open("ab") as stream:
        stream.write(b'{"cut sho\n[1, 2]\n"text"\n\xff\xfe\n{"time": "never"}\n')
    logs.steps(2, 2)
    assert read(Tail(logs.paths, {}, MUCH)) == [1, 2]


def test_of_too_much_the_oldest_metrics_are_left_out_and_counted(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.open()
    logs.steps(1, 400)
    most = logs.paths.metrics.stat().st_size // 2
    tail = Tail(logs.paths, {}, most)
    found = read(tail)
    steps = [step for step in found if step > 0]
    assert found.count(-1) == 2  # the journal is read in any case
    assert steps == list(range(400 - len(steps) + 1, 401))
    assert tail.dropped == 400 - len(steps)
    assert (
        0 < sum(len(line) for line in logs.paths.metrics.read_bytes().splitlines(keepends=True)[-len(steps) :]) <= most
    )
    assert read(Tail(logs.paths, tail.places, most)) == []
