"""What rounds reported, read again and again while more comes."""

from __future__ import annotations

import json
import math
from pathlib import Path

from resilient.report.tracks import Track, TrackReader, main_metric


def line(round_number: int, step: int, rank: int = 0, **values: object) -> str:
    return json.dumps({"round": round_number, "rank": rank, "step": step, "time": step / 2, **values}) + "\n"


def test_only_what_has_come_since_is_read_and_no_line_is_cut_in_two(tmp_path: Path) -> None:
    log, reader = tmp_path / "node1.jsonl", TrackReader(tmp_path)
    whole = line(0, 1, loss=2.0) + line(0, 1, rank=1, loss=9.0) + line(0, 2, loss="nan") + line(1, 2, loss=1.0)
    for upto in range(0, len(whole) + 1, 7):
        log.write_text(whole[:upto])
        reader.read()
    log.write_text(whole)
    tracks = reader.read()
    assert {number: list(track.steps) for number, track in tracks.items()} == {0: [1, 2], 1: [2]}
    assert tracks[0].series("loss")[0] == 2.0
    assert math.isnan(tracks[0].series("loss")[1])


def test_what_makes_no_sense_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "node1.jsonl").write_text('{"round": 0}\n[1]\nnonsense\n' + line(0, 3, loss="x") + line(0, 4, loss=1))
    track = TrackReader(tmp_path).read()[0]
    assert list(track.steps)[-1] == 4
    assert track.series("loss")[-1] == 1.0


def test_columns_are_as_long_as_there_are_steps() -> None:
    track = Track()
    track.add(1, 0.5, {"loss": 1.0, "resilient.batch": 5.0})
    track.add(2, 1.0, {"accuracy": 0.5})
    track.add(2, 1.0, {"loss": 3.0})
    assert list(track.series("loss")) == [1.0, 3.0]
    assert math.isnan(track.series("accuracy")[0])
    assert set(track.values) == {"loss", "accuracy"}, "what is ours is no metric of the script's"


def test_the_metric_that_matters_is_the_loss_or_what_is_called_so() -> None:
    def tracks(*names: str) -> dict[int, Track]:
        track = Track()
        track.add(1, 0.0, dict.fromkeys(names, 1.0))
        return {0: track}

    assert main_metric(tracks("lr", "train_loss", "loss")) == "loss"
    assert main_metric(tracks("lr", "train_loss")) == "train_loss"
    assert main_metric(tracks("reward")) == "reward"
    assert main_metric({}) is None
