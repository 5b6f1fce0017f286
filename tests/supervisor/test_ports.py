"""Each round has a port of its own, which nobody else gets meanwhile."""

from __future__ import annotations

import socket

from resilient.supervisor.ports import FreshPort


def test_every_round_has_another_port() -> None:
    ports = FreshPort()
    taken = [ports.take() for _ in range(20)]
    assert all(before != after for before, after in zip(taken, taken[1:], strict=False))
    ports.close()


def test_the_first_rank_can_listen_at_a_port_that_is_kept_for_it() -> None:
    ports = FreshPort()
    port = ports.take()
    with socket.socket() as store:
        store.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as torch's store does
        store.bind(("", port))
        store.listen()
        with socket.create_connection(("127.0.0.1", port), timeout=10):
            pass
    ports.close()


def test_nobody_who_asks_for_any_port_gets_it() -> None:
    ports = FreshPort()
    port = ports.take()
    found = set()
    for _ in range(200):
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind(("", 0))
            found.add(other.getsockname()[1])
    assert port not in found
    ports.close()
