"""Who may join the leader, and how it is noticed that somebody is gone."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from resilient.errors import ConfigurationError
from resilient.nodes.channel import Channel, Message
from resilient.nodes.greeting import Greeting, greet
from resilient.nodes.hub import Handlers, Hub
from resilient.protocol.terms import Term

SECRET = "a-secret-of-this-term"


class Leader:
    """A hub that is served by a thread, and what happened to it."""

    def __init__(self, silent: float = 30.0) -> None:
        self.joined: list[str] = []
        self.lost: list[tuple[str, str]] = []
        self.heard: list[tuple[str, Message]] = []
        self.refusal = ""
        handlers = Handlers(
            self._join,
            lambda name, why: self.lost.append((name, why)),
            {"news": lambda name, message: self.heard.append((name, message))},
        )
        self.hub = Hub("127.0.0.1", SECRET, handlers, silent_seconds=silent, clock=time.monotonic)
        self.term = Term(1, "n1", f"127.0.0.1:{self.hub.port}", SECRET)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _join(self, name: str, _hello: Mapping[str, Any]) -> str:
        self.joined.append(name)
        return self.refusal

    def _serve(self) -> None:
        while not self._stop.is_set():
            self.hub.handle()
            self.hub.tick()
            time.sleep(0.002)

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self.hub.close()


@pytest.fixture
def leader() -> Iterator[Leader]:
    made = Leader()
    yield made
    made.close()


def hello(name: str = "n2") -> Greeting:
    return Greeting(name, 1, "v", (1,))


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_node_joins_is_heard_and_is_lost_when_it_ends(leader: Leader) -> None:
    channel = greet(leader.term, hello(), silent_seconds=30)
    assert isinstance(channel, Channel)
    channel.send({"op": "news", "n": 1})
    eventually(lambda: leader.heard == [("n2", {"op": "news", "n": 1})])
    leader.hub.post("n2", {"op": "kill"})
    eventually(lambda: [m for m in channel.receive() if m.get("op") == "kill"])
    channel.close()
    eventually(lambda: leader.lost == [("n2", "the connection was closed")])
    assert leader.hub.post("n2", {"op": "kill"}) == 0


def test_who_knows_another_secret_is_not_let_in_and_looks_again_who_leads(leader: Leader) -> None:
    before = Term(1, "n1", leader.term.address, "the-secret-of-the-term-before")
    assert greet(before, hello(), silent_seconds=30) is None, "a new supervisor may listen where the one before did"
    assert leader.joined == []


def test_two_nodes_of_one_name_cannot_be(leader: Leader) -> None:
    first = greet(leader.term, hello(), silent_seconds=30)
    assert first is not None
    assert greet(leader.term, hello(), silent_seconds=30) is None, "it may be what is left of a lost connection"
    first.close()
    eventually(lambda: leader.lost)
    again = greet(leader.term, hello(), silent_seconds=30)
    assert again is not None
    again.close()


def test_the_leader_s_reason_is_told(leader: Leader) -> None:
    leader.refusal = "worker.ranks is 4 there and 2 at the leader"
    with pytest.raises(ConfigurationError, match=r"n1, which leads the run, does not take node n2: worker\.ranks is 4"):
        greet(leader.term, hello(), silent_seconds=30)


def test_nobody_there_is_no_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert greet(Term(1, "n1", f"127.0.0.1:{port}", SECRET), hello(), silent_seconds=30) is None


def test_strangers_that_say_nothing_or_nonsense_harm_nobody(leader: Leader) -> None:
    address = ("127.0.0.1", leader.hub.port)
    silent = [socket.create_connection(address) for _ in range(20)]
    rude = socket.create_connection(address)
    rude.sendall(b"GET / HTTP/1.1\r\n\r\n")
    channel = greet(leader.term, hello(), silent_seconds=30)
    assert channel is not None
    rude.settimeout(20)
    assert rude.recv(10) == b"", "what is no greeting ends the connection"
    for one in (*silent, rude):
        one.close()
    channel.close()


def test_a_node_that_says_nothing_any_more_is_lost() -> None:
    leader = Leader(silent=0.5)
    try:
        channel = greet(leader.term, hello(), silent_seconds=30)
        assert channel is not None
        eventually(lambda: leader.lost)
        assert "nothing was heard of it" in leader.lost[0][1]
    finally:
        leader.close()
