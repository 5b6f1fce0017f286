"""The steps of a run as they are seen to be completed, for a script that reports nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Progress:
    """When each number of completed steps was first seen.

    :param clock: seconds since the epoch, as in journal and metrics.
    :ivar seen: time and step; a step that is done again is there again.
    """

    clock: Callable[[], float] = time.time
    seen: list[tuple[float, int]] = field(default_factory=list)

    def note(self, step: int) -> None:
        """The board says ``step`` now."""
        if step and (not self.seen or step != self.seen[-1][1]):
            self.seen.append((self.clock(), step))

    def times(self) -> list[float]:
        return [moment for moment, _ in self.seen]
