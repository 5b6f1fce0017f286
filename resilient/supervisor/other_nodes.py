"""What the supervisor that decides wants of the run's other nodes; in a run of one node there is nobody."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.state import RunState
from resilient.protocol.arena import Slot
from resilient.protocol.launch import LaunchSpec


@dataclass(frozen=True)
class Place:
    """Where a rank is.

    :param group_rank: number of its node in the group.
    """

    local_rank: int
    local_world_size: int
    group_rank: int = 0
    group_world_size: int = 1


@dataclass(frozen=True)
class Copies:
    """Images of one step of all ranks, though not all of their nodes are there.

    :param round: that has taken them.
    :param slots: for the drain; of other nodes' it knows what to make of them.
    """

    step: int
    round: int
    slots: Mapping[int, Slot]


class OtherNodes(Protocol):
    """The other nodes of the run.

    :ivar address: under which this machine is known to the others.
    :ivar pids: helpers on this one that serve them.
    """

    address: str

    @property
    def pace(self) -> float:
        """Seconds until the next call of :meth:`tick`, at the most."""
        ...

    @property
    def pids(self) -> Collection[int]: ...

    def open(self, feed: Callable[[on.Event], None], state: Callable[[], RunState]) -> None:
        """Say from now on what happens there.

        :param state: what is known of the run, now.
        """
        ...

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        """What is to be read when it is readable, and by whom."""
        ...

    def tick(self) -> None:
        """Find out whether they are all there, and let the workers here know of the others."""
        ...

    def listing(self) -> on.NodesSeen | int | None:
        """How many ranks there are, when all have a node and it is known what each has in memory; or who is there, if
        that has to be decided upon; None while neither is known.
        """
        ...

    def forgets(self, decision: do.FormGroup) -> bool:
        """Whether what is in memory is of another number of ranks than these nodes have, and is lost when they form a
        group.
        """
        ...

    def form(self, decision: do.FormGroup) -> None:
        """These nodes take part; give them their ranks."""
        ...

    def place(self, rank: int) -> Place: ...

    def launch(self, launch: do.LaunchRound, specs: Sequence[LaunchSpec]) -> None:
        """Have the workers launched that are not on this node."""
        ...

    def signal(self, number: signal.Signals) -> None: ...

    def kill(self, reason: str) -> None: ...

    def dump(self, decision: do.DumpStacks, state: RunState) -> None: ...

    def dumped(self, here: on.StacksDumped | None) -> on.StacksDumped | None:
        """What all nodes have found, when all have answered or time is up.

        :param here: what was found on this one, if that is news.
        """
        ...

    def peer_step(self) -> int | None:
        """The newest step that could be put together from what the nodes remember of each other."""
        ...

    def restore(self, step: int) -> None:
        """Put it together so; an event says how it went."""
        ...

    def abandon_restore(self) -> None: ...

    def survey(self) -> bool:
        """Ask what they remember; whether that is known. To be called again until it is."""
        ...

    def copies(self) -> Copies | None:
        """The newest that those have together who have answered, whoever is lost."""
        ...

    def gone_back(self, step: int) -> None:
        """The run goes on from ``step``: what they remember of later ones is nothing."""
        ...

    def was_asked_first(self) -> bool:
        """Whether another node was asked to stop before this one; true once, for who asks all nodes is in no hurry."""
        ...

    def end(self, decision: do.EndRun, *, durable: bool) -> None:
        """The run ends on this node.

        :param durable: nothing that is in memory is needed any more.
        """
        ...


class NobodyElse:
    """A run of one node."""

    pace = math.inf
    address = "127.0.0.1"
    pids: Collection[int] = ()

    def __init__(self, ranks: int) -> None:
        self._ranks = ranks

    def open(self, feed: Callable[[on.Event], None], state: Callable[[], RunState]) -> None:
        """Nothing happens."""

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        return {}

    def tick(self) -> None:
        """Nothing changes."""

    def listing(self) -> on.NodesSeen | int | None:
        return self._ranks

    def forgets(self, decision: do.FormGroup) -> bool:
        raise AssertionError(f"a run of one node forms no group: {decision.nodes}")

    def form(self, decision: do.FormGroup) -> None:
        raise AssertionError(f"a run of one node forms no group: {decision.nodes}")

    def place(self, rank: int) -> Place:
        return Place(rank, self._ranks)

    def launch(self, launch: do.LaunchRound, specs: Sequence[LaunchSpec]) -> None:
        """There are none."""

    def signal(self, number: signal.Signals) -> None:
        """Likewise."""

    def kill(self, reason: str) -> None:
        """Likewise."""

    def dump(self, decision: do.DumpStacks, state: RunState) -> None:
        """Likewise."""

    def dumped(self, here: on.StacksDumped | None) -> on.StacksDumped | None:
        return here

    def peer_step(self) -> int | None:
        return None

    def restore(self, step: int) -> None:
        raise AssertionError(f"nobody else remembers step {step}")

    def abandon_restore(self) -> None:
        """Nothing is restored so."""

    def survey(self) -> bool:
        return True

    def copies(self) -> Copies | None:
        return None

    def gone_back(self, step: int) -> None:
        """Nobody else remembers anything."""

    def was_asked_first(self) -> bool:
        return False

    def end(self, decision: do.EndRun, *, durable: bool) -> None:
        """There is nobody to tell."""
