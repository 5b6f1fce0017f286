"""How far a run is, in one line."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_WINDOW_SECONDS = 30.0
_MOST = 64
_LEAST_BAR, _MOST_BAR = 10, 30


class Pace:
    """Seconds that a step takes now, by the steps of the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=_MOST)

    def note(self, now: float, step: int) -> None:
        """The run is at ``step``. Where it has gone back, it is begun anew."""
        if self._seen and step < self._seen[-1][1]:
            self._seen.clear()
        if not self._seen or step > self._seen[-1][1]:
            self._seen.append((now, step))
        while len(self._seen) > 2 and now - self._seen[0][0] > _WINDOW_SECONDS:
            self._seen.popleft()

    def pause(self) -> None:
        """Nothing is trained: what comes then has nothing to do with what was before."""
        self._seen.clear()

    @property
    def seconds(self) -> float:
        """0 while nothing is known."""
        if len(self._seen) < 2:
            return 0.0
        (began, first), (ended, last) = self._seen[0], self._seen[-1]
        return (ended - began) / (last - first)


@dataclass(frozen=True)
class Progress:
    """What the line tells.

    :param total: 0 where it is not known.
    :param pace: seconds of a step; 0 where they are not known.
    """

    run: str
    phase: str
    step: int
    total: int
    pace: float = 0.0
    loss: tuple[str, float] | None = None
    incidents: int = 0

    def line(self, columns: int) -> str:
        """At most ``columns`` wide; what matters least is left out first."""
        told = [self.run, self._place(), self.phase if self.phase != "running" else "", self._speed(), self._left()]
        if self.loss is not None:
            told.append(f"{self.loss[0]} {self.loss[1]:.4g}")
        if self.incidents:
            told.append("1 incident" if self.incidents == 1 else f"{self.incidents} incidents")
        parts = [part for part in told if part]
        while len(parts) > 1 and len("  ".join(parts)) > columns - 1:
            parts.pop()
        text = "  ".join(parts)
        room = columns - 1 - len(text) - 2
        if self.total and room >= _LEAST_BAR:
            text = f"{parts[0]}  {self._bar(min(room, _MOST_BAR))}  {'  '.join(parts[1:])}"
        return text[: columns - 1]

    def _place(self) -> str:
        if not self.total:
            return f"step {self.step:,}"
        return f"{self.step:,}/{self.total:,}  {100 * self.step // self.total} %"

    def _bar(self, width: int) -> str:
        done = math.floor(width * min(1.0, self.step / self.total))
        return "━" * done + "╺" * (done < width) + "─" * (width - done - 1)

    def _speed(self) -> str:
        if not self.pace:
            return ""
        return f"{self.pace:.2f} s/step" if self.pace >= 0.1 else f"{1 / self.pace:.0f} steps/s"

    def _left(self) -> str:
        if not self.pace or self.step >= self.total:
            return ""
        seconds = round(self.pace * (self.total - self.step))
        days, rest = divmod(seconds, 86400)
        clock = f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d}"
        return f"ETA {days} d {clock}" if days else f"ETA {clock}"
