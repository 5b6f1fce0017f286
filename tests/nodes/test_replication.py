"""Images in other nodes' memory: real helpers, real sockets, and whatever can go wrong between them."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from resilient.nodes.node_replicas import Message
from resilient.nodes.peer_link import Link, Refused
from resilient.policy import events as on
from resilient.protocol.arena import Loan
from resilient.protocol.past import Began, Past
from resilient.supervisor.drain import Drain
from resilient.supervisor.drain_answers import Persisted
from tests.nodes.neighbours import Cluster, Node, content

TWO = {"a": [0, 1], "b": [2, 3]}
THREE = {"a": [0], "b": [1], "c": [2]}


@pytest.fixture
def made() -> Iterator[list[Cluster]]:
    clusters: list[Cluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.fixture
def cluster(tmp_path: Path, made: list[Cluster]) -> Cluster:
    made.append(Cluster(tmp_path / "two", TWO))
    made[-1].begin()
    return made[-1]


@pytest.fixture
def three(tmp_path: Path, made: list[Cluster]) -> Cluster:
    made.append(Cluster(tmp_path / "three", THREE))
    made[-1].begin()
    return made[-1]


def train(cluster: Cluster, *steps: int) -> None:
    for node in cluster.nodes.values():
        node.train(*steps)


def expected(cluster: Cluster, step: int) -> dict[str, dict[int, bytes]]:
    return {name: {rank: content(rank, step) for rank in node.ranks} for name, node in cluster.nodes.items()}


def images(cluster: Cluster, step: int) -> dict[str, dict[int, bytes]]:
    return {name: node.images(step) for name, node in cluster.nodes.items()}


def lose_and_replace(cluster: Cluster, name: str) -> None:
    """A node is gone, and a spare takes its ranks."""
    ranks = cluster.nodes[name].ranks
    cluster.lose(name)
    cluster.join(f"spare for {name}", ranks)


# --- the loss of a node


@pytest.mark.parametrize("lost", ["a", "b"])
def test_after_the_loss_of_a_node_its_ranks_go_on_from_what_its_partner_has(cluster: Cluster, lost: str) -> None:
    train(cluster, 1, 2)
    cluster.replicate(2)
    train(cluster, 3, 4, 5, 6)  # the others' own images of step 2 are still there after that
    lose_and_replace(cluster, lost)
    assert cluster.peer_step() == 2
    assert cluster.restore(2) == on.SnapshotRestored(2, on.Tier.PEER)
    assert images(cluster, 2) == expected(cluster, 2)
    assert all(node.memory.newest_step() == 2 for node in cluster.nodes.values()), "nothing newer is a snapshot now"
    (slot, *_) = (cluster.nodes[f"spare for {lost}"].memory.slots_of(2) or {}).values()
    assert slot.meta == {"metrics": {"loss": 1.0}}


def test_as_many_nodes_as_there_are_copies_can_be_lost_and_not_one_more(tmp_path: Path, made: list[Cluster]) -> None:
    cluster = Cluster(tmp_path / "copies", THREE, copies=2)
    made.append(cluster)
    cluster.begin()
    train(cluster, 7)
    cluster.replicate(7)
    for name in ("a", "b"):
        lose_and_replace(cluster, name)
    assert isinstance(cluster.restore(7), on.RestoreFailed), "nobody has spoken with the spares yet"
    assert cluster.peer_step() == 7
    assert cluster.restore(7) == on.SnapshotRestored(7, on.Tier.PEER)
    assert images(cluster, 7) == expected(cluster, 7)
    cluster.lose("c")
    for name in ("spare for a", "spare for b"):  # what they have fetched is of no set
        cluster.nodes[name].memory.void()
    assert cluster.peer_step() is None


def test_with_one_copy_two_neighbours_are_one_too_many(three: Cluster) -> None:
    train(three, 7)
    three.replicate(7)
    for name in ("a", "b"):
        lose_and_replace(three, name)
    assert three.peer_step() is None


def test_ranks_that_are_dealt_out_otherwise_find_their_images_with_their_former_nodes(three: Cluster) -> None:
    train(three, 4, 5)
    for name, ranks in {"a": [1], "b": [2], "c": [0]}.items():
        three.nodes[name].take(ranks)
    assert three.peer_step() == 5
    assert three.restore(5) == on.SnapshotRestored(5, on.Tier.PEER)
    assert images(three, 5) == expected(three, 5)


def test_a_successor_of_the_leader_finds_what_the_one_before_had_copied(cluster: Cluster) -> None:
    train(cluster, 3)
    cluster.replicate(3)
    cluster.elect()
    lose_and_replace(cluster, "a")
    assert cluster.peer_step() == 3
    cluster.leader.counts = lambda _step, term, _round: term != 1
    assert cluster.peer_step() is None, "what is not on the branch of the run that goes on is none"


def test_a_successor_goes_on_from_newer_images_than_were_copied(cluster: Cluster) -> None:
    train(cluster, 3)
    cluster.replicate(3)
    train(cluster, 4, 5)
    cluster.nodes["b"].train(6)
    cluster.elect()
    cluster.nodes["a"].take([2, 3])
    cluster.nodes["b"].take([0, 1])
    assert cluster.peer_step() == 5, "step 6 is not whole"
    assert cluster.restore(5) == on.SnapshotRestored(5, on.Tier.PEER)
    assert images(cluster, 5) == expected(cluster, 5)
    assert cluster.peer_step() == 5, "they still belong together, should the leader be lost again"


def test_a_node_that_was_away_while_others_went_on_is_trusted_as_far_as_it_had_the_same_past(cluster: Cluster) -> None:
    a, b = cluster.nodes.values()
    begun = a.memory.past
    assert begun is not None
    train(cluster, 2, 3, 4, 5)
    a.memory.forget_newer(3)
    a.memory.mark(begun.followed_by(Began(1, 1, 3)))
    a.train(4, 5, branch=1)
    for node, ranks in ((a, [2, 3]), (b, [0, 1])):
        node.take(ranks)
    assert cluster.peer_step() == 3
    assert cluster.restore(3) == on.SnapshotRestored(3, on.Tier.PEER)
    assert images(cluster, 3) == expected(cluster, 3)
    assert a.memory.past == b.memory.past == begun
    a.memory.mark(Past(4))
    assert cluster.peer_step() == 3, "the other has all of it by now"
    b.memory.mark(Past(4))
    assert cluster.peer_step() is None, "what is not known to belong together is not put together"


def test_a_rank_s_own_image_of_another_past_is_not_taken_for_what_is_restored(cluster: Cluster) -> None:
    train(cluster, 5)
    stale = cluster.join("stale", [2, 3])
    stale.memory.mark(Past(4, (Began(1, 7, 0),)))
    stale.train(5, branch=1)
    cluster.open()
    ranks = {"a": [0, 1], "stale": [2, 3]}
    cluster.leader.restore(5, ranks)
    events: list[on.Event | None] = []
    cluster.until(lambda: any(events), lambda: events.append(cluster.leader.take()))
    assert events[-1] == on.SnapshotRestored(5, on.Tier.PEER)
    assert stale.images(5) == {rank: content(rank, 5) for rank in (2, 3)}
    assert [slot.info().complete for slot in stale.memory.arenas[2].slots].count(True) == 1, "the other one is gone"


def test_the_drain_writes_a_lost_nodes_ranks_from_their_replicas(cluster: Cluster) -> None:
    train(cluster, 3)
    cluster.replicate(3)
    cluster.lose("a")
    cluster.open()
    whole = cluster.leader.newest()
    assert whole is not None
    (found, where), node = whole, cluster.nodes["b"]
    assert found.step == 3
    assert {name: sorted(ranks) for name, ranks in where.items()} == {"b": [0, 1, 2, 3]}
    slots = cluster.nodes["b"].part.slots_of(3, where["b"])
    assert slots is not None
    drain = Drain(node.paths.snapshots, lock=node.lock.fileno(), log=node.root / "drain.log")
    details: dict[str, Any] = {"run_id": "run", "round": 0, "parent": None, "versions": {}, "retention": {}}
    drain.persist(3, slots, details)
    answers: list[Any] = []
    cluster.until(lambda: any(isinstance(answer, Persisted) for answer in answers), lambda: _next(drain, answers))
    drain.close()
    for rank, slot in slots.items():
        slot.close()
        assert (node.paths.snapshot(3) / f"rank-{rank:05d}.safetensors").read_bytes() == content(rank, 3)


def _next(drain: Drain, answers: list[Any]) -> None:
    answers.append(drain.receive())


# --- what training does meanwhile


def test_what_is_overwritten_while_it_is_copied_is_noticed(cluster: Cluster) -> None:
    train(cluster, 1)
    cluster.replicate(1)
    train(cluster, 2)

    def overwrite(node: str, message: Message) -> Message | None:
        if message["op"] == "peer_keep" and node == "a":
            slot = cluster.nodes["a"].memory.arenas[1].find(2)
            assert slot is not None
            slot.begin(3, 5)
        return message

    cluster.passing = overwrite
    assert "overwritten" in cluster.fail_to_replicate(2)
    cluster.passing = lambda _node, message: message
    lose_and_replace(cluster, "b")
    assert cluster.peer_step() == 1
    assert cluster.restore(1) == on.SnapshotRestored(1, on.Tier.PEER)
    assert images(cluster, 1) == expected(cluster, 1)


def test_what_is_overwritten_before_it_is_pulled_is_not_taken_for_what_was_lent(cluster: Cluster) -> None:
    train(cluster, 2)

    def overwrite(node: str, message: Message) -> Message | None:
        if message["op"] == "peer_pull" and node == "a":
            for rank in (2, 3):
                slot = cluster.nodes["b"].memory.arenas[rank].find(2)
                assert slot is not None
                slot.begin(2, 5)
                slot.complete(9, {}, hold=False)
        return message

    cluster.passing = overwrite
    assert "has no image of step 2" in cluster.fail_to_replicate(2)


def test_a_step_that_one_rank_lacks_is_not_lent(cluster: Cluster) -> None:
    train(cluster, 1)
    cluster.nodes["a"].train(2)
    assert "b: not all ranks have an image of step 2" in cluster.fail_to_replicate(2)
    arenas = [arena for node in cluster.nodes.values() for arena in node.memory.arenas.values()]
    loans = {slot.info().lent for arena in arenas for slot in arena.slots}
    assert loans == {Loan.NONE}, "what was lent for it is not any more"


def test_what_was_reported_is_written_down_before_the_run_could_go_on_behind_it_elsewhere(cluster: Cluster) -> None:
    train(cluster, 1)
    seen: list[set[Loan]] = []

    def write_down(node: Node) -> None:
        seen.append({slot.info().lent for arena in node.memory.arenas.values() for slot in arena.slots})

    for node in cluster.nodes.values():
        node.part.before_lend = partial(write_down, node)
    cluster.replicate(1)
    assert seen == [{Loan.NONE}, {Loan.NONE}], "once on each node, before anything is lent"


def test_what_a_killed_supervisor_had_lent_is_free_and_what_it_had_copied_is_kept(cluster: Cluster) -> None:
    train(cluster, 1)
    cluster.replicate(1)
    train(cluster, 2)
    cluster.passing = lambda _node, message: None if message["op"] == "peer_pull" else message
    cluster.now += 1000.0
    cluster.leader.poll(2)
    lent = {1: Loan.KEPT, 2: Loan.COPYING}
    node = cluster.nodes["a"]

    def loans() -> dict[int, Loan]:
        return {slot.info().step: slot.info().lent for slot in node.memory.arenas[0].slots if slot.info().complete}

    cluster.until(lambda: loans() == lent)
    node.memory.release_all()  # as every supervisor does when it begins
    assert set(loans().values()) == {Loan.NONE}
    node.part.adopt()
    assert loans() == {1: Loan.KEPT, 2: Loan.NONE}


def test_a_rollback_discards_copies_of_what_it_discards(cluster: Cluster) -> None:
    train(cluster, 5)
    cluster.replicate(5)
    cluster.leader.end_round()
    cluster.leader.gone_back(4)
    for node in cluster.nodes.values():
        node.memory.forget_newer(4)
    assert cluster.peer_step() is None
    cluster.begin()
    for node in cluster.nodes.values():
        node.train(5, branch=1)
    cluster.replicate(5)
    lose_and_replace(cluster, "a")
    cluster.open()
    assert cluster.restore(5) == on.SnapshotRestored(5, on.Tier.PEER)
    spare = cluster.nodes["spare for a"]
    assert spare.images(5) == {rank: content(rank, 5, branch=1) for rank in (0, 1)}


def test_images_of_two_branches_are_never_put_together(cluster: Cluster) -> None:
    train(cluster, 5)
    cluster.replicate(5)
    slot = cluster.nodes["b"].memory.arenas[2].find(5)
    assert slot is not None
    slot.image[-1] ^= 1  # as if it were of another branch, or a bit had flipped
    lose_and_replace(cluster, "a")  # with the one copy of rank 2's image
    assert cluster.peer_step() == 5
    event = cluster.restore(5)
    assert isinstance(event, on.SnapshotRejected)
    assert event.tier is on.Tier.PEER
    assert "rank 2's own image is not the one that was copied" in event.reason
    assert cluster.nodes["spare for a"].memory.newest_step() is None, "what was fetched with it is no snapshot"
    assert cluster.peer_step() is None, "it is not tried again"


# --- what goes wrong on the way


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_helper_that_is_killed_while_it_copies_costs_one_set(cluster: Cluster, side: str) -> None:
    train(cluster, 1)
    cluster.replicate(1)
    train(cluster, 2)

    def kill(node: str, message: Message) -> Message | None:
        if message["op"] == "peer_pull" and node == "b":
            os.kill(cluster.nodes[side].replicas.pid, signal.SIGSTOP)  # so that it is killed in the middle of it
            threading.Timer(0.2, os.kill, (cluster.nodes[side].replicas.pid, signal.SIGKILL)).start()
        return message

    cluster.passing = kill
    assert cluster.fail_to_replicate(2)
    cluster.passing = lambda _node, message: message
    assert cluster.peer_step() == 1 or cluster.leader.found(4) is not None
    cluster.replicate(2)
    lose_and_replace(cluster, "a")
    assert cluster.peer_step() == 2
    assert cluster.restore(2) == on.SnapshotRestored(2, on.Tier.PEER)
    assert images(cluster, 2) == expected(cluster, 2)


@pytest.mark.parametrize("side", ["a", "b"])
def test_a_helper_that_is_stopped_blocks_nobody_for_ever(cluster: Cluster, side: str) -> None:
    train(cluster, 1)
    cluster.replicate(1)
    train(cluster, 2)
    cluster.nodes[side].replicas.patience_seconds = 3.0
    os.kill(cluster.nodes[side].replicas.pid, signal.SIGSTOP)
    assert cluster.fail_to_replicate(2)
    assert cluster.peer_step() is not None, "it was killed, and its successor serves"
    cluster.replicate(2)


def test_a_node_that_is_lost_in_the_middle_of_it_leaves_the_last_set(three: Cluster) -> None:
    train(three, 1)
    three.replicate(1)
    train(three, 2)
    three.leader.poll(2)
    three.now += 1000.0
    three.leader.poll(2)
    lose_and_replace(three, "b")
    assert three.peer_step() == 1
    assert three.restore(1) == on.SnapshotRestored(1, on.Tier.PEER)
    assert images(three, 1) == expected(three, 1)


class Meddler:
    """Stands between a node's server and whoever asks it, and changes one byte of an image on its way."""

    def __init__(self, address: str, meddle: Callable[[int, bytearray], None]) -> None:
        self._target, self._meddle = address.rpartition(":"), meddle
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((self._target[0], int(self._target[2])))
            threading.Thread(target=self._pass, args=(near, far, None), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, self._meddle), daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, meddle: Any) -> None:
        passed = 0
        with source, target:
            with suppress(OSError):
                while data := bytearray(source.recv(1 << 16)):
                    if meddle is not None:
                        meddle(passed, data)
                    passed += len(data)
                    target.sendall(data)
            for end in (source, target):
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


