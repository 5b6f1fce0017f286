"""Messages between a supervisor and its helpers."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator

import pytest

from resilient.protocol import wire


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = wire.socket_pair()
    yield ends
    for end in ends:
        end.close()


def test_messages_arrive_one_by_one_as_they_were_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    sent: list[wire.Message] = [{"op": "launch", "rank": 0}, {}, {"text": "größe\n\0", "list": [1, None, 2.5]}]
    for message in sent:
        wire.send(ours, message)
    assert [wire.receive(theirs) for _ in sent] == sent


def test_a_long_message_arrives_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    message = {"environment": "x" * 200_000}
    assert len(json.dumps(message)) < 1 << 18
    wire.send(ours, message)
    assert wire.receive(theirs) == message


def test_the_end_of_the_other_side_is_none(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    wire.send(ours, {"last": "words"})
    ours.close()
    assert wire.receive(theirs) == {"last": "words"}
    assert wire.receive(theirs) is None


def test_sending_to_the_dead_is_a_broken_pipe(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        wire.send(ours, {"op": "launch"})


def test_a_helper_keeps_its_end_and_the_lock_from_the_programs_it_starts(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    lock = os.open(os.devnull, os.O_RDONLY)
    descriptor = os.dup(theirs.fileno())
    for number in (lock, descriptor):
        os.set_inheritable(number, True)
    own = wire.own_end([str(descriptor), str(lock), "module"])
    assert not os.get_inheritable(descriptor)
    assert not os.get_inheritable(lock)
    wire.send(ours, {"op": "launch"})
    assert wire.receive(own) == {"op": "launch"}
    own.close()
    os.close(lock)
