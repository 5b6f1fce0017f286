"""How much memory the workers took in the last minutes: the curve that shows whether it was a leak or a peak."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from resilient.supervisor import processes
from resilient.supervisor.cgroup import MemoryCgroup
from resilient.supervisor.processes import ProcessRecord

_EVERY_SECONDS = 1.0
_MOST_SAMPLES = 900
_COST_PART = 500  # a sample costs at most a five-hundredth of the time, on a node with however many processes


@dataclass(frozen=True)
class Sample:
    """Bytes at one moment.

    :param at: seconds on the supervisor's clock.
    :param ranks: resident memory of each rank's tree. What processes share is counted in each.
    """

    at: float
    available: int | None
    used: int | None
    limit: int | None
    ranks: tuple[tuple[int, int], ...]


class MemoryCurve:
    """Samples about once a second, and keeps a quarter of an hour."""

    def __init__(self, cgroup: MemoryCgroup, clock: Callable[[], float]) -> None:
        self._cgroup = cgroup
        self._clock = clock
        self._next = float("-inf")
        self._samples: deque[Sample] = deque(maxlen=_MOST_SAMPLES)
        self._known: dict[int, ProcessRecord] = {}
        self.trees: dict[int, tuple[ProcessRecord, ...]] = {}

    def watch(self, workers: Mapping[int, int], *, now: bool = False) -> None:
        """Take a sample if it is time for one.

        :param workers: process number of each rank's worker.
        """
        began = self._clock()
        if not workers or (began < self._next and not now):
            return
        ranks = []
        for rank, pid in workers.items():
            members = [self._look_at(member) for member in processes.tree(pid)]
            found = tuple(member for member in members if member is not None)
            if found:  # the tree of a worker that has just gone is the one we want to remember
                self.trees[rank] = found
            ranks.append((rank, sum(member.rss for member in found)))
        use = self._cgroup.use()
        self._samples.append(Sample(began, processes.available(), use.used, use.limit, tuple(ranks)))
        self._next = began + max(_EVERY_SECONDS, _COST_PART * (self._clock() - began))

    def _look_at(self, pid: int) -> ProcessRecord | None:
        """What a process is called is looked up only once."""
        size = processes.resident(pid)
        if not size:
            return None
        if pid not in self._known and (found := processes.describe(pid)) is not None:
            self._known[pid] = found
        return replace(self._known[pid], rss=size) if pid in self._known else None

    def begin_round(self) -> None:
        """The trees are new; the curve goes on."""
        self.trees.clear()
        self._known.clear()
        self._next = float("-inf")

    def samples(self) -> Sequence[Sample]:
        return tuple(self._samples)