def through(meddler: Meddler, asks: str) -> Callable[[str, Message], Message | None]:
    """What a node asks of others goes through a meddler."""

    def passing(node: str, message: Message) -> Message | None:
        for image in message.get("images", ()) if node == asks else ():
            for source in image.get("sources", [image]):
                source["address"] = source["address"] and meddler.address
        return message

    return passing


def flip(passed: int, data: bytearray) -> None:
    if passed <= 5 << 20 < passed + len(data):
        data[(5 << 20) - passed] ^= 4


def test_a_byte_that_changes_on_its_way_is_noticed_and_never_resumed_from(cluster: Cluster) -> None:
    train(cluster, 1)
    cluster.replicate(1)
    train(cluster, 2)
    meddler = Meddler(cluster.leader._states["a"].address, flip)
    cluster.passing = through(meddler, "b")
    assert "damaged on their way" in cluster.fail_to_replicate(2)
    meddler.close()
    cluster.passing = lambda _node, message: message
    lose_and_replace(cluster, "a")
    assert cluster.peer_step() == 1
    meddler = Meddler(cluster.leader._states["b"].address, flip)
    cluster.passing = through(meddler, "spare for a")
    event = cluster.restore(1)
    meddler.close()
    assert isinstance(event, on.SnapshotRejected)
    assert "damaged on their way" in event.reason
    assert cluster.nodes["spare for a"].memory.newest_step() is None


