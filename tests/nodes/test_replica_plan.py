"""Who copies what and when, and what can be put together from it: for all groups, losses and timings."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from resilient.nodes.replica_files import Image, Settled
from resilient.nodes.replica_plan import (
    Cadence,
    NodeState,
    find_steps,
    partners,
    pulls,
    ranks_of_images,
    sources,
)
from resilient.protocol.past import Began, Past, common_past
from resilient.protocol.peer_settings import PeerSettings

NODES, COPIES, STEPS = st.integers(2, 6), st.integers(1, 4), st.integers(1, 30)
PER_NODE = 2


def group(count: int) -> dict[str, list[int]]:
    return {f"n{node}": [PER_NODE * node + local for local in range(PER_NODE)] for node in range(count)}


def record(step: int, world: int, *, branch: str = "set") -> Settled:
    return Settled(f"{branch}-{step}", step, 1, 0, {rank: f"root of {rank}" for rank in range(world)})


def after_a_set(ranks: Mapping[str, list[int]], copies: int, step: int) -> dict[str, NodeState]:
    """What all nodes have when a set is settled."""
    world = sum(map(len, ranks.values()))
    settled = record(step, world)
    addresses = {node: f"{node}:1" for node in ranks}
    wanted = pulls(ranks, copies, step, dict.fromkeys(range(world), 7), addresses)
    return {
        node: NodeState(
            addresses[node],
            (
                *(Image(rank, step, 7) for rank in own),
                *(Image(source.rank, step, 1, settled.set) for source in wanted[node]),
            ),
            settled,
        )
        for node, own in ranks.items()
    }


@given(NODES, COPIES)
def test_every_image_is_copied_to_as_many_other_nodes_as_are_wanted(count: int, copies: int) -> None:
    ranks = group(count)
    wanted = pulls(ranks, copies, 5, dict.fromkeys(range(2 * count), 7), {node: f"{node}:1" for node in ranks})
    where: dict[int, list[str]] = {rank: [] for rank in range(2 * count)}
    for node, images in wanted.items():
        assert not {source.rank for source in images} & set(ranks[node]), "nobody is its own partner"
        for source in images:
            where[source.rank].append(node)
            (owner,) = (other for other, own in ranks.items() if source.rank in own)
            assert source.address == f"{owner}:1"
    assert all(len(nodes) == len(set(nodes)) == min(copies, count - 1) for nodes in where.values())
    loads = {len(images) for images in wanted.values()}
    assert len(loads) == 1, "all nodes have the same to do"


def test_a_ring_of_two_is_a_pair() -> None:
    assert partners(["a", "b"], 3) == {"a": ("b",), "b": ("a",)}


@given(NODES, COPIES, STEPS, st.data())
def test_as_many_nodes_can_be_lost_as_there_are_copies(count: int, copies: int, step: int, data: st.DataObject) -> None:
    ranks = group(count)
    states = after_a_set(ranks, copies, step)
    most = min(copies, count - 1)
    lost = data.draw(st.sets(st.sampled_from(sorted(ranks)), max_size=most))
    there = {node: state for node, state in states.items() if node not in lost}
    found, *_ = find_steps(there, 2 * count)
    assert (found.step, found.set) == (step, f"set-{step}")
    node = data.draw(st.sampled_from(sorted(there)))
    there["spare"] = NodeState("spare:1")
    for rank in range(2 * count):
        for asker in (node, "spare"):
            places = sources(found, rank, asker, there)
            known = [place.address for place in places]
            assert not {f"{other}:1" for other in lost} & set(known), "nobody who is gone is asked"
            assert places or (asker == node and rank in ranks[node])
            assert f"{asker}:1" not in known, "what lies here is not fetched over the network"
    written = ranks_of_images(found, there)
    assert sorted(rank for own in written.values() for rank in own) == list(range(2 * count)), "each rank once"
    for writer, own in written.items():
        assert all((writer, name) in found.where[rank] for rank, name in own.items())


IMAGES = st.lists(
    st.builds(Image, st.integers(0, 2), st.integers(1, 4), st.just(1), st.sampled_from(["", "s-1", "s-2"]))
)


ROUNDS = [Began(1, 0, 0), Began(1, 1, 2), Began(2, 2, 3)]
PASTS = st.builds(Past, st.just(2), st.sampled_from([(), *(tuple(ROUNDS[:count]) for count in (1, 2, 3))]))


@given(
    st.dictionaries(
        st.sampled_from("abc"), st.tuples(IMAGES, st.sampled_from([None, 1, 2]), st.none() | PASTS), max_size=3
    ),
    st.sampled_from([1, 2, 3, 9]),
)
def test_what_is_found_is_whole_and_of_one_set_or_of_one_past(
    nodes: dict[str, tuple[list[Image], int | None, Past | None]], discarded: int
) -> None:
    states = {
        node: NodeState(f"{node}:1", tuple(images), None if step is None else record(step, 2, branch="s"), past)
        for node, (images, step, past) in nodes.items()
    }
    found = find_steps(states, 2, counts=lambda step, _term, _round: step < discarded)
    for each in found:
        assert each.where.keys() == {0, 1}
        assert each.step < discarded, "what is off the lineage is nothing"
        for rank, places in each.where.items():
            for node, name in places:
                assert name in ("", each.set), "images of two sets are never put together"
                assert any(
                    (image.rank, image.step, image.set) == (rank, each.step, name) for image in states[node].images
                )
        if each.set:
            assert each.roots.keys() == {0, 1}, "each image can be told from others of its step"
        else:
            there = {node for places in each.where.values() for node, _ in places}
            common = common_past(states[node].past for node in there)
            assert common is not None
            assert common.holds(each.step)
    assert [each.step for each in found] == sorted((each.step for each in found), reverse=True)
    assert find_steps(states, 3) == [], "what is of another number of ranks is nothing"


@given(
    st.builds(
        PeerSettings,
        every_seconds=st.sampled_from([0.0, 5.0, 60.0]),
        every_steps=st.sampled_from([0, 1, 7]),
        share=st.sampled_from([0.01, 0.1, 0.5, 1.0]),
        cpu_share=st.sampled_from([0.01, 0.1, 1.0]),
    ),
    st.lists(
        st.tuples(
            st.integers(0, 3), st.floats(0.01, 20.0), st.sampled_from(["set", "set", "fails", "back"]), st.booleans()
        ),
        max_size=40,
    ),
)
def test_sets_are_made_when_they_are_due_and_of_newer_steps_only(
    settings: PeerSettings, story: list[tuple[int, float, str, bool]]
) -> None:
    cadence, now, newest = Cadence(settings), 100.0, 10
    for steps, seconds, outcome, held in story:
        newest, now = newest + steps, now + seconds
        chosen = cadence.choose(newest, [newest - 1] if held else [], now)
        if outcome == "back":
            newest = max(1, newest - 5)
            cadence = cadence.gone_back(newest)
            assert cadence.step is None or cadence.step <= newest
            continue
        if chosen is None:
            continue
        assert chosen in (newest, newest - 1)
        if cadence.step is not None:
            assert chosen > cadence.step
            idle = max(
                1.0, cadence.seconds * (1 / settings.share - 1), cadence.busy / settings.cpu_share - cadence.seconds
            )
            by_steps = settings.every_steps and newest >= cadence.step + settings.every_steps
            by_time = settings.every_seconds and now >= cadence.began + settings.every_seconds
            either = settings.every_steps or settings.every_seconds
            assert by_steps or by_time or (not either and now - cadence.ended >= idle - 1e-6)
        began, now = now, now + seconds
        cadence = cadence.succeeded(chosen, began, now, seconds / 8) if outcome == "set" else cadence.failed(now)
        assert outcome == "set" or cadence.choose(newest + 1000, [], now) is None, "a failure is not repeated at once"


def test_after_failures_it_is_tried_again_ever_more_rarely_but_always() -> None:
    cadence, pauses, now = Cadence(PeerSettings()), [], 0.0
    for _ in range(12):
        cadence = cadence.failed(now)
        pauses.append(cadence.pause)
        assert cadence.choose(1, [], now + cadence.pause) == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == pauses[-2] <= 60.0
