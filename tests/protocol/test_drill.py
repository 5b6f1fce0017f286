"""Orders and records of a drill, and who may follow them."""

from __future__ import annotations

from pathlib import Path

from resilient.protocol.drill import DRILLED, Order, Record, is_drilled
from resilient.protocol.paths import RunPaths


def test_only_the_run_that_is_named_is_drilled(tmp_path: Path) -> None:
    paths, other = RunPaths(tmp_path / "one"), RunPaths(tmp_path / "other")
    assert is_drilled(paths, {DRILLED: str(paths.root)})
    assert not is_drilled(other, {DRILLED: str(paths.root)})
    assert not is_drilled(paths, {DRILLED: "1"})
    assert not is_drilled(paths, {})


def test_an_order_is_read_as_it_was_written_and_the_latest_counts(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    assert Order.read(paths) is None
    Order("hang", at=3).write(paths)
    latest = Order("spike", at=5, rank=1, steps=3, factor=10.0)
    latest.write(paths)
    assert Order.read(paths) == latest


def test_a_record_belongs_to_one_order(tmp_path: Path) -> None:
    paths, order = RunPaths(tmp_path), Order("hang")
    (tmp_path / "drill").mkdir()
    record = Record(order.id, 1.0, 3, "it happened")
    record.write(paths)
    assert Record.read(paths, order.id) == record
    assert Record.read(paths, Order("hang").id) is None


def test_what_cannot_be_read_is_no_order(tmp_path: Path) -> None:
    paths = RunPaths(tmp_path)
    (tmp_path / "drill").mkdir()
    for text in ("", "[]", "{"):
        (tmp_path / "drill" / "order.json").write_text(text)
        assert Order.read(paths) is None
