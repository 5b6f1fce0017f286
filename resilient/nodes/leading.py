"""The other nodes, as the leader deals with them: who has which ranks, what they are told, and what they say."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from resilient.nodes.channel import Message
from resilient.nodes.hub import Handlers, Hub
from resilient.nodes.look_pace import LookPace
from resilient.nodes.peer_memory import PeerMemory
from resilient.nodes.world_drain import WorldDrain
from resilient.nodes.world_memory import WorldMemory
from resilient.nodes.world_stacks import WorldStacks
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.nodes import assign
from resilient.policy.state import Phase, RunState
from resilient.protocol.board import Word
from resilient.protocol.decoding import NotDecodable, decode
from resilient.protocol.launch import LaunchSpec
from resilient.protocol.past import Past
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.other_nodes import Copies, Place

_ROUND_SECONDS = 0.04  # between two looks at the lease, at who is silent and at the copies, where nothing waits
_SAY_SECONDS = 1.0  # between two reports of who is there, while that does not change
_PATIENT_SECONDS, _REMIND_SECONDS = 3.0, 60.0  # before it is said for whom the run waits, and until it is said again
_LAST_WORDS_SECONDS, _PACE_SECONDS = 2.0, 0.004


class Fenced(Exception):  # noqa: N818  named by condition, as all our errors
    """Another node leads by now."""


class Reign(Protocol):
    """The leader's hold on its term."""

    def renew(self) -> bool:
        """Show that it goes on, when it is time to; whether it does."""
        ...

    def began(self, step: int, round_number: int) -> None:
        """A round begins from ``step``: what later terms have beyond it, others of this one do not count."""
        ...


