"""The goodput benchmark's own arithmetic: its trace, its operator's account, and which checkpoint is damaged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks.goodput_account import Intervention, Outcome, final_losses, productive
from benchmarks.goodput_checks import Ledger, of_outcome, same_job
from benchmarks.goodput_contestants import Checkpoints
from benchmarks.goodput_report import Figures, as_json, report, rows
from benchmarks.goodput_trace import LEAST_STEPS, SPIKE_STEPS, Kind, spike_of, trace
from benchmarks.recovery_log import Line


def outcome(**changes: Any) -> Outcome:
    given: dict[str, Any] = {
        "contestant": "resilient",
        "wall": 20.0,
        "step_seconds": 0.02,
        "recorded": 600,
        "interventions": (),
        "received": (Kind.KILL,),
        "val_loss": 2.0,
        "left_behind": (),
        "lines": (),
    }
    return Outcome(**{**given, **changes})


@pytest.mark.parametrize("steps", [LEAST_STEPS, 600, 10_000])
def test_all_get_the_same_faults_apart_from_each_other(steps: int) -> None:
    for seed in range(20):
        faults = trace(seed, steps)
        assert faults == trace(seed, steps)
        assert Counter(fault.kind for fault in faults) == {Kind.KILL: 3, Kind.HANG: 2, Kind.SPIKE: 1, Kind.CORRUPT: 1}
        places = [fault.step for fault in faults]
        assert places[0] >= 0.1 * steps
        assert places[-1] < steps
        assert all(after - before >= 0.04 * steps for before, after in zip(places, places[1:], strict=False))
        spike = spike_of(faults)
        after = min(place for place in places if place > spike)
        assert after > spike + SPIKE_STEPS + 30  # what takes a run back waits for so long
    assert trace(0, steps) != trace(1, steps)
    assert trace(0, 600, without=["spike"]) == [fault for fault in trace(0, 600) if fault.kind is not Kind.SPIKE]
    assert spike_of([]) == 0


def test_a_trace_is_refused_where_nobody_could_see_the_spike() -> None:
    with pytest.raises(ValueError, match="at least"):
        trace(0, LEAST_STEPS - 1)


def test_an_operators_waiting_is_added_up_to_what_is_stated_and_taken_out() -> None:
    waits = (Intervention("killed", 100.0, 110.0), Intervention("removed", 200.0, 290.0))
    one = outcome(wall=150.0, interventions=waits)
    assert one.with_operator(60.0) == 150.0 + 50.0  # who took longer than stated is not made faster
    assert one.without_waiting == 150.0 - 10.0 - 90.0


def test_of_steps_that_were_made_again_the_last_time_counts() -> None:
    lines = [Line(0.0, 7, 0, stage="restore"), Line(1.0, 7, 1, loss="a"), Line(3.0, 7, 2, loss="b")]
    lines += [Line(10.0, 8, 0, stage="restore"), Line(10.5, 8, 2, loss="c"), Line(11.0, 8, 3, loss="d")]
    assert productive(lines) == 1.0 + 0.5 + 0.5
    assert final_losses(lines) == {1: "a", 2: "c", 3: "d"}


def test_whoever_missed_a_fault_or_trains_something_else_is_named() -> None:
    faults = trace(0, 600)
    received = tuple(fault.kind for fault in faults)
    assert not list(of_outcome(outcome(received=received), faults))
    (text, left) = of_outcome(outcome(received=received[1:], left_behind=("process 5",)), faults)
    assert "received 2 hang, 2 kill" in text
    assert "process 5" in left
    one, other = (outcome(lines=(Line(0.0, 1, 1, loss="a"), Line(1.0, 1, 2, loss=loss))) for loss in "bc")
    assert not list(same_job(one, one))
    assert "first at step 2" in next(same_job(one, other))


@pytest.mark.parametrize(("recorded", "agrees"), [(10.0, True), (10.4, True), (11.0, False), (9.0, False)])
def test_a_report_that_disagrees_with_the_record_is_a_problem(recorded: float, agrees: bool) -> None:
    assert (Ledger(0.5, 10.0, recorded, 20.0, 20.0).problem() is None) == agrees


def test_the_table_has_medians_goodput_and_ratios_to_ours() -> None:
    figures = Figures(600)
    waits = (Intervention("killed the training process", 0.0, 10.0),)
    for name, walls, interventions in (("resilient", (20.0, 24.0, 22.0), ()), ("torchrun", (40.0, 42.0, 44.0), waits)):
        figures.peaceful[name] = [outcome(contestant=name, wall=15.0)]
        figures.faulted[name] = [
            outcome(contestant=name, wall=wall, recorded=650, interventions=interventions) for wall in walls
        ]
    ours, other = rows(figures, 60.0)
    assert (ours.called, ours.at_once, ours.ideal, ours.repeated) == (22.0, 22.0, 12.0, 50)
    assert (other.called, other.at_once, other.interventions) == (92.0, 32.0, 1)
    lines = list(report(figures, 60.0))
    (row,) = (line for line in lines if line.startswith("torchrun  "))
    assert "92.0  4.2× [ 13 %]" in row
    assert "32.0  1.5× [ 38 %]" in row
    assert "torchrun, round 1: the operator killed the training process after 10.0 s" in lines
    kept = json.loads(json.dumps(as_json(figures)))["faulted"]["torchrun"][0]
    assert kept["interventions"] == [{"what": "killed the training process", "waited": 10.0}]


def test_the_newest_checkpoint_is_cut_and_removed_whatever_its_form(tmp_path: Path) -> None:
    def make(*sizes: tuple[str, int]) -> Checkpoints:
        for name, size in sizes:
            file = tmp_path / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(b"x" * size)
        return Checkpoints(tmp_path)

    files = make(("step=50.ckpt", 100), ("step=100.ckpt", 100), ("new", 7))
    (tmp_path / "last.ckpt").symlink_to("step=100.ckpt")
    files.truncate()
    assert [(tmp_path / f"step={step}.ckpt").stat().st_size for step in (50, 100)] == [100, 50]
    assert files.remove() == "removed step=100.ckpt"
    assert (tmp_path / "last.ckpt").resolve().name == "step=50.ckpt"

    directories = make(("checkpoint-150/model.safetensors", 10), ("checkpoint-150/optimizer.pt", 20))
    directories.truncate()
    assert [path.stat().st_size for path in sorted((tmp_path / "checkpoint-150").iterdir())] == [10, 10]
    assert directories.remove() == "removed checkpoint-150"
    assert files.remove() == "removed step=50.ckpt"
    assert files.remove() == "found no checkpoint to remove"
