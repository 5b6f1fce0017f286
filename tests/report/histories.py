"""Journals written by hand, as a supervisor writes them: one entry after the other, on a clock of their own."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from resilient.protocol.paths import RunPaths
from resilient.report.ledger import Ledger, keep_ledger
from resilient.report.tenures import split_tenures
from resilient.report.tracks import Track
from resilient.supervisor.time_notes import BEGAN, ENDED, SPENT

EPOCH = 1_700_000_000.0


class History:
    """What one machine's journal has.

    :param boot: the monotonic clock when the wall clock showed ``EPOCH``.
    """

    def __init__(self, boot: float = 100.0) -> None:
        self.entries: list[dict[str, Any]] = []
        self.tracks: dict[int, Track] = {}
        self._boot = boot

    def add(self, at: float, name: str, kind: str = "event", **fields: Any) -> History:
        """An entry at so many seconds after ``EPOCH``."""
        self.entries.append({"time": EPOCH + at, "at": self._boot + at, "kind": kind, "name": name, **fields})
        return self

    def phase(self, at: float, phase: str, name: str = "Tick", **data: Any) -> History:
        return self.add(at, name, data=data, after={"phase": {"=": phase}})

    def begins(self, at: float, *, age: float = 0.0, pending: bool = False) -> History:
        self.add(at, BEGAN, "note", host="node1", age=age)
        return self.phase(at, "choosing", "RunOpened", lineage={"pending": pending})

    def launches(self, at: float, round_number: int, step: int = 0, source: str | None = None) -> History:
        self.phase(at, "starting")
        data = {"round": round_number, "step": step or None, "source": source}
        return self.add(at, "LaunchRound", "decision", data=data)

    def trains(self, ready: float, steps: Mapping[int, float], round_number: int) -> History:
        """The worker is there half a second before it is ready, and has completed each step then."""
        self.add(ready - 0.5, "worker launched", "note", rank=0, pid=1)
        self.phase(min(steps.values()), "running", "WorkerProgressed")
        track = self.tracks.setdefault(round_number, Track())
        for step, at in steps.items():
            track.add(step, EPOCH + at, {"loss": 1.0 / step})
        return self

    def spent(self, at: float, round_number: int, step: int, **seconds: Any) -> History:
        moments = {
            name: None if seconds.get(name) is None else self._boot + seconds[name]
            for name in ("attaching", "ready", "stepped")
        }
        amounts = {name: seconds.get(name, 0.0) for name in ("fetching", "stalled", "aside")}
        return self.add(at, SPENT, "note", round=round_number, step=step, **moments, **amounts)

    def fails(self, at: float, number: int, step: int, kind: str = "killed", round_number: int = 0) -> History:
        failure = {"failure_class": kind, "signature": "SIGKILL", "message": ""}
        self.phase(at, "choosing", "WorkerExited", failure=failure)
        return self.incident(at, number, step, kind, round_number)

    def incident(self, at: float, number: int, step: int, kind: str, round_number: int = 0) -> History:
        failure = {"failure_class": kind, "signature": "SIGKILL", "message": ""}
        body = {"number": number, "round": round_number, "rank": 0, "step": step, "failure": failure}
        return self.add(at, "RecordIncident", "decision", data={"incident": body})

    def ends(self, at: float, code: int, closed: float | None = None) -> History:
        self.phase(at, "ended", "FlushEnded")
        self.add(at, "EndRun", "decision", data={"exit_code": code, "diagnosis": ""})
        return self.add(at if closed is None else closed, ENDED, "note", exit_code=code)

    def write(self, root: Path) -> RunPaths:
        """As the directory of a run."""
        paths = RunPaths(root)
        (root / "journal").mkdir(parents=True)
        (root / "metrics").mkdir()
        (root / "journal" / "node1.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        with (root / "metrics" / "node1.jsonl").open("w") as stream:
            for number, track in self.tracks.items():
                for step, at, loss in zip(track.steps, track.times, track.series("loss"), strict=True):
                    body = {"round": number, "rank": 0, "step": step, "time": at, "loss": loss}
                    stream.write(json.dumps(body | ({} if math.isfinite(loss) else {"loss": repr(loss)})) + "\n")
        return paths

    def ledger(self, now: float | None = None) -> Ledger:
        moment = None if now is None else round((EPOCH + now) * 1e6)
        return keep_ledger(split_tenures("node1", self.entries), self.tracks, moment)


def assert_whole(ledger: Ledger) -> None:
    """Every moment is in one span, and in one bucket of it."""
    at = ledger.began
    for span in ledger.spans:
        assert span.begin == at < span.end
        assert sum(span.amounts.values()) == span.end - span.begin
        assert min(span.amounts.values()) >= 0, span
        at = span.end
    assert at == ledger.ended
    assert sum(ledger.buckets.values()) == ledger.total
