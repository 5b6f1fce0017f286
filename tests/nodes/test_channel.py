"""Messages between two supervisors, on real connections."""

from __future__ import annotations

import socket
import struct
import time

import pytest

from resilient.nodes.channel import Channel, ChannelClosed


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def pair(clock: Clock | None = None, silent: float = 5.0) -> tuple[Channel, socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    theirs = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    listener.close()
    theirs.settimeout(10)
    return Channel(ours, silent_seconds=silent, clock=clock or Clock()), theirs


def framed(body: bytes) -> bytes:
    return struct.pack("!I", len(body)) + body


def receive(channel: Channel, count: int = 1) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        found += channel.receive()
        time.sleep(0.001)
    return found


def test_messages_arrive_whole_in_order_however_they_are_cut() -> None:
    channel, theirs = pair()
    data = framed(b'{"op":"a"}') + framed(b"{}") + framed(b'{"op":"b","text":"' + b"x" * 5000 + b'"}')
    for start in range(0, len(data), 7):
        theirs.sendall(data[start : start + 7])
    assert [message["op"] for message in receive(channel, 2)] == ["a", "b"], "an empty one says only that it is there"


def test_what_the_network_does_not_take_at_once_is_sent_later_and_nothing_blocks() -> None:
    channel, theirs = pair()
    big = {"op": "big", "text": "y" * 20_000_000}
    channel.send(big)
    channel.send({"op": "small"})
    received = bytearray()
    while len(received) < 20_000_000:
        received += theirs.recv(1 << 20)
        channel.flush()
    while b'"small"' not in received[-40:]:
        channel.flush()
        received += theirs.recv(1 << 20)


def test_the_last_words_are_heard_before_the_end() -> None:
    channel, theirs = pair()
    theirs.sendall(framed(b'{"op":"last"}'))
    theirs.close()
    assert receive(channel) == [{"op": "last"}]
    with pytest.raises(ChannelClosed, match="closed"):
        receive(channel)


@pytest.mark.parametrize(
    "data", [framed(b"not json"), struct.pack("!I", 1 << 31), framed(b"[" * 200_000)], ids=["text", "length", "depth"]
)
def test_what_is_no_message_ends_the_connection(data: bytes) -> None:
    channel, theirs = pair()
    theirs.sendall(data)
    with pytest.raises(ChannelClosed):
        receive(channel)


def test_a_stranger_cannot_send_much() -> None:
    channel, theirs = pair()
    channel.most = 100
    theirs.sendall(framed(b'{"op":"' + b"a" * 200 + b'"}'))
    with pytest.raises(ChannelClosed, match="no message of ours"):
        receive(channel)


def test_silence_counts_as_loss_and_beats_show_that_we_are_there() -> None:
    clock = Clock()
    channel, theirs = pair(clock, silent=5.0)
    clock.now += 1.0
    channel.beat()
    assert theirs.recv(100) == framed(b"{}")
    clock.now += 3.9
    channel.beat()
    clock.now += 0.2
    with pytest.raises(ChannelClosed, match="nothing was heard"):
        channel.beat()
    channel.excuse()
    channel.beat()


def test_messages_behind_the_first_are_kept() -> None:
    channel, theirs = pair()
    theirs.sendall(framed(b'{"op":"welcome"}') + framed(b'{"op":"assign"}'))
    deadline = time.monotonic() + 10
    while not (first := channel.receive_one()) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert first == [{"op": "welcome"}]
    kept = channel.has_kept
    assert channel.receive() == [{"op": "assign"}] if kept else receive(channel) == [{"op": "assign"}]
