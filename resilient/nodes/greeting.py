"""How a node joins the leader: it connects, shows that it knows the secret of the term, and says what it has."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from resilient.errors import ConfigurationError
from resilient.nodes.channel import Channel, ChannelClosed
from resilient.protocol.terms import Term

_CONNECT_SECONDS = 2.0
_ANSWER_SECONDS = 10.0
_LOOK_SECONDS = 0.05


@dataclass(frozen=True)
class Greeting:
    """What a node says of itself.

    :param per_node: how many ranks it can have.
    :param version: what all nodes must agree on.
    :param ranks: those of which it has images in memory.
    """

    node: str
    per_node: int
    version: str
    ranks: tuple[int, ...]


def greet(
    term: Term, greeting: Greeting, *, silent_seconds: float, interrupted: Callable[[], bool] = lambda: False
) -> Channel | None:
    """Connect to the leader of that term; None where it cannot be reached now, or ``interrupted``.

    :raises ConfigurationError: it does not want this node, and says why.
    """
    host, _, port = term.address.rpartition(":")
    try:
        connection = socket.create_connection((host, int(port)), _CONNECT_SECONDS)
    except OSError:
        return None
    channel = Channel(connection, silent_seconds=silent_seconds, clock=time.monotonic)
    channel.send(
        {
            "op": "hello",
            "token": term.token,
            "node": greeting.node,
            "per_node": greeting.per_node,
            "version": greeting.version,
            "ranks": list(greeting.ranks),
        }
    )
    until = time.monotonic() + _ANSWER_SECONDS
    with selectors.DefaultSelector() as selector, suppress(ChannelClosed):
        selector.register(channel, selectors.EVENT_READ)
        while time.monotonic() < until and not interrupted():
            channel.flush()
            selector.select(_LOOK_SECONDS)
            for message in channel.receive_one():
                if message.get("op") == "welcome":
                    return channel
                why = str(message.get("why", "it does not say why"))
                channel.close()
                if message.get("again"):
                    return None
                raise ConfigurationError(
                    f"node {term.node}, which leads the run, does not take node {greeting.node}: {why}",
                    "start the same command with the same configuration on all nodes",
                )
    channel.close()
    return None
