"""Which images are copied where and when, and what can be put together from the copies: the pure part.

The partners of a node are the nodes that follow it in the group. A set of images can be resumed from when each rank's
image of it is somewhere: with the rank's own node, which keeps it, or with a partner.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from resilient.nodes.replica_fetch import Source
from resilient.nodes.replica_files import Image, Settled
from resilient.protocol.past import Counts, Past, common_past
from resilient.protocol.peer_settings import PeerSettings

_SHORTEST_PAUSE = 1.0  # seconds between two sets, however small they are
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds after a failure

Ranks = Mapping[str, Sequence[int]]
"""The ranks of each node of a group, in the group's order."""


@dataclass(frozen=True)
class NodeState:
    """What a node has said of its images.

    :param address: where they can be had.
    :param past: of the images of its own ranks; None where it is not known.
    """

    address: str = ""
    images: tuple[Image, ...] = ()
    record: Settled | None = None
    past: Past | None = None


def partners(group: Sequence[str], copies: int) -> dict[str, tuple[str, ...]]:
    """The nodes that have a copy of each node's images: so many as follow it, and never itself."""
    count = min(copies, len(group) - 1)
    return {
        node: tuple(group[(position + 1 + other) % len(group)] for other in range(count))
        for position, node in enumerate(group)
    }


def pulls(
    ranks: Ranks, copies: int, step: int, begun: Mapping[int, int], addresses: Mapping[str, str]
) -> dict[str, list[Source]]:
    """What each node has to bring to itself.

    :param begun: which image of its slot is the one of ``step``, for each rank.
    """
    wanted: dict[str, list[Source]] = {node: [] for node in ranks}
    for node, others in partners(list(ranks), copies).items():
        for other in others:
            wanted[other] += [Source(rank, step, addresses[node], begun=begun[rank]) for rank in ranks[node]]
    return wanted


@dataclass(frozen=True)
class Cadence:
    """When the next set is due.

    :param step: of the last complete set; None before the first.
    :param ended: when the last attempt ended.
    :param seconds: that the last complete set took.
    :param busy: seconds for which it would have kept all processors of one of the nodes busy, the most of all.
    :param pause: seconds to wait after a failure; 0 after a success.
    """

    settings: PeerSettings
    step: int | None = None
    began: float = 0.0
    ended: float = 0.0
    seconds: float = 0.0
    busy: float = 0.0
    pause: float = 0.0

    def choose(self, newest: int | None, held: Collection[int], now: float) -> int | None:
        """The step to copy now, if one is due: what goes to disk as well before what does not, because its slots are
        spared anyway.

        :param newest: the newest step of which all ranks have an image.
        :param held: steps that are held for the disk and complete.
        """
        if newest is None or not self._is_due(newest, now):
            return None
        fresh = [step for step in held if self._is_newer(step)]
        return max(fresh, default=newest)

    def succeeded(self, step: int, began: float, now: float, busy: float = 0.0) -> Cadence:
        """:param busy: as above."""
        return replace(self, step=step, began=began, ended=now, seconds=now - began, pause=0.0, busy=busy)

    def failed(self, now: float) -> Cadence:
        return replace(self, ended=now, pause=min(2 * self.pause, _LONGEST_PAUSE) or _FIRST_PAUSE)

    def gone_back(self, step: int | None) -> Cadence:
        """The run goes on from ``step``: a set of a later one is none."""
        later = self.step is not None and (step is None or self.step > step)
        return replace(self, step=None) if later else self

    def rests(self, now: float) -> bool:
        """Whether nothing can be due yet, whatever there is to copy."""
        return now < self.ended + (self.pause if self.step is None or not self._by_share else self._idle)

    @property
    def _by_share(self) -> bool:
        return not self.settings.every_steps and not self.settings.every_seconds

    @property
    def _idle(self) -> float:
        """Seconds after the last attempt, where nothing says how often images are to be copied."""
        settings = self.settings
        by_time = self.seconds * (1 / settings.share - 1)
        by_processors = self.busy / settings.cpu_share - self.seconds
        return max(_SHORTEST_PAUSE, self.pause, by_time, by_processors)

    def _is_newer(self, step: int) -> bool:
        return self.step is None or step > self.step

    def _is_due(self, newest: int, now: float) -> bool:
        if not self._is_newer(newest) or self.rests(now):
            return False
        if self.step is None or self._by_share:
            return True
        settings = self.settings
        by_steps = bool(settings.every_steps) and newest >= self.step + settings.every_steps
        return by_steps or (bool(settings.every_seconds) and now >= self.began + settings.every_seconds)