def test_a_partner_that_takes_the_connection_and_says_nothing_is_given_up(cluster: Cluster) -> None:
    train(cluster, 1)
    with socket.create_server(("127.0.0.1", 0)) as silent:

        def passing(_node: str, message: Message) -> Message | None:
            for image in message.get("images", ()):
                image["address"] = f"127.0.0.1:{silent.getsockname()[1]}"
            return message

        cluster.passing = passing
        assert "timed out" in cluster.fail_to_replicate(1)
    cluster.passing = lambda _node, message: message
    cluster.replicate(1)


def test_a_limit_is_kept_and_a_copy_that_is_not_wanted_any_more_is_cut_off(tmp_path: Path, made: list[Cluster]) -> None:
    cluster = Cluster(tmp_path / "slow", {"a": [0], "b": [1]}, bytes_per_second=float(1 << 20))
    made.append(cluster)
    cluster.begin()
    for node in cluster.nodes.values():
        node.train(1, size=100 << 20)  # minutes at that rate
    cluster.leader.poll(1)
    cluster.until(lambda: cluster.leader._attempt is not None and cluster.leader._attempt.move == "pull")
    for _ in range(50):
        cluster.turn()
    cluster.leader.end_round()
    cluster.until(lambda: not any(node.replicas.busy for node in cluster.nodes.values()))
    assert cluster.notes("Replicated") == []
    assert cluster.peer_step() == 1, "it is in the ranks' own slots"


