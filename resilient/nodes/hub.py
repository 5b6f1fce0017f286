"""The leader's end of its connections to the other nodes: who is there, and what they say."""

from __future__ import annotations

import hmac
import selectors
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from resilient.nodes.channel import Channel, ChannelClosed, Message

_STRANGERS = 256  # connections that have not said who they are
_GREETING_SECONDS = 5.0
_GREETING_BYTES = 1 << 14
_OTHER_TERM = "it does not know the secret of this term"
_ABSENT_SECONDS = 1.0  # between two looks: then it was we who were not there


@dataclass
class Member:
    """Another node that is connected.

    :param hello: what it said of itself.
    :param posted: how many messages were sent to it.
    """

    name: str
    channel: Channel
    hello: Mapping[str, Any]
    posted: int = 0


@dataclass
class Handlers:
    """What is done about what happens; the first argument is the node's name.

    :param joined: it is there; returns why it is not wanted, or an empty text.
    :param lost: it is gone, and why.
    :param messages: by their ``op``.
    """

    joined: Callable[[str, Mapping[str, Any]], str] = lambda _name, _hello: ""
    lost: Callable[[str, str], None] = lambda _name, _why: None
    messages: dict[str, Callable[[str, Message], None]] = field(default_factory=dict)


class Hub:
    """Accepts other nodes, which show that they know the secret of this term, and talks with them."""

    def __init__(
        self,
        address: str,
        token: str,
        handlers: Handlers,
        *,
        silent_seconds: float,
        clock: Callable[[], float],
        port: int = 0,
    ) -> None:
        """Listen.

        :param address: of this machine, as the others reach it.
        :param port: any free one where it is 0.
        :raises OSError: nothing can be listened on there.
        """
        self._token = token
        self._handlers = handlers
        self._silent_seconds = silent_seconds
        self._clock = clock
        self._members: dict[str, Member] = {}
        self._strangers: list[tuple[Channel, float]] = []
        self._ticked = clock()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=1024)
        self._listener.setblocking(False)
        self.port = int(self._listener.getsockname()[1])
        self._selector = selectors.EpollSelector()
        self._watch(self._listener, self._accept)

    @property
    def members(self) -> Mapping[str, Member]:
        """Those that are there, by name."""
        return self._members

    def fileno(self) -> int:
        """Readable when :meth:`handle` should be called; one descriptor stands for all connections."""
        return self._selector.fileno()

    def handle(self) -> None:
        """Read what there is to be read."""
        for key, _ in self._selector.select(0):
            if key.fileobj in self._selector.get_map():  # the handler of another may have closed it
                cast("Callable[[], None]", key.data)()

    def _watch(self, source: socket.socket | Channel, handler: Callable[[], None]) -> None:
        self._selector.register(source, selectors.EVENT_READ, handler)

    def _end(self, channel: Channel) -> None:
        self._selector.unregister(channel)
        channel.close()

    def post(self, name: str, message: Mapping[str, Any]) -> int:
        """Send it to the node, if that is there; returns the number that it will say when it has carried it out."""
        member = self._members.get(name)
        if member is None:
            return 0
        member.posted += 1
        member.channel.send({**message, "#": member.posted})
        return member.posted

    def post_all(self, message: Mapping[str, Any]) -> None:
        for name in list(self._members):
            self.post(name, message)

    def tick(self) -> None:
        """Call it often: sends what waits, and finds out who is silent."""
        now = self._clock()
        absent = now - self._ticked > _ABSENT_SECONDS  # we were stopped, and the others' words wait to be read
        self._ticked = now
        for member in list(self._members.values()):
            if absent:
                member.channel.excuse()
            member.channel.flush()
            try:
                member.channel.beat()
            except ChannelClosed as closed:
                self._lose(member, str(closed))
        for channel, since in list(self._strangers):
            if now - since > _GREETING_SECONDS:
                self._forget(channel)

    def dismiss(self, name: str, why: str) -> None:
        """Take a node for lost."""
        member = self._members.get(name)
        if member is not None:
            self._lose(member, why)

    def close(self) -> None:
        for channel, _ in self._strangers:
            channel.close()
        for member in self._members.values():
            member.channel.flush()
            member.channel.close()
        self._members.clear()
        self._strangers.clear()
        self._selector.close()
        self._listener.close()

    # --- who comes

    def _accept(self) -> None:
        with suppress(OSError):
            connection, _ = self._listener.accept()
            channel = Channel(connection, silent_seconds=self._silent_seconds, clock=self._clock, most=_GREETING_BYTES)
            self._strangers.append((channel, self._clock()))
            self._watch(channel, lambda: self._greet(channel))
            if len(self._strangers) > _STRANGERS:
                self._forget(self._strangers[0][0])

    def _forget(self, channel: Channel) -> None:
        self._strangers = [(other, since) for other, since in self._strangers if other is not channel]
        self._end(channel)

    def _greet(self, channel: Channel) -> None:
        try:
            messages = channel.receive()
        except ChannelClosed:
            self._forget(channel)
            return
        if not messages:
            return
        hello, *rest = messages
        self._strangers = [(other, since) for other, since in self._strangers if other is not channel]
        why = self._refusal(hello)
        if why:
            # another secret is that of an earlier term: we listen before our claim is made, perhaps where that one did
            again = why == _OTHER_TERM or hello.get("node") in self._members
            channel.send({"op": "refused", "why": why, "again": again})
            self._end(channel)
            return
        member = Member(str(hello["node"]), channel, hello)
        channel.most = Channel.most_bytes
        self._members[member.name] = member
        self._selector.modify(channel, selectors.EVENT_READ, lambda: self._read(member))
        self.post(member.name, {"op": "welcome"})
        for message in rest:
            self._handle(member, message)

    def _refusal(self, hello: Message) -> str:
        """Why it is not let in; empty if it is."""
        token, name = hello.get("token"), hello.get("node")
        if hello.get("op") != "hello" or not isinstance(token, str) or not isinstance(name, str):
            return "that is no greeting"
        if not hmac.compare_digest(token.encode(), self._token.encode()):
            return _OTHER_TERM
        if name in self._members:
            return f"there is a node {name} already; each needs a name of its own (RESILIENT_NODE)"
        return self._handlers.joined(name, hello)

    # --- what they say

    def _read(self, member: Member) -> None:
        try:
            messages = member.channel.receive()
        except ChannelClosed as closed:
            self._lose(member, str(closed))
            return
        for message in messages:
            self._handle(member, message)

    def _handle(self, member: Member, message: Message) -> None:
        handler = self._handlers.messages.get(str(message.get("op")))
        if handler is not None and self._members.get(member.name) is member:
            handler(member.name, message)

    def _lose(self, member: Member, why: str) -> None:
        if self._members.get(member.name) is member:
            del self._members[member.name]
            self._end(member.channel)
            self._handlers.lost(member.name, why)