class Leading:
    """The other nodes of a run, for the supervisor that decides.

    :param node: name of this one.
    :param per_node: ranks of each node.
    :param version: what all nodes must agree on, or they could not work together.
    :param meeting_place: the directory in which nodes find their leader.
    """

    def __init__(
        self,
        hub: Hub,
        handlers: Handlers,
        *,
        node: str,
        address: str,
        per_node: int,
        version: str,
        meeting_place: Path,
        memory: WorldMemory,
        drain: WorldDrain,
        journal: Journal,
        console: Console,
        reign: Reign,
        peers: PeerMemory | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reign = reign
        self._peers = peers
        self.address = address
        self._hub = hub
        self._node = node
        self._per_node = per_node
        self._version = version
        self._meeting_place = meeting_place
        self._memory = memory
        self._drain = drain
        self._journal = journal
        self._console = console
        self._clock = clock
        self._pace = LookPace(clock)
        self._pace.watch(memory)
        self._feed: Callable[[on.Event], None] = lambda _event: None
        self._state: Callable[[], RunState] = RunState
        self._ranks: dict[str, tuple[int, ...]] = {}  # as they were dealt out last
        self._members: tuple[str, ...] = (node,)  # the group, in the order of ranks
        self._places: dict[int, tuple[int, int]] = {}  # of each rank's node in the group, and its first rank
        self._formed = False
        self._unconfirmed: set[str] = set()
        self._gathering: float | None = None
        self._seen: tuple[str, ...] = ()
        self._seen_since = 0.0
        self._said_at = self._remind_at = self._next_round = 0.0
        self._asked_first = False
        self._stacks = WorldStacks(hub.post, console, clock)
        handlers.joined, handlers.lost = self._joined, self._lost
        handlers.messages.update(
            {
                "news": self._news,
                "assigned": self._assigned,
                "launched": self._launched,
                "exited": self._exited,
                "dumped": self._stacks.heard,
                "drain": self._drain.heard,
                "stop": self._asked_to_stop,
            }
        )

    def open(self, feed: Callable[[on.Event], None], state: Callable[[], RunState]) -> None:
        self._feed, self._state = feed, state

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        return {
            self._hub: self._hub.handle,
            **self._pace.connections(),
            **(self._peers.connections() if self._peers is not None else {}),
        }

    @property
    def pace(self) -> float:
        return self._pace.seconds

    @property
    def pids(self) -> set[int]:
        """Helpers of ours."""
        return {self._peers.pid} if self._peers is not None else set()

    def tick(self) -> None:
        if self._pace.due():
            self._tell_world()
        now = self._clock()
        if now < self._next_round and not self._hub.is_behind and not (self._peers is not None and self._peers.waits):
            return
        self._next_round = now + _ROUND_SECONDS
        if not self._reign.renew():
            raise Fenced("another node has begun a new term")
        self._hub.tick()
        if self._peers is not None and (event := self._peers.turn(self._state().phase)) is not None:
            self._feed(event)
        self._tell_of_others()

    def _tell_world(self) -> None:
        world = self._memory.tell_world()
        if world is not None:
            self._hub.post_all({"op": "world", "world": vars(world)}, self._memory.nodes)
        self._pace.looked(changed=world is not None)

    # --- who takes part

    def _tell_of_others(self) -> None:
        """While fewer nodes train than are wanted: say who else is there, and since when."""
        state, now = self._state(), self._clock()
        wanted = 0 if state.settings.nodes is None else state.settings.nodes.count
        if state.phase is not Phase.RUNNING or len(self._members) >= wanted or now - self._said_at < _SAY_SECONDS:
            return
        self._said_at, seen = now, (self._node, *sorted(self._hub.members))
        if seen != self._seen:
            self._seen, self._seen_since = seen, now
        self._feed(on.NodesSeen(seen, self._seen_since))

    def listing(self) -> on.NodesSeen | int | None:
        if self._formed:
            if self._unconfirmed or (self._peers is not None and not self._peers.listed(self._dealt())):
                return None
            self._gathering = None
            return self._memory.world
        now = self._clock()
        if self._gathering is None:
            self._gathering, self._seen, self._remind_at = now, (), now + _PATIENT_SECONDS
        seen = (self._node, *sorted(self._hub.members))
        if now >= self._remind_at:
            self._remind_at = now + _REMIND_SECONDS
            self._tell_of_the_missing(seen)
        if seen == self._seen and now - self._said_at < _SAY_SECONDS:
            return None
        self._seen, self._said_at = seen, now
        return on.NodesSeen(seen, self._gathering)

    def _tell_of_the_missing(self, seen: Sequence[str]) -> None:
        nodes = self._state().settings.nodes
        if nodes is not None and len(seen) < nodes.count:
            there = f"{len(seen)} of {nodes.count} are there"
            self._console.say(f"waiting for more nodes: {there}; all must see {self._meeting_place}")

    def forgets(self, decision: do.FormGroup) -> bool:
        return not self._memory.belongs_to(len(decision.nodes) * self._per_node)

    def form(self, decision: do.FormGroup) -> None:
        there = [node for node in decision.nodes if node == self._node or node in self._hub.members]
        if len(there) < len(decision.nodes):
            return  # one was lost in this moment, and who is there is asked anew
        dealt = assign(self._ranks, there, self._node, self._per_node)
        world = len(dealt) * self._per_node
        if not self._memory.belongs_to(world):
            self._console.say(f"what is in memory was taken with another number of ranks than {world}: it is not used")
            self._memory.void()
        for name, had in list(self._memory.nodes.items()):
            if name not in dealt or tuple(had) != dealt[name] or world != self._memory.world:
                self._memory.detach(name)
                if name not in dealt:
                    self._hub.post(name, {"op": "assign", "ranks": []})
        for name, ranks in dealt.items():
            if name != self._node and name not in self._memory.nodes:
                self._unconfirmed.add(name)
                self._hub.post(name, {"op": "assign", "ranks": list(ranks), "world": world})
        changed = dealt != {name: ranks for name, ranks in self._ranks.items() if name in dealt}
        self._ranks.update(dealt)
        self._members, self._formed = tuple(dealt), True
        self._places = {rank: (at, ranks[0]) for at, ranks in enumerate(dealt.values()) for rank in ranks}
        self._memory.world = world
        if changed:
            ranks_of = {name: list(ranks) for name, ranks in dealt.items()}
            self._journal.write("note", "group formed", self._clock(), ranks=ranks_of)
            told = ", ".join(f"{name} ({_range(ranks)})" for name, ranks in dealt.items())
            together = f"{len(dealt)} nodes train together" if len(dealt) > 1 else "1 node trains"
            self._console.say(f"{together}: {told}")

    def _dealt(self) -> dict[str, tuple[int, ...]]:
        return {name: self._ranks[name] for name in self._members}

    def place(self, rank: int) -> Place:
        at, first = self._places[rank]
        return Place(rank - first, self._per_node, at, len(self._members))

    def _joined(self, name: str, hello: Mapping[str, Any]) -> str:
        if hello.get("version") != self._version:
            return "it has another version or configuration than the leader"
        if hello.get("per_node") != self._per_node:
            return (
                f"it has {hello.get('per_node')} ranks and the leader {self._per_node}; worker.ranks is for all nodes"
            )
        ranks = hello.get("ranks")
        if name not in self._ranks and isinstance(ranks, list) and len(ranks) == self._per_node:
            self._ranks[name] = tuple(map(int, ranks))  # what it has in memory is of these
        self._journal.write("note", "node joined", self._clock(), node=name)
        self._console.say(f"node {name} is there")
        return ""

    def _assigned(self, name: str, message: Message) -> None:
        ranks = self._ranks.get(name)
        if name not in self._unconfirmed or ranks is None or tuple(message.get("ranks", ())) != ranks:
            return
        past = None if message["past"] is None else Past.from_json(message["past"])
        self._memory.attach(name, range(ranks[0], ranks[-1] + 1), int(message["count"]), past)
        self._news(name, message)
        self._unconfirmed.discard(name)

    def _lost(self, name: str, why: str) -> None:
        steps = {rank: self._memory.boards[rank][Word.STEP] for rank in self._memory.nodes.get(name, ())}
        self._memory.detach(name)
        self._drain.lost(name)
        if self._peers is not None:
            self._peers.replication.lost(name)
        self._unconfirmed.discard(name)
        self._stacks.lost(name)
        if name in self._members:
            self._formed = False
        if self._state().phase is Phase.ENDED:
            return
        self._journal.write("note", "node lost", self._clock(), node=name, reason=why)
        self._console.say(f"node {name} is lost: {why}")
        failure = Failure(FailureClass.NODE_LOST, f"node {name} is lost", why)
        for rank, step in steps.items():
            if rank in self._state().live:
                self._feed(on.WorkerExited(rank, step, failure))

    # --- what they are to do

    def launch(self, launch: do.LaunchRound, specs: Sequence[LaunchSpec]) -> None:
        self._pace.begin_round()
        self._formed = False  # when this round is over, whoever is there is asked
        self._reign.began(launch.step or 0, launch.round)
        if self._peers is not None:
            self._peers.begin_round(launch.round, self._dealt())
        self._memory.remove_strangers()
        past = self._memory.past_of(launch.round, launch.step)
        self._memory.mark(past)
        self._memory.agreed(past)
        begun = {"round": launch.round, "step": launch.step, "past": past.to_json()}
        by_rank = {spec.rank: spec for spec in specs}
        for name, ranks in self._memory.nodes.items():
            theirs = [by_rank[rank].to_json() for rank in ranks if rank in by_rank]
            self._hub.post(name, {"op": "launch", **begun, "specs": theirs})
            self._hub.members[name].channel.flush()

    def signal(self, number: signal.Signals) -> None:
        self._hub.post_all({"op": "signal", "number": int(number)})

    def kill(self, reason: str) -> None:
        self._hub.post_all({"op": "kill", "reason": reason})

    def end(self, decision: do.EndRun, *, durable: bool) -> None:
        message = {"op": "end", "exit_code": int(decision.exit_code), "diagnosis": decision.diagnosis}
        self._hub.post_all({**message, "durable": durable})
        until = time.monotonic() + _LAST_WORDS_SECONDS
        while self._hub.members and time.monotonic() < until:  # each leaves when it has heard it
            self._hub.tick()
            self._hub.handle()
            time.sleep(_PACE_SECONDS)

    def was_asked_first(self) -> bool:
        first, self._asked_first = self._asked_first, False
        return first

    def close(self) -> None:
        """The run has ended, or another node leads."""
        self._pace.close()

    def resign(self) -> None:
        """Somebody else leads, and nothing that happens is ours to decide about any more."""
        self._feed = lambda _event: None
        for name in list(self._hub.members):
            self._hub.dismiss(name, "this node does not lead any more")

    # --- what the nodes remember of each other

    def peer_step(self) -> int | None:
        return None if self._peers is None else self._peers.step()

    def restore(self, step: int) -> None:
        if self._peers is not None:
            self._console.say(f"step {step} comes from other nodes' memory")
            self._peers.restore(step)

    def abandon_restore(self) -> None:
        if self._peers is not None:
            self._peers.replication.abandon_restore()

    def survey(self) -> bool:
        return self._peers is None or self._peers.survey()

    def copies(self) -> Copies | None:
        return None if self._peers is None else self._peers.copies()

    def gone_back(self, step: int) -> None:
        if self._peers is not None:
            self._peers.replication.gone_back(step)

    # --- stacks

    def dump(self, decision: do.DumpStacks, state: RunState) -> None:
        self._stacks.dump(decision, state, self._memory.nodes)

    def dumped(self, here: on.StacksDumped | None) -> on.StacksDumped | None:
        dumped = self._stacks.dumped(here)
        return dumped if self._state().phase is Phase.DUMPING else None

    # --- what they say

    def _news(self, name: str, message: Message) -> None:
        self._pace.heard(waits=self._memory.take(name, message))

    def _launched(self, name: str, message: Message) -> None:
        at = {"rank": message.get("rank"), "pid": message.get("pid"), "node": name}
        self._journal.write("note", "worker launched", self._clock(), **at)

    def _exited(self, name: str, message: Message) -> None:
        try:
            exited = decode(on.WorkerExited, message["event"])
        except (NotDecodable, KeyError) as error:
            self._hub.dismiss(name, f"it says what cannot be understood: {error}")
            return
        ours = exited.rank in self._memory.nodes.get(name, ()) and exited.rank in self._state().live
        if not ours or message.get("round") != self._state().round:
            return
        ago = message.get("ago")
        at = None if ago is None else self._clock() - float(ago)
        code = message.get("code")
        note = {"rank": exited.rank, "code": code, "step": exited.step, "node": name}
        self._journal.write("note", "worker exited", self._clock(), **note)
        self._feed(on.WorkerExited(exited.rank, exited.step, exited.failure, exited.finished, at))

    def _asked_to_stop(self, name: str, message: Message) -> None:
        self._console.say(f"{name}: {message.get('reason', 'it was asked to stop')}")
        kind, grace = on.StopKind(message["kind"]), float(message["grace"])
        patient = bool(message.get("patient"))
        self._asked_first |= self._state().stop is None
        if self._state().stop is None or message.get("again"):
            self._feed(on.StopRequested(kind, grace, patient=patient))
        else:  # a batch system tells every node, which is no hurry
            self._feed(on.GraceKnown(grace))


def _range(ranks: Sequence[int]) -> str:
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}–{ranks[-1]}"
