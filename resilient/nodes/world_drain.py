"""The drains of all nodes as one: a snapshot is written in parts, one by each node, and exists when the leader's drain
has put them together.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.nodes.world_memory import PostTo
from resilient.protocol.arena import Slot
from resilient.protocol.decoding import NotDecodable, decode
from resilient.snapshot.commit import temporary_name
from resilient.supervisor import drain_answers as answers
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import Answer, Persisted, PersistFailed, Rejected, Restored, RestoreFailed
from resilient.supervisor.journal import plain

_OWN = ""  # the name under which the leader's own part is waited for
_ANSWERS: Mapping[str, Any] = {
    kind.__name__: kind
    for kind in (
        answers.PartWritten,
        answers.PartFailed,
        PersistFailed,
        answers.Unfinished,
        Restored,
        Rejected,
        RestoreFailed,
    )
}


def told(answer: Answer) -> dict[str, Any]:
    """What a node says of an answer of its drain's; :func:`understood` is the inverse."""
    return {"op": "drain", "answer": type(answer).__name__, "data": plain(answer)}


def understood(message: Mapping[str, Any]) -> Answer | None:
    """None for what is no answer."""
    kind = _ANSWERS.get(str(message.get("answer")))
    try:
        found: Answer | None = None if kind is None else decode(kind, message.get("data"))
    except NotDecodable:
        return None
    return found


@dataclass
class _Writing:
    """A snapshot that nodes are writing their parts of.

    :param later: nodes, and their slots, that are asked when our own part is written, which says what they need not
        write.
    :param size: bytes of the images in memory.
    """

    staging: str
    details: Mapping[str, Any]
    waiting: set[str]
    began: float
    parts: list[Mapping[str, Any]] = field(default_factory=list)
    later: Mapping[str, Mapping[str, int | str]] = field(default_factory=dict)
    size: int = 0


