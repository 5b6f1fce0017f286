"""One connection between two nodes for images: who may ask, and frames that cannot be forged.

The side that is asked sends a nonce. The request carries one too, and a keyed hash (HMAC-SHA256) over the asked one's;
the answers carry one over the asker's. So nobody without the group's token gets anything, the token itself never goes
over the network, and an old conversation cannot be played again. The images in between are only checksummed.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import struct
from contextlib import suppress
from typing import Any

NONCE = 32
_MAC = 32
_LENGTH = struct.Struct("!I")
_LONGEST = 1 << 16  # bytes of a frame

Body = dict[str, Any]


class Refused(ConnectionError):  # noqa: N818  named by condition, as all our errors
    """The other side does not know us, or does not have what we ask for."""


class Link:
    """One side of a connection, after the nonces.

    :param asked: the nonce of the side that is asked.
    """

    def __init__(self, connection: socket.socket, token: str, asked: bytes, asker: bytes = b"") -> None:
        self.connection = connection
        self._key = token.encode()
        self._asked, self._asker = asked, asker

    @classmethod
    def ask(cls, address: str, token: str, request: Body, timeout: float) -> Link:
        """Connect to a node and send a request.

        :raises OSError: it cannot be reached.
        """
        host, _, port = address.rpartition(":")
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout)
        try:
            link = cls(connection, token, receive_exactly(connection, NONCE), secrets.token_bytes(NONCE))
            link.send_request(request)
        except BaseException:
            connection.close()
            raise
        return link

    @classmethod
    def accept(cls, connection: socket.socket, token: str) -> tuple[Link, Body]:
        """Hear a request.

        :raises Refused: whoever sent it does not have the token.
        :raises OSError: the connection broke, or nothing came in time.
        """
        nonce = secrets.token_bytes(NONCE)
        connection.sendall(nonce)
        link = cls(connection, token, nonce)
        request = link._receive(b"request", nonce)
        link._asker = bytes.fromhex(str(request.get("nonce", "")))
        return link, request

    def send_request(self, request: Body) -> None:
        self._send(b"request", self._asked, {**request, "nonce": self._asker.hex()})

    def answer(self, body: Body) -> None:
        """What the side that is asked says, the first time and at the end."""
        self._send(b"answer", self._asker, body)

    def receive_answer(self) -> Body:
        """What the other side says of our request.

        :raises Refused: it has no such thing, or is not who we think.
        :raises OSError: the connection broke, or nothing came in time.
        """
        body = self._receive(b"answer", self._asker)
        if "problem" in body:
            raise Refused(str(body["problem"]))
        return body

    def hang_up(self) -> None:
        """Wake up whoever waits for something on it."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.connection.close()

    def _mac(self, purpose: bytes, nonce: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, purpose + nonce + body, "sha256")

    def _send(self, purpose: bytes, nonce: bytes, body: Body) -> None:
        data = json.dumps(body).encode()
        self.connection.sendall(_LENGTH.pack(len(data)) + self._mac(purpose, nonce, data) + data)

    def _receive(self, purpose: bytes, nonce: bytes) -> Body:
        (size,) = _LENGTH.unpack(receive_exactly(self.connection, _LENGTH.size))
        if size > _LONGEST:
            raise Refused(f"a message of {size} bytes")
        mac, data = receive_exactly(self.connection, _MAC), receive_exactly(self.connection, size)
        if not hmac.compare_digest(mac, self._mac(purpose, nonce, data)):
            raise Refused("its token is not that of this group")
        body = json.loads(data)
        if not isinstance(body, dict):
            raise Refused("a message that is no object")
        return body


def receive_exactly(connection: socket.socket, size: int) -> bytes:
    """So many bytes.

    :raises OSError: they do not come.
    """
    data = bytearray(size)
    receive_into(connection, memoryview(data))
    return bytes(data)


def receive_into(connection: socket.socket, view: memoryview) -> None:
    """Fill ``view``.

    :raises OSError: what would fill it does not come.
    """
    while len(view):
        received = connection.recv_into(view)
        if not received:
            raise ConnectionResetError("the other side has closed the connection")
        view = view[received:]
