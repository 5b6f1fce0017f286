"""The memory of a whole run, as its leader sees it: its own node's, and mirrors of what the other nodes have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import Any, cast

from resilient.nodes.mirror import MirrorBoard, MirrorSlot
from resilient.nodes.replica_files import ReplicaFiles
from resilient.protocol.arena import Arena, Slot
from resilient.protocol.board import Word, now
from resilient.protocol.past import Began, CommonPast, Counts, Past, common_past
from resilient.protocol.plan import RoundPlan
from resilient.protocol.world_sum import Part, World, WorldSum
from resilient.protocol.world_view import WorldView
from resilient.supervisor.memory import RunMemory

_OWN = ""  # the name under which this node's past is kept
_WAITED_FOR = frozenset(map(str, map(int, (Word.ARRIVED, Word.FLAGS))))
"""Words of a board that change when a rank begins to wait for all others, see the workers' ``group`` module."""

PostTo = Callable[[str, Mapping[str, Any]], int]
"""Sends a message to the node of that name, and returns its number."""


class WorldMemory(RunMemory):
    """Boards and arenas of all ranks of the group that is formed; of those whose node is lost there are none.

    :ivar world: how many ranks the group has, or had.
    :ivar counts: asked of what was taken in earlier terms.
    """

    def __init__(
        self, directory: Path, ranks: range, slots: int, identity: str, root: Path | None, *, post: PostTo, term: int
    ) -> None:
        """:param ranks: those on the leader's own node.
        :param term: the one that this node leads in.
        """
        super().__init__(directory, ranks, slots, identity, root)
        past = self.past
        self.world = len(ranks) if past is None else past.world  # until a group is formed, that of the one before
        self.counts: Counts = lambda _step, _term, _round: True
        self._term = term
        self._pasts: dict[str, Past | None] = {_OWN: past}
        self._common: tuple[CommonPast | None] | None = None  # of them all, as soon as it is asked for
        self._post_to = post
        self._nodes: dict[str, range] = {}
        self._behind: dict[str, int] = {}
        self._node_of: dict[int, str] = {}
        self._view = WorldView.create(directory)
        self._known = World()
        self._sum = WorldSum()
        self._seen: dict[int, list[bytes]] = {}  # of each of our own ranks, by which a change is seen
        self._changed: set[int] = set()  # ranks on other nodes that are to be summed up anew
        self._moved: set[int] = set()  # and those that may have moved on
        self._unread: set[int] = set()  # and those of which it is not known whether they belong to one of these
        self._terminated: set[int] = set()
        self._held: set[int] = set()

    @property
    def nodes(self) -> Mapping[str, range]:
        """The other nodes that are there, and their ranks."""
        return self._nodes

    def node_of(self, rank: int) -> str | None:
        """The node that has the rank; None for our own, and for one that is lost."""
        return self._node_of.get(rank)

    @property
    def complete(self) -> bool:
        """Whether every rank of the group is on a node that is there."""
        return len(self.boards) == self.world

    def attach(self, node: str, ranks: range, slots: int, past: Past | None) -> None:
        """The node has these ranks from now on, with so many slots each, of which nothing is known yet.

        :param past: of what is in them.
        """
        self._nodes[node] = ranks
        self._pasts[node] = past
        self._common = None
        self._behind.pop(node, None)

        def post(message: Mapping[str, Any]) -> int:
            self._changed.add(int(message["rank"]))
            self._unread.add(int(message["rank"]))
            return self._post_to(node, message)

        for rank in ranks:
            self._node_of[rank] = node
            self._touch({rank})
            self.boards[rank] = MirrorBoard(rank, post)
            paths = (self.directory / f"rank-{rank:05d}.slot-{index}" for index in range(slots))
            mirrors = [MirrorSlot(rank, index, path, post) for index, path in enumerate(paths)]
            self.arenas[rank] = Arena(cast("list[Slot]", mirrors))
        self._sort()

    def detach(self, node: str) -> None:
        """The node is lost, and what it had."""
        for rank in self._nodes.pop(node, range(0)):
            del self.boards[rank], self.arenas[rank], self._node_of[rank]
            self._sum.remove(rank)
            for known in (self._changed, self._moved, self._unread, self._terminated, self._held):
                known.discard(rank)
        self._pasts.pop(node, None)
        self._common = None

    def _sort(self) -> None:
        self.boards = dict(sorted(self.boards.items()))
        self.arenas = dict(sorted(self.arenas.items()))

    def take(self, node: str, message: Mapping[str, Any]) -> bool:
        """News of a node's boards and slots; whether somebody waits for what is in it."""
        ranks, done = self._nodes.get(node, range(0)), int(message["done"])
        # The message was on its way for a while; of all of them, the fastest shows best how far the clocks are apart.
        late = now() - int(message["at"])
        behind = self._behind[node] = min(self._behind.get(node, late), late)
        for rank, headers in message["slots"].items():
            if int(rank) in ranks:
                slots = cast("list[MirrorSlot]", self.arenas[int(rank)].slots)
                for index, words in headers.items():
                    if int(index) < len(slots):
                        slots[int(index)].take(words, done)
        waits = False
        for rank, words in message["boards"].items():
            if int(rank) in ranks:
                cast("MirrorBoard", self.boards[int(rank)]).take(words, done, behind)
                waits = waits or not _WAITED_FOR.isdisjoint(words)
        self._touch({rank for rank in map(int, (*message["slots"], *message["boards"])) if rank in ranks})
        return waits

    def _touch(self, ranks: AbstractSet[int]) -> None:
        for waiting in (self._changed, self._moved, self._unread):
            waiting.update(ranks)

    # --- what is looked at all the time

    def moved(self) -> AbstractSet[int]:
        moved, self._moved = self._moved, set()
        return moved | super().moved()

    def some_terminated(self) -> bool:
        self._read()
        return bool(self._terminated) or super().some_terminated()

    def some_held(self) -> bool:
        self._read()
        return bool(self._held) or super().some_held()

    def _read(self) -> None:
        """Only ranks of which there was news can belong elsewhere than before."""
        for rank in self._unread:
            _put(self._terminated, rank, belongs=bool(self.boards[rank][Word.TERMINATED]))
            _put(self._held, rank, belongs=any(slot.may_be_held for slot in self.arenas[rank].slots))
        self._unread.clear()

    # --- what the ranks see of each other

    def tell_world(self) -> World | None:
        """Let the workers of this node know what has changed; returns it, for those of the others."""
        if not self._nodes or not self.complete:
            return None
        changed, self._changed = self._changed | self._changed_here(), set()
        if not changed:
            return None
        for rank in changed:
            self._sum.put(rank, Part.of(self.boards[rank], (slot.info() for slot in self.arenas[rank].slots)))
        world = self._sum.world()
        if world == self._known:
            return None
        self._known = world
        self._view.write(world)
        return world

    def _changed_here(self) -> set[int]:
        """Ranks of this node whose board or slots are not as they were. What a worker writes, nobody tells us of."""
        found = set()
        for rank in self._ranks:
            seen = [self.boards[rank].shown(), *[slot.header() for slot in self.arenas[rank].slots]]
            if seen != self._seen.get(rank):
                self._seen[rank] = seen
                found.add(rank)
        return found

    # --- what is done on all nodes

    def renew_boards(self) -> None:
        super().renew_boards()
        self._known = World()
        self._view.write(self._known)
        for node, ranks in self._nodes.items():
            number = self._post_to(node, {"op": "renew_boards"})
            self._touch(set(ranks))
            for rank in ranks:
                board = cast("MirrorBoard", self.boards[rank])
                board.renew()
                board.renewed(number)

    def write_plan(self, plan: RoundPlan) -> Path:
        message = {"op": "plan", "plan": plan.to_json()}
        for node in self._nodes:
            self._post_to(node, message)
        return super().write_plan(plan)

    # --- what belongs together

    def mark(self, past: Past) -> None:
        super().mark(past)
        self._pasts[_OWN] = past
        self._common = None

    def mark_foreign(self, step: int) -> None:
        super().mark_foreign(step)
        known = self._pasts.items()
        self._pasts = {node: None if past is None else past.with_foreign(step) for node, past in known}
        self._common = None

    def agreed(self, past: Past) -> None:
        """What is in the memory of all nodes of the group is of this past; each of them marks its own."""
        self._pasts = dict.fromkeys(self._pasts, past)
        self._common = None

    @property
    def _common_past(self) -> CommonPast | None:
        if self._common is None:
            self._common = (common_past(self._pasts.values()),)
        return self._common[0]

    def past_of(self, round_number: int, step: int | None) -> Past:
        """What is in the memory of all when a round has begun from ``step``."""
        began, common = Began(self._term, round_number, step or 0), self._common_past
        if step is not None and common is not None and self._belongs_together(step):
            return common.past.followed_by(began)
        return Past(self.world, (began,))

    def _belongs_together(self, step: int) -> bool:
        """Whether all images of the step are of one past, and that is on the branch of the run that goes on."""
        common = self._common_past
        if common is None or common.past.world != self.world or not common.holds(step):
            return False
        return common.last.term == self._term or self.counts(step, common.last.term, common.last.round)

    # --- where some ranks are missing, there is no image of all

    def whole_steps(self) -> set[int]:
        return {step for step in super().whole_steps() if self._belongs_together(step)} if self.complete else set()

    @property
    def newest_in_part(self) -> int | None:
        past = self._pasts[_OWN]
        if self.newest_step() is not None or past is None or not past.rounds:
            return None
        last, images = past.rounds[-1], ReplicaFiles(self.directory).images()
        steps = {image.step for image in images if not image.set}
        return max((step for step in steps if self.counts(step, last.term, last.round)), default=None)

    def slots_of(self, step: int) -> dict[int, Slot] | None:
        return super().slots_of(step) if self.complete and self._belongs_together(step) else None

    def held_slots(self, step: int) -> dict[int, Slot] | None:
        return super().held_slots(step) if self.complete else None

    def held_steps(self) -> list[int]:
        return super().held_steps() if self.complete else []

    def _close_all(self) -> None:
        self._view.close()
        super()._close_all()


def _put(ranks: set[int], rank: int, *, belongs: bool) -> None:
    if belongs:
        ranks.add(rank)
    else:
        ranks.discard(rank)
