"""What is the matter with a run now: for a terminal, again and again, or as JSON."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from resilient.protocol.board import Board, Word
from resilient.report.account import Account
from resilient.report.tenures import SECOND
from resilient.supervisor.board_watch import phase_of
from resilient.supervisor.memory import RunMemory

_RECENT = 50  # steps whose pace is told
_CURVE = 400  # reports that the spark line is drawn from
_SPARK = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class RankView:
    """What a rank is doing, by its board."""

    rank: int
    step: int
    phase: str


@dataclass(frozen=True)
class Live:
    """A run, and what of it is seen only while it is up.

    :param ranks: empty where their boards cannot be seen from here.
    """

    account: Account
    ranks: Sequence[RankView] = ()

    @property
    def step(self) -> int:
        """The last that the slowest rank has completed."""
        if self.ranks:
            return min(rank.step for rank in self.ranks)
        status = self.account.status
        told = [status.step] if status is not None else []
        latest = max(self.account.tracks, default=None)
        if latest is not None and self.account.tracks[latest].steps:
            told.append(self.account.tracks[latest].steps[-1])
        return max(told, default=0)

    @property
    def total(self) -> int:
        return self.account.status.total if self.account.status is not None else 0

    @property
    def pace(self) -> float | None:
        """Seconds of a step, of late."""
        latest = max(self.account.tracks, default=None)
        if latest is not None and len(track := self.account.tracks[latest].times) > 1:
            steps, first = self.account.tracks[latest].steps, max(0, len(track) - _RECENT)
            gaps = [
                (track[index] - track[index - 1]) / max(1, steps[index] - steps[index - 1])
                for index in range(first + 1, len(track))
            ]
            return statistics.median(gaps) if gaps else None
        status = self.account.status
        return status.step_seconds or None if status is not None else None

    @property
    def left(self) -> float | None:
        """Seconds until the last step, if nothing comes in between."""
        if not self.account.live or self.pace is None or not self.total:
            return None
        return self.pace * max(0, self.total - self.step)

    def curve(self) -> list[float]:
        """The latest values of the run's metric, across rounds, as they count."""
        name = self.account.metric
        found: dict[int, float] = {}
        for number in sorted(self.account.tracks)[-20:] if name else ():
            track = self.account.tracks[number]
            if track.steps:
                found = {step: value for step, value in found.items() if step < track.steps[0]}
            column = track.series(name or "")
            found.update(zip(track.steps[-_CURVE:], column[-_CURVE:], strict=True))
        return [value for _, value in sorted(found.items())][-_CURVE:]

    def tiers(self) -> Iterator[tuple[str, int, float | None, int | None]]:
        """Where a snapshot lies, nearest first: tier, newest step, its age in seconds, and its bytes."""
        status = self.account.status
        if self.account.live and status is not None and status.memory_step is not None:
            yield "memory", status.memory_step, None, None
        for tier in ("local", "remote"):
            found = [saved for saved in self.account.saved if saved.tier == tier]
            if found:
                yield tier, found[-1].step, self.account.seconds_ago(found[-1].at), found[-1].bytes


def look(account: Account, memory_dir: str = "") -> Live:
    """Add what shared memory says, if the run is up on this machine.

    :param memory_dir: the run's ``snapshot.memory_dir``.
    """
    if not account.live:
        return Live(account)
    place = RunMemory.place(account.paths, memory_dir)
    found = []
    for path in sorted(place.glob("rank-*.board")):
        try:
            board = Board.open(path)
        except (OSError, ValueError):
            continue
        found.append(RankView(int(path.stem.removeprefix("rank-")), board[Word.STEP], phase_of(board)))
        board.close()
    return Live(account, tuple(found))


def spark(values: Sequence[float], width: int) -> str:
    """A curve in one line; × where a value is not finite."""
    if not values:
        return ""
    columns = min(width, len(values))
    groups = [values[len(values) * at // columns : len(values) * (at + 1) // columns] for at in range(columns)]
    finite = [value for value in values if math.isfinite(value)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    drawn = []
    for group in groups:
        if not all(map(math.isfinite, group)):
            drawn.append("×")
            continue
        part = (statistics.fmean(group) - low) / (high - low) if high > low else 0.0
        drawn.append(_SPARK[min(len(_SPARK) - 1, int(part * len(_SPARK)))])
    return "".join(drawn)


def as_json(live: Live) -> dict[str, Any]:
    """With stable keys; null for what is not known."""
    account, curve = live.account, live.curve()
    status = account.status
    last = curve[-1] if curve else None
    return {
        "run": account.paths.run_id,
        "state": account.state,
        "live": account.live,
        "round": account.ledger.rounds[-1].number if account.ledger.rounds else None,
        "step": live.step,
        "total": live.total or None,
        "step_seconds": live.pace,
        "seconds_left": live.left,
        "metric": account.metric,
        "value": last if last is None or math.isfinite(last) else repr(last),
        "goodput": round(account.ledger.goodput, 6),
        "seconds": account.ledger.total / SECOND,
        "rollbacks": len(account.lineage.rollbacks),
        "ranks": [{"rank": one.rank, "step": one.step, "phase": one.phase} for one in live.ranks],
        "snapshots": [
            {"tier": tier, "step": step, "age_seconds": age, "bytes": size} for tier, step, age, size in live.tiers()
        ],
        "incidents": [
            {
                "number": one.number,
                "class": one.failure.get("failure_class", ""),
                "step": one.data.get("step"),
                "age_seconds": account.seconds_ago(one.at),
            }
            for one in account.ledger.incidents
        ],
        "exit_code": status.exit_code if status is not None and not account.live else None,
        "diagnosis": status.diagnosis if status is not None and not account.live else "",
        "updated": status.updated if status is not None else None,
    }
