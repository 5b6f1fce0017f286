"""Nodes that are not there: each is one connection to the leader, and says what a node with one rank would say."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from resilient.nodes.channel import Channel, ChannelClosed, Message
from resilient.policy.events import WorkerExited
from resilient.policy.failures import Failure, FailureClass
from resilient.protocol.board import Flag, Word, WorkerPhase, now
from resilient.protocol.terms import Term
from resilient.supervisor.journal import plain

_BEAT_SECONDS = 0.25


@dataclass
class Member:
    """One of them.

    :param killed_at: when it was told to kill its workers last, on the clock of this process.
    """

    name: str
    channel: Channel
    rank: int = -1
    round: int = -1
    step: int = 0
    done: int = 0
    training: bool = False
    killed_at: float = 0.0
    heard: int = 0

    def hear(self, message: Message) -> None:
        self.heard += 1
        self.done = int(message.get("#", self.done))
        what = message.get("op")
        if what == "assign":
            self.rank = message["ranks"][0] if message["ranks"] else -1
            news = {"boards": {}, "slots": {}, "done": self.done, "at": now()}
            self.channel.send({"op": "assigned", "ranks": message["ranks"], "count": 1, "past": None, **news})
        elif what == "renew_boards":
            self.step = 0
        elif what == "launch":
            self.round, self.training, self.step = int(message["round"]), True, int(message["step"] or 0)
            self.tell({Word.FLAGS: Flag.ATTACHED, Word.STEP: self.step, Word.PHASE: 0, Word.BEATS: 1})
        elif what == "kill" and self.training:
            self.training, self.killed_at = False, time.monotonic()
            exited = WorkerExited(self.rank, self.step, Failure(FailureClass.KILLED, "SIGKILL"))
            body = {"op": "exited", "round": self.round, "event": plain(exited), "ago": None, "code": -9}
            self.channel.send(body)

    def tell(self, words: dict[Word, int]) -> None:
        boards = {str(self.rank): {str(int(word)): int(value) for word, value in words.items()}}
        self.channel.send({"op": "news", "boards": boards, "slots": {}, "done": self.done, "at": now()})

    def do_a_step(self) -> None:
        self.step += 1
        self.tell(
            {
                Word.STEP: self.step,
                Word.BEATS: self.step + 1,
                Word.PHASE: WorkerPhase.STEP,
                Word.ENTERED: self.step + 1,
                Word.FLAGS: Flag.ATTACHED,
            }
        )


@dataclass
class Members:
    """All of them.

    :param step_seconds: of a step; they do theirs one after the other within that time, as real ones do not.
    """

    term: Term
    version: str
    step_seconds: float
    members: list[Member] = field(default_factory=list)
    _beaten: float = 0.0

    def join(self, count: int) -> None:
        host, _, port = self.term.address.rpartition(":")
        self._selector = selectors.DefaultSelector()
        for number in range(count):
            connection = socket.create_connection((host, int(port)), 30)
            channel = Channel(connection, silent_seconds=60, clock=time.monotonic)
            name = f"stub{number:05d}"
            hello = {"op": "hello", "token": self.term.token, "node": name, "per_node": 1, "version": self.version}
            channel.send({**hello, "ranks": []})
            member = Member(name, channel)
            self.members.append(member)
            self._selector.register(channel, selectors.EVENT_READ, member)
            self.serve(0.0)

    def serve(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Hear and say what there is to hear and say, for so long."""
        end = time.monotonic() + seconds
        started = time.monotonic()
        stepped = 0
        while True:
            for key, _ in self._selector.select(0.002):
                member: Member = key.data
                try:
                    for message in member.channel.receive():
                        member.hear(message)
                except ChannelClosed:
                    self._selector.unregister(member.channel)
                    self.members.remove(member)
            due = int((time.monotonic() - started) / self.step_seconds * len(self.members))
            while stepped < due and self.members:
                member = self.members[stepped % len(self.members)]
                stepped += 1
                if member.training:
                    member.do_a_step()
            self._beat()
            if until() or time.monotonic() >= end:
                return

    def _beat(self) -> None:
        """Now and then: show that all of them are there, and send what waits."""
        if time.monotonic() - self._beaten > _BEAT_SECONDS:
            self._beaten = time.monotonic()
            for member in self.members:
                member.channel.flush()
                member.channel.beat()

    def lose(self, member: Member) -> float:
        """Its node is gone; returns when."""
        self._selector.unregister(member.channel)
        self.members.remove(member)
        moment = time.monotonic()
        member.channel.close()
        return moment
