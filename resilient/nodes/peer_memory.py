"""Peer memory, as the leader of a run has it: its decisions, with its own node and the others to carry them out."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from resilient.nodes.hub import Handlers, Hub
from resilient.nodes.node_replicas import Message, NodeReplicas
from resilient.nodes.replication import Replication
from resilient.nodes.world_drain import Elsewhere
from resilient.nodes.world_memory import WorldMemory
from resilient.policy import events as on
from resilient.policy.state import Phase
from resilient.protocol.arena import Slot
from resilient.protocol.past import Counts
from resilient.protocol.peer_settings import PeerSettings
from resilient.supervisor.console import Console
from resilient.supervisor.journal import Journal
from resilient.supervisor.other_nodes import Copies

_LOOK_SECONDS = 0.1  # between two looks at the helper, and at whether something is to be copied
_PATIENCE_SECONDS = 15.0  # for word of what the nodes have
_TRAINING = frozenset({Phase.STARTING, Phase.RUNNING})


class PeerMemory:
    """Has snapshots copied while the run trains, and fetched when it has to go on from the copies.

    :param node: name of the leader's own node.
    :param token: of the group.
    :param term: number of the leader's.
    """

    def __init__(
        self,
        settings: PeerSettings,
        here: NodeReplicas,
        hub: Hub,
        handlers: Handlers,
        *,
        node: str,
        token: str,
        term: int,
        memory: WorldMemory,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
    ) -> None:
        self._here = here
        self._hub = hub
        self._node = node
        self._token = token
        self._memory = memory
        self._own: deque[Message] = deque()  # for this node; it is told in the next turn, as the others are
        self._ranks: Mapping[str, Sequence[int]] = {}
        self._asked = self._needed = self._surveyed = False
        self._clock = clock
        self._looked_at = self._opened_at = 0.0
        self.replication = Replication(settings, self._post, term=term, journal=journal, say=console.say, clock=clock)
        self.replication.resumed = memory.agreed
        here.send = lambda message: self.replication.hear(node, message)
        here.use(memory)
        handlers.messages.update(dict.fromkeys(here.operations, self.replication.hear))

    @property
    def pid(self) -> int:
        """Process number of this node's helper."""
        return self._here.pid

    def connections(self) -> Mapping[Any, Callable[[], None]]:
        return {self._here.connection: self._here.receive}

    def follow(self, counts: Counts, collect_metrics: Callable[[], None]) -> None:
        """Know which images count, from now on.

        :param collect_metrics: writes down what this node's ranks have reported.
        """
        self._here.before_lend = collect_metrics
        self.replication.counts = counts

    @property
    def waits(self) -> bool:
        """Whether there is something for :meth:`turn` to do at once."""
        return bool(self._own) or self.replication.has_ended

    def turn(self, phase: Phase) -> on.Event | None:
        """Do what is due; returns how a restore has ended, if one has."""
        while self._own:
            self._here.hear(self._own.popleft())
        now = self._clock()
        if now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            self._here.poll()
            if phase in _TRAINING and self._memory.complete and not self.replication.rests:
                held = [step for step in self._memory.held_steps() if self._memory.slots_of(step)]
                self.replication.poll(self._memory.newest_step(), held)
        return self.replication.take()

    def listed(self, ranks: Mapping[str, Sequence[int]]) -> bool:
        """Whether it is known what all nodes have in their memory; asked again and again until it is.

        :param ranks: of the group that is formed.
        """
        if not self._asked:
            self._asked, self._ranks = True, ranks
            self._ask()
            newest, copied = self._memory.newest_step(), self.replication.step
            # what all nodes have themselves is nearer, and nothing newer was copied: nobody has to wait
            self._needed = newest is None or copied is None or newest < copied
        return self._have_answered or not self._needed

    def _ask(self) -> None:
        self._opened_at = self._clock()
        self.replication.end_round()
        self.replication.open([self._node, *self._hub.members], self._token)

    @property
    def _have_answered(self) -> bool:
        return self.replication.heard_all or self._clock() - self._opened_at > _PATIENCE_SECONDS

    def step(self) -> int | None:
        """The newest step that could be put together."""
        self._asked = False
        found = self.replication.found(self._memory.world) if self._needed else None
        return None if found is None else found.step

    def restore(self, step: int) -> None:
        self.replication.restore(step, self._ranks)

    def survey(self) -> bool:
        """Whether it is known what the nodes have that are there now, also by a leader who never had a set made; asked
        again and again until it is.
        """
        if not self._surveyed:
            self._surveyed, self._asked = True, False
            self._ask()
        return self._have_answered

    def copies(self) -> Copies | None:
        """The newest that is whole, whoever is lost, for the drains to read, as far as the survey has shown."""
        self._surveyed = False
        found = self.replication.newest()
        if found is None:
            return None
        known, where = found
        own = self._here.slots_of(known.step, where.get(self._node, {}))
        if own is None:
            return None
        slots: dict[int, Slot | Elsewhere] = {**own}
        for node, ranks in where.items():
            if node != self._node:
                slots.update({rank: Elsewhere(node, name) for rank, name in ranks.items()})
        return Copies(known.step, known.round, cast("dict[int, Slot]", slots))

    def begin_round(self, number: int, ranks: Mapping[str, Sequence[int]]) -> None:
        self._asked = False
        self.replication.begin_round(number, ranks)

    def _post(self, node: str, message: Message) -> None:
        if node == self._node:
            self._own.append(message)
        else:
            self._hub.post(node, message)
