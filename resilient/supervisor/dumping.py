"""The stacks of a hung group, written one at a time while the loop goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.state import Phase, RunState
from resilient.protocol.paths import RunPaths
from resilient.supervisor.console import Console
from resilient.supervisor.stacks import StackDump, Suspect, find_py_spy


class StackDumps:
    """Has the stacks of all ranks written when the core wants them."""

    def __init__(self, paths: RunPaths, console: Console, clock: Callable[[], float]) -> None:
        self._paths = paths
        self._console = console
        self._clock = clock
        self._dump: StackDump | None = None

    @property
    def busy(self) -> bool:
        return self._dump is not None

    def begin(self, decision: do.DumpStacks, state: RunState, workers: Mapping[int, int | None], nobody: int) -> None:
        """Start with the ranks that hang.

        :param workers: their process numbers.
        :param nobody: the number that stands for a worker that is not there yet.
        """
        now, suspects = self._clock(), []
        for rank in sorted(decision.ranks, key=lambda rank: rank not in decision.hung):
            watch, pid = state.watches[rank], workers.get(rank)
            headline = (
                f"rank {rank}: nothing for {now - watch.since:.1f} s in phase {watch.phase} after step {watch.step}"
            )
            path = self._paths.stacks(decision.number, rank)
            suspects.append(Suspect(rank, pid or nobody, pid is not None, headline, path))
        self._console.say(f"{suspects[0].headline}: writing all stacks to {suspects[0].path.parent}")
        self._dump = StackDump(suspects, by=decision.by, clock=self._clock, py_spy=find_py_spy())

    def poll(self, state: RunState) -> on.StacksDumped | None:
        """What came of it, once; it is over as well when nobody waits for it any more."""
        if self._dump is None:
            return None
        accounts = self._dump.poll() if state.phase is Phase.DUMPING else ()
        if accounts is None:
            return None
        self._dump.close()
        self._dump = None
        return on.StacksDumped(accounts) if state.phase is Phase.DUMPING else None
