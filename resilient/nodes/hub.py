"""The leader's end of its connections to the other nodes: who is there, and what they say."""

from __future__ import annotations

import hmac
import selectors
import socket
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, cast

from resilient.nodes.channel import Channel, ChannelClosed, Message, encoded

_STRANGERS = 256  # connections that have not said who they are
_GREETING_SECONDS = 5.0
_GREETING_BYTES = 1 << 14
_OTHER_TERM = "it does not know the secret of this term"
_LOOK_SECONDS = 0.2  # between two looks at whether a node is silent, or should hear of us
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
        self._looks: deque[tuple[float, Member]] = deque()  # each node once, whoever is to be looked at next first
        self._behind: dict[str, Member] = {}  # those to whom not all could be sent at once
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
        return 0 if member is None else self._post(member, encoded(message))

    def post_all(self, message: Mapping[str, Any], names: Iterable[str] | None = None) -> None:
        """Send it to all nodes that are there, or to those of them with these names."""
        body = encoded(message)
        for name in list(self._members if names is None else names):
            if (member := self._members.get(name)) is not None:
                self._post(member, body)

    def _post(self, member: Member, body: bytes) -> int:
        """:param body: a message with at least one entry."""
        member.posted += 1
        member.channel.send_encoded(b'%s,"#":%d}' % (body[:-1], member.posted))
        if member.channel.is_behind:
            self._behind[member.name] = member
        return member.posted

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the network to take it."""
        return bool(self._behind)

    def tick(self) -> None:
        """Call it often: sends what waits, and finds out who is silent. Costs next to nothing where nothing is due."""
        now = self._clock()
        if now - self._ticked > _ABSENT_SECONDS:  # we were stopped, and the others' words wait to be read
            for member in self._members.values():
                member.channel.excuse()
        self._ticked = now
        for name, member in list(self._behind.items()):
            member.channel.flush()
            if not member.channel.is_behind:
                del self._behind[name]
        while self._looks and self._looks[0][0] <= now:
            self._look(self._looks.popleft()[1], now)
        while self._strangers and now - self._strangers[0][1] > _GREETING_SECONDS:
            self._forget(self._strangers[0][0])

    def _look(self, member: Member, now: float) -> None:
        if self._members.get(member.name) is not member:
            return
        try:
            member.channel.beat()
        except ChannelClosed as closed:
            self._lose(member, str(closed))
        else:
            self._looks.append((now + _LOOK_SECONDS, member))

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
        for waiting in (self._members, self._strangers, self._looks, self._behind):
            waiting.clear()
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
        self._looks.append((self._clock() + _LOOK_SECONDS, member))
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
            self._behind.pop(member.name, None)
            self._end(member.channel)
            self._handlers.lost(member.name, why)
