"""Details as JSON lines: each of them once, whatever was killed."""

from __future__ import annotations

import json
from pathlib import Path

from resilient.trackers.jsonl import Jsonl
from resilient.trackers.lane import place_of
from resilient.trackers.place import Place
from tests.trackers.logs import Logs, tell


def track(logs: Logs) -> list[tuple[str, int]]:
    tell("jsonl", Jsonl, logs.context())
    lines = (logs.paths.root / "trackers" / "details.jsonl").read_text().splitlines()
    return [(body["kind"], body["step"]) for body in map(json.loads, lines)]


def test_each_is_there_once_also_after_a_kill(tmp_path: Path) -> None:
    logs = Logs(tmp_path / "run")
    logs.open()
    logs.steps(1, 2)
    assert track(logs) == [("started", 0), ("metrics", 1), ("metrics", 2)]
    before = Place.read(place_of(logs.context(), "jsonl"))
    logs.steps(3, 4)
    logs.end()
    expected = [("started", 0), *[("metrics", step) for step in range(1, 5)], ("ended", 4)]
    assert track(logs) == expected
    before.write(place_of(logs.context(), "jsonl"))  # as if it had been killed before it wrote that down
    with (logs.paths.root / "trackers" / "details.jsonl").open("ab") as stream:
        stream.write(b'{"cut sho')
    assert track(logs) == expected
