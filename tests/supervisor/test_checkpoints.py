"""Which of a script's own checkpoints it resumes from."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilient.supervisor.checkpoints import Checkpoint, OwnCheckpoints, fill_in, newest_first
from resilient.supervisor.step_times import StepTimes


def names(*found: tuple[str, float]) -> list[str]:
    return [checkpoint.name for checkpoint in newest_first([Checkpoint(*item) for item in found])]


def test_numbers_are_numbers() -> None:
    assert names(("c_9.pt", 9.0), ("c_10.pt", 1.0), ("c_1.pt", 5.0)) == ["c_10.pt", "c_9.pt", "c_1.pt"]
    assert names(("epoch=2-step=9.ckpt", 9), ("epoch=10-step=1.ckpt", 1))[0] == "epoch=10-step=1.ckpt"


def test_what_is_of_several_kinds_goes_by_time() -> None:
    assert names(("c_9.pt", 1.0), ("last.pt", 2.0), ("c_10.pt", 0.5)) == ["last.pt", "c_9.pt", "c_10.pt"]
    assert names(("a/model.pt", 1.0), ("b/model.pt", 2.0)) == ["b/model.pt", "a/model.pt"]


def test_furthest_over_output_folders_named_after_the_time() -> None:
    assert names(("out/10-05/c_7.pt", 1.0), ("out/10-15/c_2.pt", 2.0))[0] == "out/10-05/c_7.pt"
    assert names(("out/10-05/c_2.pt", 1.0), ("out/10-15/c_2.pt", 2.0))[0] == "out/10-15/c_2.pt"


def test_templates() -> None:
    arguments = ["--resume={latest}", "{latest_dir}", "--step", "{step}", "{other}", '{"a": 1}']
    assert fill_in(arguments, Checkpoint("out/c_5-12.pt", 0.0)) == (
        "--resume=out/c_5-12.pt",
        "out",
        "--step",
        "12",
        "{other}",
        '{"a": 1}',
    )


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for number in (1, 2, 3):
        write(tmp_path / f"c_{number}.json", "{}", float(number))
    return tmp_path


def write(path: Path, text: str, modified: float) -> None:
    path.write_text(text)
    os.utime(path, (modified, modified))


def own(out: Path, said: list[str], *globs: str) -> OwnCheckpoints:
    return OwnCheckpoints(globs or ("c_*.json",), out, said.append, lambda: 100.0)


def chosen(checkpoints: OwnCheckpoints) -> str:
    found = checkpoints.choose()
    return found.name if found is not None else "none"


def test_incomplete_ones_are_passed_over_and_that_is_said_once(out: Path) -> None:
    said: list[str] = []
    checkpoints = own(out, said)
    write(out / "c_3.json", '{"cut', 3.0)
    assert chosen(checkpoints) == chosen(checkpoints) == "c_2.json"
    assert said == ["checkpoint c_3.json is not complete (it is no JSON) and is passed over"]


def test_the_choice_is_made_anew(out: Path) -> None:
    checkpoints = own(out, [])
    assert chosen(checkpoints) == "c_3.json"
    write(out / "c_4.json", "{}", 4.0)
    assert chosen(checkpoints) == "c_4.json"
    assert chosen(own(out, [], "nothing_*")) == "none"


def test_one_that_crashes_the_script_twice_is_passed_over(out: Path) -> None:
    said: list[str] = []
    checkpoints = own(out, said)
    for expected in ("c_3.json", "c_3.json", "c_2.json", "c_2.json", "c_1.json", "c_1.json"):
        assert chosen(checkpoints) == expected
        checkpoints.crashed(progressed=False)
    assert chosen(checkpoints) == "c_3.json", "none is left: the newest again, rather than nothing"
    assert [line.split(": ")[0] for line in said] == [
        "checkpoint c_3.json is passed over",
        "checkpoint c_2.json is passed over",
        "checkpoint c_3.json is tried again, though the script has crashed on it 2 times",
        "checkpoint c_1.json is passed over",
    ]


def test_a_step_clears_its_name(out: Path) -> None:
    checkpoints = own(out, [])
    for progressed in (False, True, False):
        assert chosen(checkpoints) == "c_3.json"
        checkpoints.crashed(progressed=progressed)
    assert chosen(checkpoints) == "c_3.json"


def test_one_that_is_written_again_is_another(out: Path) -> None:
    checkpoints = own(out, [])
    for _ in range(2):
        checkpoints.choose()
        checkpoints.crashed(progressed=False)
    write(out / "c_3.json", "{}", 33.0)
    assert chosen(checkpoints) == "c_3.json"


def test_absolute_globs_and_double_stars(out: Path) -> None:
    (out / "a" / "b").mkdir(parents=True)
    write(out / "a" / "b" / "c_9.json", "{}", 1.0)
    assert chosen(own(out, [], "**/c_*.json")) == "a/b/c_9.json"
    assert chosen(own(out, [], str(out / "c_*.json"))) == str(out / "c_3.json")


def test_the_step_of_a_file_is_that_of_its_time(tmp_path: Path) -> None:
    times = StepTimes(tmp_path / "steps.json")
    for second in range(9000):
        times.note(float(second), 10 * second)
    times.save()
    for record in (times, StepTimes(tmp_path / "steps.json")):
        assert record.step_at(8999.5) == 89990
        assert record.step_at(8500.5) == 85000, "the latest are kept one by one"
        assert 50_000 < record.step_at(6000.0) <= 60_000
        assert record.step_at(-1.0) == 0
    assert len((tmp_path / "steps.json").read_text()) < 50_000


def test_a_record_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "steps.json").write_text("[[1")
    assert StepTimes(tmp_path / "steps.json").step_at(5.0) == 0