@dataclass
class _Reading:
    """A snapshot that nodes are reading their parts of."""

    step: int
    nodes: frozenset[str]
    waiting: set[str]
    here: Restored | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Stands for a slot: the copy of an image that a node has, or an image there that was copied.

    :param set: of copies; empty for an image that the rank itself has written there.
    """

    node: str
    set: str


class WorldDrain(Drain):
    """The leader's drain, and through it those of the nodes whose ranks have slots in what is asked for."""

    def __init__(
        self,
        snapshots: Path,
        *,
        lock: int,
        log: Path,
        clock: Callable[[], float],
        node_of: Callable[[int], str | None],
        post: PostTo,
        term: int,
    ) -> None:
        """:param node_of: the other node that has a rank; None for one of our own.
        :param term: the one that this node leads in.
        """
        self._term = term
        self._node_of = node_of
        self._post = post
        self._writes: dict[int, _Writing] = {}
        self._reads: _Reading | None = None
        self._late: deque[Answer] = deque()
        self._unlike = -1  # the round in which it was seen that nodes have nothing alike
        super().__init__(snapshots, lock=lock, log=log, clock=clock, sweeps=False)
        self.sweep()

    def _split(self, slots: Mapping[int, Slot | Elsewhere]) -> tuple[dict[int, Slot], dict[str, dict[str, int | str]]]:
        """The slots of our own ranks; and for each other node, the indexes of those of its ranks, or the sets of copies
        that it has.
        """
        own: dict[int, Slot] = {}
        others: dict[str, dict[str, int | str]] = {}
        for rank, slot in slots.items():
            if isinstance(slot, Elsewhere):
                others.setdefault(slot.node, {})[str(rank)] = slot.set
                continue
            node = self._node_of(rank)
            if node is None:
                own[rank] = slot
            else:
                others.setdefault(node, {})[str(rank)] = slot.index
        return own, others

    # --- writing

    def persist(self, step: int, slots: Mapping[int, Slot], details: Mapping[str, Any]) -> None:
        own, others = self._split(slots)
        details = {**details, "term": self._term, "world_size": len(slots)}
        staging = temporary_name(step, uuid.uuid4().hex)
        write = self._writes[step] = _Writing(staging, details, {_OWN, *others}, self._clock())
        if own and others and details.get("deduplicate") and details.get("round") != self._unlike:
            write.later = others
            self.persist_part(step, own, {**details, "digests": True}, staging)
            return
        self._ask_others(step, write, others)
        self.persist_part(step, own, details, staging)

    def _ask_others(
        self, step: int, write: _Writing, others: Mapping[str, Mapping[str, int | str]], **more: Mapping[str, Any]
    ) -> None:
        # the leader alone makes room
        told = {name: value for name, value in write.details.items() if name != "retention"}
        for node, indexes in others.items():
            body = {"op": "persist_part", "step": step, "staging": write.staging, "slots": dict(indexes)}
            self._post(node, {**body, "details": {**told, **more}})

    def pending(self, step: int) -> bool:
        return step in self._writes or super().pending(step)

    @property
    def busy(self) -> bool:
        return bool(self._writes) or self._reads is not None or super().busy

    def hurry(self) -> None:
        super().hurry()
        for node in {node for write in self._writes.values() for node in write.waiting if node}:
            self._post(node, {"op": "hurry"})

    def forget(self, keep: Collection[int]) -> None:
        super().forget(keep)
        for step in list(self._writes):
            if step not in keep and not super().pending(step) and _OWN in self._writes[step].waiting:
                self._drop(step)  # our own part was waiting, and is not any more

    def abandon(self) -> None:
        current = self.writing
        super().abandon()
        for step in list(self._writes):
            if current is None or step == current.step:
                self._drop(step)

    def discard_after(self, step: int, lineage: Mapping[str, Any]) -> None:
        for later in [one for one in self._writes if one > step]:
            self._drop(later)
        super().discard_after(step, lineage)

    def _drop(self, step: int) -> None:
        """Nothing becomes of that snapshot."""
        write = self._writes.pop(step)
        for node in {name for name in write.waiting if name}:
            self._post(node, {"op": "drop_part", "step": step})
        self.drop_parts(write.staging)

    def _written(self, node: str, answer: answers.PartWritten) -> Answer | None:
        write = self._writes.get(answer.step)
        if write is None or write.staging != answer.staging:
            return None
        write.waiting.discard(node)
        write.parts.append(answer.part)
        write.size += int(answer.part.get("image_size", answer.bytes))
        if node == _OWN and write.later:
            later, write.later = write.later, {}
            self._ask_others(answer.step, write, later, base=answer.part)
        if not write.waiting:
            if not any(part["size"] < part["image_size"] for part in write.parts[1:]):
                self._unlike = int(write.details.get("round", -1))
            self.commit_parts(answer.step, write.staging, write.parts, write.details)
        return None

    def _not_written(self, step: int, answer: Answer) -> Answer | None:
        if step not in self._writes:
            return None
        self._drop(step)
        return answer

    # --- reading

    def restore(
        self,
        step: int,
        slots: Mapping[int, Slot],
        sequence: int,
        *,
        reshard: bool = False,
        world_size: int | None = None,
    ) -> None:
        world = world_size or len(slots)
        own, others = self._split(slots)
        self._reads = _Reading(step, frozenset(others), {_OWN, *others})
        for node, indexes in others.items():
            body = {"op": "restore", "step": step, "slots": indexes, "sequence": sequence, "world": world}
            self._post(node, {**body, "reshard": reshard})
        super().restore(step, own, sequence, reshard=reshard, world_size=world)

    def abandon_restore(self) -> None:
        """Nobody answers to it any more: one that is asked for later may be of the same step."""
        read, self._reads = self._reads, None
        for node in read.waiting if read is not None else ():
            if node == _OWN:
                super().abandon_restore()
            else:
                self._post(node, {"op": "abandon_restore"})

    def _read(self, node: str, answer: Restored) -> Answer | None:
        read = self._reads
        if read is None or read.step != answer.step:
            return None
        read.waiting.discard(node)
        if node == _OWN:
            read.here = answer
        if read.waiting:
            return None
        self._reads = None
        return read.here

    def _not_read(self, node: str, step: int, answer: Answer) -> Answer | None:
        """One has failed; what the others say of it is of no interest any more."""
        if self._reads is None or self._reads.step != step:
            return None
        self._reads.waiting.discard(node)
        self.abandon_restore()
        return answer

    # --- answers

    def receive(self) -> Answer | None:
        answer = super().receive()
        return None if answer is None else self._take(_OWN, answer)

    def late(self) -> Answer | None:
        return self._late.popleft() if self._late else None

    def heard(self, node: str, message: Mapping[str, Any]) -> None:
        """What another node's drain has answered."""
        answer = understood(message)
        if answer is not None and (found := self._take(node, answer)) is not None:
            self._late.append(found)

    def lost(self, node: str) -> None:
        """The node is gone, and what it had begun."""
        problem = f"node {node} is lost"
        for step in [step for step, write in self._writes.items() if node in write.waiting]:
            if (answer := self._not_written(step, PersistFailed(step, problem))) is not None:
                self._late.append(answer)
        if self._reads is not None and node in self._reads.nodes:  # what it had read already is lost with it
            failed = RestoreFailed(self._reads.step, problem)
            if (answer := self._not_read(node, failed.step, failed)) is not None:
                self._late.append(answer)

    def _take(self, node: str, answer: Answer) -> Answer | None:
        if isinstance(answer, answers.PartWritten):
            return self._written(node, answer)
        if isinstance(answer, Persisted):
            return self._committed(answer)
        if isinstance(answer, answers.Fenced):
            return self._not_written(answer.step, PersistFailed(answer.step, "another node leads by now"))
        if isinstance(answer, answers.PartFailed):
            return self._not_written(answer.step, PersistFailed(answer.step, answer.problem))
        if isinstance(answer, (PersistFailed, answers.Unfinished)) and answer.step in self._writes:
            return self._not_written(answer.step, answer)
        if isinstance(answer, Restored):
            return self._read(node, answer)
        if isinstance(answer, (Rejected, RestoreFailed)):
            return self._not_read(node, answer.step, answer)
        return answer if node == _OWN else None

    def _committed(self, answer: Persisted) -> Answer:
        write = self._writes.pop(answer.step, None)
        if write is not None and write.size:
            self.rate = write.size / max(self._clock() - write.began, 1e-6)
        return answer
