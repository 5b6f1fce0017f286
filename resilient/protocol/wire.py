"""Messages between the supervisor and its helper processes (forkserver and drain).

One JSON object per datagram on a ``SOCK_SEQPACKET`` socket pair: boundaries are kept by the kernel, and the death of
either side reads as an empty datagram.
"""

from __future__ import annotations

import json
import os
import socket
from typing import Any

_LIMIT = 1 << 18

Message = dict[str, Any]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * _LIMIT)
    return ours, theirs


def send(connection: socket.socket, message: Message) -> None:
    """Send one message.

    :raises BrokenPipeError: the other side is gone.
    """
    connection.send(json.dumps(message).encode())


def receive(connection: socket.socket) -> Message | None:
    """The next message, or None when the other side is gone."""
    try:
        data = connection.recv(_LIMIT)
    except ConnectionResetError:
        return None
    return json.loads(data) if data else None


def own_end(arguments: list[str]) -> socket.socket:
    """In a helper process: its end of the pair, the first of its arguments.

    The second is the run's lock, which stays open here and in forked children, so that the run is locked until all
    are gone; -1 for none. Programs that any of them starts get neither.
    """
    connection, lock = socket.socket(fileno=int(arguments[0])), int(arguments[1])
    os.set_inheritable(connection.fileno(), False)
    if lock >= 0:
        os.set_inheritable(lock, False)
    return connection
