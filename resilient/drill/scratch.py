"""The scratch runs of a drill: starting them, and leaving nothing of them behind."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.drill.memory_group import MemoryGroup
from resilient.drill.target import Target
from resilient.protocol.drill import DRILLED
from resilient.supervisor import scratch_run


@dataclass
class ScratchRun(scratch_run.ScratchRun):
    """A run of the user's configuration, in a directory of the drill's own.

    :param overrides: the user's, and then the drill's.
    :param group: control group that its processes are to be in.
    """

    group: MemoryGroup | None = None

    def start(self) -> Target:
        """Start it, or start it again."""
        self.environment = {DRILLED: str(self.paths.root)}
        return Target(self.paths, self.spawn(), self.memory_dir)

    def _begin(self) -> None:
        super()._begin()
        if self.group is not None:
            self.group.enter()

    def close(self) -> None:
        """End whatever is left of it, and give its memory back."""
        super().close()
        if self.group is not None:
            self.group.remove()