# --- who may ask


def test_nobody_gets_anything_without_the_groups_token(cluster: Cluster) -> None:
    train(cluster, 1)
    address = cluster.leader._states["a"].address
    request = {"rank": 0, "step": 1, "set": "", "begun": None}
    link = Link.ask(address, "another", request, 10.0)
    with pytest.raises(ConnectionError):
        link.receive_answer()
    link.close()
    link = Link.ask(address, "the group's", request, 10.0)
    assert link.receive_answer()["size"] == len(content(0, 1))
    link.close()
    link = Link.ask(address, "the group's", {**request, "rank": 3}, 10.0)
    with pytest.raises(Refused, match="no image of step 1"):
        link.receive_answer()
    link.close()
    cluster.open("of another term")
    link = Link.ask(address, "the group's", request, 10.0)
    with pytest.raises(ConnectionError):
        link.receive_answer()
    link.close()


def test_an_answer_of_somebody_who_has_not_the_token_is_not_believed(cluster: Cluster) -> None:
    train(cluster, 1)
    meddler = Meddler(cluster.leader._states["a"].address, _forge)
    link = Link.ask(meddler.address, "the group's", {"rank": 0, "step": 1, "set": "", "begun": None}, 10.0)
    with pytest.raises((Refused, OSError)):
        link.receive_answer()
    link.close()
    meddler.close()


def _forge(passed: int, data: bytearray) -> None:
    if passed == 32:  # behind the nonce: a length, a keyed hash, and what it is of
        data[32 + 4 + 10] ^= 1
