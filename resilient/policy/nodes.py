"""Which nodes train together, and which ranks each of them has: pure functions over names.

A run of several nodes gathers before each round. Ranks are dealt out so that as little as possible moves: an image in a
node's memory is worth something only while the node keeps its ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from resilient.errors import ConfigurationError

Ranks = Mapping[str, tuple[int, ...]]
"""Ranks of each node, by its name."""

_MOST_NODES = 4096


class Shortage(str, Enum):
    """How a run ends that has too few nodes to go on."""

    requeue = "requeue"  # members are what the configuration file says, and OmegaConf goes by their names
    stop = "stop"


@dataclass(frozen=True)
class NodeSettings:
    """What the decision core knows of nodes.

    :param count: so many nodes train together.
    :param spares: so many more stand by for one that is lost.
    :param least: with fewer than ``count``, but at least so many, the run goes on smaller; None for never.
    :param wait_seconds: how long is waited for a lost node, or for another in its place.
    :param start_seconds: how long the nodes may take to come together when the run is started.
    :param settle_seconds: when one supervisor has taken over from another, nodes that are still there come back
        within this time; until then no spare is put in their place, for it would have nothing in memory.
    :param grow_seconds: a group that shrank takes in nodes that have been there for so long, in the middle of a round;
        infinity for not before the round ends by itself.
    """

    count: int
    spares: int = 0
    least: int | None = None
    wait_seconds: float = 60.0
    start_seconds: float = 600.0
    settle_seconds: float = 5.0
    grow_seconds: float = 60.0
    shortage: Shortage = Shortage.requeue

    def __post_init__(self) -> None:
        if not 1 <= self.count <= _MOST_NODES or not 0 <= self.spares <= _MOST_NODES:
            raise ConfigurationError(
                f"nodes must be from 1 to {_MOST_NODES}, not {self.count} with {self.spares} spares",
                "write nodes=4, or nodes=4:5 for four that train and one that stands by",
            )
        if self.least is not None and not 1 <= self.least <= self.count:
            raise ConfigurationError(
                f"group.least must be from 1 to the {self.count} nodes that train, not {self.least}",
                "leave it out for a run that never goes on with fewer",
            )
        for name in ("wait_seconds", "start_seconds", "settle_seconds", "grow_seconds"):
            if not getattr(self, name) >= 0:
                raise ConfigurationError(f"group.{name} must not be negative, not {getattr(self, name)}")

    @property
    def fewest(self) -> int:
        return self.count if self.least is None else self.least

    @property
    def shrinks(self) -> bool:
        """Whether the run may go on with another number of ranks than it had."""
        return self.fewest < self.count


@dataclass(frozen=True)
class Group:
    """The nodes that train together, or did last.

    :param formed: this supervisor has formed it, or another one has since this supervisor decides.
    :param cold: the run was started anew on all its nodes; nobody was lost whose place was taken over.
    """

    nodes: tuple[str, ...] = ()
    formed: bool = False
    cold: bool = True


def choose_nodes(settings: NodeSettings, group: Group, seen: Sequence[str], waited: float) -> tuple[str, ...] | None:
    """The nodes to train with now; empty where they are too few to go on; None while more may come.

    A group that shrank already does not wait again for those it went on without, as long as it loses no other; and it
    grows as soon as there are enough.

    :param seen: those that are there, the leader first.
    :param waited: seconds since the gathering began.
    """
    if len(seen) >= _enough(settings, group) and not _is_hasty(settings, group, seen, waited):
        return preferred(group.nodes, seen)[: settings.count]
    if waited < patience(settings, group):
        return None
    return preferred(group.nodes, seen)[: settings.count] if len(seen) >= settings.fewest else ()


def grown(settings: NodeSettings, group: Group, seen: Sequence[str], waited: float) -> tuple[str, ...] | None:
    """The nodes to train with in place of the group that trains now; None while that is to go on.

    :param waited: seconds for which the same nodes have been there.
    """
    if not set(group.nodes) <= set(seen) or waited < settings.grow_seconds:
        return None
    chosen = preferred(group.nodes, seen)[: settings.count]
    return chosen if len(chosen) > len(group.nodes) else None


def patience(settings: NodeSettings, group: Group) -> float:
    """Seconds that are waited for nodes that are not there."""
    cold = group.cold and not group.formed
    return max(settings.start_seconds, settings.wait_seconds) if cold else settings.wait_seconds


def preferred(before: Sequence[str], seen: Sequence[str]) -> tuple[str, ...]:
    """``seen``, the leader first and then those that were in the group, as it was ordered."""
    leader, *others = seen
    old = [node for node in before if node in others]
    return (leader, *old, *(node for node in others if node not in old))


def _enough(settings: NodeSettings, group: Group) -> int:
    return max(settings.fewest, min(settings.count, len(group.nodes))) if group.formed else settings.count


def _is_hasty(settings: NodeSettings, group: Group, seen: Sequence[str], waited: float) -> bool:
    """Whether a spare would take the place of a node that may only not have come back yet."""
    return not group.formed and waited < settings.settle_seconds and not set(group.nodes) <= set(seen)


def assign(previous: Ranks, nodes: Sequence[str], leader: str, per_node: int) -> dict[str, tuple[int, ...]]:
    """Ranks of each node: contiguous blocks, the leader's first of all, the others' as they were where that can be.

    :param previous: who had which; nodes that are gone, and blocks of another size, do not matter.
    :param per_node: ranks of each.
    :returns: in the order of ranks.
    """
    others = [node for node in dict.fromkeys(nodes) if node != leader]
    free = set(range(1, len(others) + 1))
    blocks = {leader: 0}
    for node in others:
        block = _block_of(previous.get(node, ()), per_node)
        if block in free:
            free.discard(block)
            blocks[node] = block
    rest = iter(sorted(free))
    for node in others:
        if node not in blocks:
            blocks[node] = next(rest)
    ordered = sorted(blocks, key=blocks.__getitem__)
    return {node: tuple(range(at * per_node, (at + 1) * per_node)) for at, node in enumerate(ordered)}


def _block_of(ranks: Sequence[int], per_node: int) -> int:
    """Which block these ranks are; -1 where they are none of that size."""
    if not ranks or len(ranks) != per_node or ranks[0] % per_node:
        return -1
    return ranks[0] // per_node
