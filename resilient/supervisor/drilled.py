"""A disk that is full, for a drill: imported only by the drain of a drilled run."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from resilient.supervisor.metered import MeteredStorage


class FullStorage(MeteredStorage):
    """Has the error that the system gives on a full filesystem, at the call that would write, while ``switch`` exists.

    What it does not show: journal, metrics and logs find room all the same.
    """

    def __init__(self, progress: Callable[[int], None], hurried: Callable[[], bool], switch: Path) -> None:
        super().__init__(progress, hurried)
        self._switch = switch

    def append(self, descriptor: int, data: memoryview) -> None:
        if self._switch.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        super().append(descriptor, data)
