"""Messages between two supervisors: JSON objects over one TCP connection, without ever blocking.

Each is preceded by its length. A connection says by itself that it is alive: where nothing else was sent for a while,
:meth:`Channel.beat` sends an empty message. Who has heard nothing for longer than was agreed takes the other for lost,
as if the connection had been closed. Large data, such as images, does not go this way.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

_LENGTH = struct.Struct("!I")
_MOST_BYTES = 64 << 20  # of one message, and of what waits to be sent
_PIECE = 1 << 18
BEAT_SECONDS = 0.5
_SIGN_OF_LIFE = b"{}"
_to_json, _from_json = json.JSONEncoder(separators=(",", ":")).encode, json.JSONDecoder().decode


def encoded(message: Mapping[str, Any]) -> bytes:
    """As it goes over the network, but for its length."""
    return _to_json(message).encode()


class ChannelClosed(ConnectionError):  # noqa: N818  named by condition, as all our errors
    """The other side is gone, silent for too long, or speaks another language; the message says which."""


class Channel:
    """One end of a connection.

    :param silent_seconds: after which silence counts as loss.
    :param clock: seconds.
    :ivar most: bytes of a message that is accepted, so that nobody who is not known yet can fill our memory.
    """

    most_bytes = _MOST_BYTES

    def __init__(
        self, connection: socket.socket, *, silent_seconds: float, clock: Callable[[], float], most: int = _MOST_BYTES
    ) -> None:
        connection.setblocking(False)
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = connection
        self._silent_seconds = silent_seconds
        self._clock = clock
        self._incoming = bytearray()
        self._outgoing = bytearray()
        self._heard_at = self._sent_at = clock()
        self._failed = ""
        self._kept: list[Message] = []  # read, and not asked for yet
        self.most = most

    def fileno(self) -> int:
        return self._connection.fileno()

    @property
    def is_behind(self) -> bool:
        """Whether something waits for the network to take it."""
        return bool(self._outgoing) and not self._failed

    def send(self, message: Message) -> None:
        """Have it sent, now or as soon as the network takes it. That the other side is gone is told by
        :meth:`receive`.
        """
        self.send_encoded(encoded(message))

    def send_encoded(self, body: bytes) -> None:
        """Likewise, for one that many are told."""
        self._outgoing += _LENGTH.pack(len(body)) + body
        if len(self._outgoing) > _MOST_BYTES:
            self._failed = self._failed or "it takes no messages any more"
            self._outgoing.clear()
        self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the network takes it."""
        while self._outgoing and not self._failed:
            try:
                count = self._connection.send(self._outgoing[:_PIECE])
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._failed = error.strerror or str(error)
                return
            del self._outgoing[:count]
            self._sent_at = self._clock()

    def receive(self) -> list[Message]:
        """All messages that have come.

        :raises ChannelClosed: there are none, and there will be none.
        """
        ended = self._read()
        messages, self._kept = [*self._kept, *self._whole()], []
        if not messages and (ended or self._failed):
            raise ChannelClosed(self._failed or "the connection was closed")
        return messages

    def receive_one(self) -> list[Message]:
        """Likewise, but one message at the most; the others are kept for :meth:`receive`."""
        first, self._kept = (messages := self.receive())[:1], messages[1:]
        return first

    @property
    def has_kept(self) -> bool:
        """Whether there are messages that no selector tells of."""
        return bool(self._kept)

    def _read(self) -> bool:
        """Whether the other side has ended the connection."""
        while True:
            try:
                data = self._connection.recv(_PIECE)
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                self._failed = error.strerror or str(error)
                return True
            if not data:
                return True
            self._heard_at = self._clock()
            self._incoming += data
            if len(data) < _PIECE or len(self._incoming) > _MOST_BYTES:
                return False  # of what has come meanwhile, or that this was all, whoever waits is told again

    def _whole(self) -> list[Message]:
        found, at = [], 0
        while len(self._incoming) - at >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, at)
            if length > self.most:
                self._failed = f"a message of {length} bytes is no message of ours"
                break
            start = at + _LENGTH.size
            if len(self._incoming) - start < length:
                break
            try:
                message = _from_json(self._incoming[start : start + length].decode())
            except (ValueError, RecursionError):
                self._failed = "what it says is no message of ours"
                break
            at = start + length
            if isinstance(message, dict) and message:
                found.append(message)
        del self._incoming[:at]
        return found

    def beat(self) -> None:
        """Call it often: shows that we are there, and finds out whether the other side is.

        :raises ChannelClosed: nothing was heard of it for too long.
        """
        now = self._clock()
        if now - self._sent_at >= BEAT_SECONDS and not self._outgoing:
            self.send_encoded(_SIGN_OF_LIFE)
        if now - self._heard_at > self._silent_seconds:
            raise ChannelClosed(f"nothing was heard of it for {now - self._heard_at:.1f} s")

    def excuse(self) -> None:
        """We were not there ourselves for a while: what was not heard meanwhile says nothing."""
        self._heard_at = self._clock()

    def close(self) -> None:
        self._connection.close()
