"""Lines of a growing log."""

from __future__ import annotations

from pathlib import Path

import pytest

from resilient.protocol.log_pieces import piece_path
from resilient.supervisor import printed_lines
from resilient.supervisor.printed_lines import PrintedLines


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "log"
    path.write_text("of the round before\n")
    return path


def append(path: Path, text: str | bytes) -> None:
    with path.open("ab") as stream:
        stream.write(text.encode() if isinstance(text, str) else text)


def test_lines_are_read_whole_and_once(log: Path) -> None:
    lines = PrintedLines(log)
    assert lines.read() == []
    append(log, "one\ntw")
    assert lines.read() == ["one"]
    append(log, "o\n\nthree")
    assert lines.read() == ["two"]
    assert lines.read() == []
    assert lines.read_last() == ["three"]
    assert lines.read_last() == []


def test_bars_and_colours(log: Path) -> None:
    lines = PrintedLines(log)
    append(log, "\r 10%|#  | 1/10\r 20%|## | 2/10\x1b[A\r\n\x1b[1;31mloss: 3\x1b[0m\n")
    assert lines.read() == ["10%|#  | 1/10", "20%|## | 2/10", "loss: 3"]


def test_what_is_no_text_does_no_harm(log: Path) -> None:
    lines = PrintedLines(log)
    append(log, b"\xff\xfe\x00 loss: 1\n")
    assert lines.read()[0].endswith("loss: 1")


def test_a_line_without_an_end_stays_bounded(log: Path) -> None:
    lines = PrintedLines(log)
    for _ in range(5):
        append(log, "x" * 100_000)
        assert lines.read() == []
    append(log, "\nnext\n")
    first, second = lines.read()
    assert len(first) <= 1000
    assert second == "next"


def test_much_output_is_read_in_pieces_and_too_much_passed_over(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(printed_lines, "_AT_ONCE", 10)
    monkeypatch.setattr(printed_lines, "_BEHIND", 100)
    lines = PrintedLines(log)
    append(log, "1\n2\n3\n4\n5\n6\n7\n")
    assert lines.read() == ["1", "2", "3", "4", "5"]
    assert lines.read() == ["6", "7"]
    append(log, "y\n" * 200 + "8\n9\n")
    assert lines.read_last() == ["y", "y", "y", "8", "9"]


def test_no_file(tmp_path: Path) -> None:
    assert PrintedLines(tmp_path / "none").read_last() == []


def test_a_log_that_was_rotated_is_read_on(log: Path) -> None:
    lines = PrintedLines(log)
    append(log, "one\n")
    assert lines.read() == ["one"]
    log.rename(log.with_suffix(".0001"))
    append(log, "two, shorter\n")
    assert lines.read() == ["two, shorter"]


def test_what_went_into_a_piece_just_before_it_was_rotated_is_read_too(tmp_path: Path) -> None:
    log = tmp_path / "rank-00000.log"
    log.touch()
    lines = PrintedLines(log)
    append(log, "one\n 10%|#  | 1/10\r")
    log.rename(piece_path(log, 1))
    append(log, "two\n")
    assert lines.read_last() == ["one", "10%|#  | 1/10", "two"]
    lines.close()
