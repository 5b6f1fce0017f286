"""The leader's part in peer memory: has one step's images copied after the other, and puts a state together from them.

A set of copies is made in four moves, each of which all nodes have to answer before the next: the images are *lent*,
every partner *pulls* its copies, every node *keeps* the images that it had lent if they are still there, and then the
set counts and is *settled*. Whatever goes wrong before that leaves the last set as it is. Nothing here waits.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from resilient.nodes.replica_files import Image, Settled
from resilient.nodes.replica_plan import Cadence, Found, NodeState, Ranks, find_steps, pulls, ranks_of_images, sources
from resilient.policy import events as on
from resilient.protocol.past import Counts, Past
from resilient.protocol.peer_settings import PeerSettings
from resilient.supervisor.journal import Journal

Message = dict[str, Any]

_WRITTEN_SECONDS = 10.0  # between two entries in the journal, for days of training have very many sets
_ENDED = "the round has ended"


@dataclass(frozen=True)
class Replicated:
    """A step's images are in the memory of other nodes as well.

    :param busy: seconds for which that would have kept all processors of one of the nodes busy, the most of all.
    :param sets: how many have been made since this was written down last.
    """

    step: int
    set: str
    bytes: int
    seconds: float
    busy: float = 0.0
    sets: int = 1


@dataclass(frozen=True)
class NotReplicated:
    """They are not; the set before still counts."""

    step: int
    problem: str


@dataclass
class _Attempt:
    """A set that is being made.

    :ivar waiting: nodes that have not answered the present move.
    """

    name: str
    step: int
    round: int
    began: float
    waiting: set[str]
    move: str = "lend"
    begun: dict[str, dict[str, int]] = field(default_factory=dict)
    roots: dict[int, str] = field(default_factory=dict)
    bytes: int = 0
    busy: float = 0.0


@dataclass
class _Restore:
    """A state that is being put together.

    :ivar nodes: that have a part of it.
    :ivar waiting: those of them that have not answered.
    """

    found: Found
    nodes: frozenset[str]
    waiting: set[str]
    problems: list[str] = field(default_factory=list)
    damaged: bool = False


class Replication:
    """Speaks with the :class:`NodeReplicas` of all nodes, its own among them.

    :param post: sends a message to a node.
    :param term: of this leader.
    :ivar counts: whether a step that was taken in a term by a round is on the branch of the run that goes on.
    :ivar resumed: called when every node has its ranks' images of a step, with the past of all nodes' memory then.
    """

    def __init__(
        self,
        settings: PeerSettings,
        post: Callable[[str, Message], None],
        *,
        term: int,
        journal: Journal,
        say: Callable[[str], None],
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._post = post
        self._term = term
        self._journal = journal
        self._say = say
        self._clock = clock
        self.counts: Counts = lambda _step, _term, _round: True
        self.resumed: Callable[[Past], None] = lambda _past: None
        self._states: dict[str, NodeState] = {}
        self._unheard: set[str] = set()
        self._ranks: Ranks = {}
        self._round = -1
        self._cadence = Cadence(settings)
        self._attempt: _Attempt | None = None
        self._restore: _Restore | None = None
        self._bad: set[tuple[int, str]] = set()  # what could not be put together
        self._warned = ""
        self._written_at, self._unwritten = -math.inf, 0
        self._events: list[on.Event] = []

    # --- who is there

    def open(self, nodes: Collection[str], token: str) -> None:
        """Ask these nodes, and no others, what they have; :attr:`heard_all` says when that is known."""
        known = {node: self._states.get(node, NodeState()) for node in nodes}
        self._states = {node: replace(state, past=None) for node, state in known.items()}
        self._unheard = set(nodes)
        for node in nodes:
            self._post(node, {"op": "peer_open", "token": token})

    @property
    def heard_all(self) -> bool:
        """Whether every node has said what it has."""
        return not self._unheard

    def lost(self, node: str) -> None:
        """A node is gone, with its memory."""
        self._states.pop(node, None)
        self._unheard.discard(node)
        if self._attempt is not None and node in self._ranks:
            self._fail(f"{node} is lost")
        if self._restore is not None and node in self._restore.waiting:
            self._restore.problems.append(f"{node} is lost")
            self._answered(node)

    def hear(self, node: str, message: Message) -> None:
        """What a node says; ``op`` begins with ``peer_``."""
        move = str(message["op"]).removeprefix("peer_")
        if node not in self._states:
            return
        if "address" in message:
            self._states[node] = replace(self._states[node], address=message["address"])
        if move == "open":
            self._opened(node, message)
        elif move == "fetch":
            self._fetched(node, message)
        elif self._attempt is not None and (message.get("set"), move) == (self._attempt.name, self._attempt.move):
            self._moved(node, message)

    def _opened(self, node: str, message: Message) -> None:
        if "images" in message:
            record = None if message["record"] is None else Settled.of(message["record"])
            images = tuple(Image(*image) for image in message["images"])
            past = None if message["past"] is None else Past.from_json(message["past"])
            self._states[node] = NodeState(message["address"], images, record, past)
        self._unheard.discard(node)

    # --- making a set

    @property
    def step(self) -> int | None:
        """Of the last set that this leader has had made."""
        return self._cadence.step

    def begin_round(self, round_number: int, ranks: Ranks) -> None:
        """The workers of a round are started; each node has these ranks."""
        self._round, self._ranks = round_number, ranks

    def end_round(self) -> None:
        """The workers are gone, or are to go: nothing more is copied."""
        if self._attempt is not None:
            self._fail(_ENDED)
        self._ranks = {}

    @property
    def rests(self) -> bool:
        """Whether :meth:`poll` would begin nothing, whatever there is to copy."""
        under_way = self._attempt is not None or self._restore is not None
        return not self._settings.enabled or under_way or self._cadence.rests(self._clock())

    def poll(self, newest: int | None, held: Collection[int] = ()) -> None:
        """Begin the next set, if one is due.

        :param newest: the newest step of which all ranks have a complete image.
        :param held: complete steps that wait for the disk.
        """
        ready = len(self._ranks) > 1 and all(self._is_there(node) for node in self._ranks)
        if self.rests or not ready:
            return
        step = self._cadence.choose(newest, held, self._clock())
        if step is not None:
            name = f"{step}-{uuid.uuid4().hex[:12]}"
            self._attempt = _Attempt(name, step, self._round, self._clock(), set(self._ranks))
            self._tell_all({"op": "peer_lend", "set": name, "step": step})

    def _is_there(self, node: str) -> bool:
        return node in self._states and bool(self._states[node].address)

    def _tell_all(self, message: Message) -> None:
        for node in self._ranks:
            self._post(node, message)

    def _moved(self, node: str, message: Message) -> None:
        attempt = self._attempt
        assert attempt is not None  # noqa: S101  asked by the caller
        if "problem" in message:
            self._fail(f"{node}: {message['problem']}")
            return
        if attempt.move == "lend":
            attempt.begun[node] = message["begun"]
        elif attempt.move == "pull":
            attempt.roots.update({int(rank): root for rank, root in message["roots"].items()})
            attempt.bytes += int(message["bytes"])
            attempt.busy = max(attempt.busy, float(message["busy"]))
        attempt.waiting.discard(node)
        if not attempt.waiting:
            {"lend": self._pull, "pull": self._keep, "keep": self._settle}[attempt.move](attempt)

    def _pull(self, attempt: _Attempt) -> None:
        attempt.move, attempt.waiting = "pull", set(self._ranks)
        begun = {int(rank): number for own in attempt.begun.values() for rank, number in own.items()}
        addresses = {node: self._states[node].address for node in self._ranks}
        wanted = pulls(self._ranks, self._settings.copies, attempt.step, begun, addresses)
        records = [state.record for state in self._states.values() if state.record is not None]
        counting = [record for record in records if self.counts(record.step, record.term, record.round)]
        keep = [max(counting, key=lambda record: record.step).set] if counting else []
        rate = self._settings.bytes_per_second
        for node, images in wanted.items():
            bodies = [vars(source) for source in images]
            body = {"images": bodies, "keep": keep, "bytes_per_second": rate}
            self._post(node, {"op": "peer_pull", "set": attempt.name, "step": attempt.step, **body})

    def _keep(self, attempt: _Attempt) -> None:
        attempt.move, attempt.waiting = "keep", set(self._ranks)
        for node in self._ranks:
            body = {"set": attempt.name, "step": attempt.step, "begun": attempt.begun[node]}
            self._post(node, {"op": "peer_keep", **body})

    def _settle(self, attempt: _Attempt) -> None:
        self._attempt, now = None, self._clock()
        record = Settled(attempt.name, attempt.step, self._term, attempt.round, attempt.roots)
        self._cadence = self._cadence.succeeded(attempt.step, attempt.began, now, attempt.busy)
        self._warned = ""
        self._unwritten += 1
        if now - self._written_at >= _WRITTEN_SECONDS:
            seconds = round(now - attempt.began, 6)
            done = Replicated(attempt.step, attempt.name, attempt.bytes, seconds, attempt.busy, self._unwritten)
            self._journal.record("note", done, now)
            self._written_at, self._unwritten = now, 0
        wanted = pulls(self._ranks, self._settings.copies, attempt.step, dict.fromkeys(attempt.roots, 0), self._named())
        for node, copied in wanted.items():
            begun = {int(rank): number for rank, number in attempt.begun[node].items()}
            own = [Image(rank, attempt.step, number) for rank, number in begun.items()]
            copies = [Image(source.rank, attempt.step, 0, attempt.name) for source in copied]
            self._states[node] = NodeState(self._states[node].address, (*own, *copies), record)
            body = replace(record, begun=begun).to_json()
            self._post(node, {"op": "peer_settle", "record": body, "replicas": [source.rank for source in copied]})

    def _named(self) -> dict[str, str]:
        return {node: self._states[node].address for node in self._ranks}

    def _fail(self, problem: str) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None  # noqa: S101  asked by the callers
        self._cadence = self._cadence.failed(self._clock())
        self._journal.record("note", NotReplicated(attempt.step, problem), self._clock())
        if problem not in (self._warned, _ENDED):
            self._say(f"WARNING: step {attempt.step} was not copied to other nodes: {problem}")
            self._warned = problem
        for node in self._ranks:
            if node in self._states:
                self._post(node, {"op": "peer_cancel"})

    # --- resuming from what there is

    def found(self, world: int) -> Found | None:
        """The best that could be resumed from with so many ranks, as far as is known."""
        return next(iter(self._known(world)), None)

    def _known(self, world: int) -> list[Found]:
        known = find_steps(self._states, world, counts=self.counts)
        return [found for found in known if (found.step, found.set) not in self._bad]

    def restore(self, step: int, ranks: Ranks) -> None:
        """Have every node bring the images of its ranks to itself; :meth:`take` says how it went."""
        found = self.found(sum(map(len, ranks.values())))
        if found is None or found.step != step:
            self._events.append(on.RestoreFailed(step, "no set of images is there any more", on.Tier.PEER))
            return
        if gone := ranks.keys() - self._states.keys():
            self._events.append(on.RestoreFailed(step, f"{', '.join(sorted(gone))} is lost", on.Tier.PEER))
            return
        self._restore = _Restore(found, frozenset(ranks), set(ranks))
        for node, own in ranks.items():
            images = [
                {
                    "rank": rank,
                    "root": found.roots.get(rank, ""),
                    "own": (node, "") in found.where[rank],
                    "sources": [vars(source) for source in sources(found, rank, node, self._states)],
                }
                for rank in own
            ]
            self._post(node, {"op": "peer_fetch", "step": step, "set": found.set, "images": images})

    def _fetched(self, node: str, message: Message) -> None:
        restore = self._restore
        if restore is None or node not in restore.waiting or message.get("set") != restore.found.set:
            return
        if "problem" in message:
            restore.problems.append(f"{node}: {message['problem']}")
            restore.damaged |= bool(message.get("damaged"))
        self._answered(node)

    def _answered(self, node: str) -> None:
        restore = self._restore
        assert restore is not None  # noqa: S101  asked by the callers
        restore.waiting.discard(node)
        if restore.waiting:
            return
        self._restore, step, told = None, restore.found.step, "; ".join(restore.problems)
        if not restore.problems:
            past = restore.found.past
            for other in restore.nodes:
                body = {"step": step, "set": restore.found.set, "past": past.to_json()}
                self._post(other, {"op": "peer_resume", **body})
            self.resumed(past)
            self._events.append(on.SnapshotRestored(step, on.Tier.PEER))
        elif restore.damaged:
            self._bad.add((step, restore.found.set))
            self._events.append(on.SnapshotRejected(step, on.Tier.PEER, told))
        else:
            self._events.append(on.RestoreFailed(step, told, on.Tier.PEER))

    def abandon_restore(self) -> None:
        """The restore takes too long: end it. It answers no more."""
        restore, self._restore = self._restore, None
        for node in restore.waiting if restore is not None else ():
            self._post(node, {"op": "peer_abandon"})

    @property
    def has_ended(self) -> bool:
        """Whether a restore has ended, of which :meth:`take` will tell."""
        return bool(self._events)

    def take(self) -> on.Event | None:
        """How a restore has ended, once."""
        return self._events.pop(0) if self._events else None

    def gone_back(self, step: int) -> None:
        """The run goes on from ``step``, and no worker is up: images of later steps are none any more."""
        self._cadence = self._cadence.gone_back(step)
        for node, state in list(self._states.items()):
            images = tuple(image for image in state.images if image.step <= step)
            record = state.record if state.record is not None and state.record.step <= step else None
            self._states[node] = replace(state, images=images, record=record)
            self._post(node, {"op": "peer_drop", "after": step})

    def newest(self) -> tuple[Found, Mapping[str, Mapping[int, str]]] | None:
        """The newest that is whole, of however many ranks, and which node can write which ranks' images of it to disk:
        each once, with the set that a replica is of, as ``NodeReplicas.slots_of`` takes it. For when a node is lost and
        the run ends or goes on smaller: the replicas of the lost node's ranks become durable in their place.
        """
        worlds = {len(state.record.roots) for state in self._states.values() if state.record is not None}
        worlds |= {state.past.world for state in self._states.values() if state.past is not None}
        known = [found for world in worlds for found in self._known(world)]
        found = max(known, key=lambda each: each.step, default=None)
        return None if found is None else (found, ranks_of_images(found, self._states))