@dataclass(frozen=True)
class Found:
    """A step of which each rank's image is somewhere.

    :param set: the set of replicas; empty where the ranks' own images are all there, on whichever nodes.
    :param where: for each rank the nodes that have its image, and of which set.
    :param past: of the ranks' own images; of a set nothing is said here.
    :param round: that has taken them, at the latest.
    :param roots: checksum of each image, where it is known.
    """

    step: int
    set: str
    where: Mapping[int, tuple[tuple[str, str], ...]]
    past: Past
    round: int
    roots: Mapping[int, str] = field(default_factory=dict)


def find_steps(
    states: Mapping[str, NodeState], world: int, *, counts: Counts = lambda _step, _term, _round: True
) -> list[Found]:
    """What could be resumed from, the best first: the newest, and of equal steps the one whose images are known.

    :param counts: whether a step that was taken in a term by a round is on the branch of the run that goes on.
    """
    records = {state.record.set: state.record for state in states.values() if state.record is not None}
    found = [
        Found(record.step, record.set, where, Past(world), record.round, record.roots)
        for record in records.values()
        if len(record.roots) == world
        and counts(record.step, record.term, record.round)
        and (where := _where(states, world, record.step, record.set))
    ]
    found += _find_own(states, world, counts)
    return sorted(found, key=lambda each: (each.step, bool(each.set), each.set), reverse=True)


def _find_own(states: Mapping[str, NodeState], world: int, counts: Counts) -> Iterator[Found]:
    """What can be put together from the ranks' own images, though no set names them: whatever those nodes have that
    took part in the same round. In the last one of all, fewer of them may have.
    """
    pasts = {node: state.past for node, state in states.items() if state.past is not None and state.past.world == world}
    rounds = {began for past in pasts.values() for began in past.rounds}
    groups = {frozenset(node for node, past in pasts.items() if began in past.rounds) for began in rounds}
    for group in groups:
        common = common_past(pasts[node] for node in group)
        if common is None:
            continue
        there = {node: states[node] for node in group}
        steps = {image.step for state in there.values() for image in state.images if not image.set}
        for step in filter(common.holds, steps):
            where = _where(there, world, step, "")
            if where and counts(step, common.last.term, common.last.round):
                yield Found(step, "", where, replace(common.past, foreign=frozenset()), common.last.round)


def _where(
    states: Mapping[str, NodeState], world: int, step: int, set_name: str
) -> dict[int, tuple[tuple[str, str], ...]] | None:
    """Who has each rank's image; None where nobody has one."""
    where: dict[int, list[tuple[str, str]]] = {rank: [] for rank in range(world)}
    for node, state in states.items():
        for image in state.images:
            if image.step == step and image.set in ("", set_name) and image.rank in where:
                where[image.rank].append((node, image.set))
    return {rank: tuple(nodes) for rank, nodes in where.items()} if all(where.values()) else None


def sources(found: Found, rank: int, node: str, states: Mapping[str, NodeState]) -> list[Source]:
    """Where a node finds the image of a rank, the best first: what is nearest, then what surely is the right one.

    What lies in the rank's own slots on that node is not among them, for nothing has to be done about that.
    """

    def order(place: tuple[str, str]) -> tuple[bool, bool]:
        where, name = place
        return where != node, not name

    places = [place for place in sorted(found.where[rank], key=order) if place != (node, "")]
    return [Source(rank, found.step, "" if where == node else states[where].address, name) for where, name in places]


def ranks_of_images(found: Found, nodes: Iterable[str]) -> dict[str, dict[int, str]]:
    """Which node is to write which rank's image to disk, and of which set it is: each rank once, its own node first.

    :param nodes: that are there, in the group's order.
    """
    given: dict[str, dict[int, str]] = {node: {} for node in nodes}
    for rank, places in found.where.items():
        there = sorted((bool(name), node, name) for node, name in places if node in given)
        if there:
            _, node, name = there[0]
            given[node][rank] = name
    return {node: ranks for node, ranks in given.items() if ranks}
