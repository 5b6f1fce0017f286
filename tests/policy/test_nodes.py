"""Which nodes train together, and with which ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError
from resilient.policy.nodes import Group, NodeSettings, assign, choose_nodes, patience

FOUR = NodeSettings(4, spares=1)
ELASTIC = NodeSettings(4, least=2)
TRAINED = Group(("a", "b", "c", "d"), formed=True)
TAKEN_OVER = Group(("a", "b", "c", "d"), cold=False)


def test_ranks_are_contiguous_and_the_leaders_are_the_first() -> None:
    assert assign({}, ["b", "a", "c"], "c", 2) == {"c": (0, 1), "b": (2, 3), "a": (4, 5)}


def test_a_spare_gets_the_ranks_of_the_node_that_is_lost_and_no_other_moves() -> None:
    before = assign({}, ["a", "b", "c"], "a", 2)
    assert assign(before, ["a", "c", "spare"], "a", 2) == {"a": (0, 1), "spare": (2, 3), "c": (4, 5)}


def test_a_new_leader_takes_the_first_ranks_and_leaves_its_own_to_whoever_comes() -> None:
    before = assign({}, ["a", "b", "c"], "a", 1)
    assert assign(before, ["b", "c", "spare"], "b", 1) == {"b": (0,), "spare": (1,), "c": (2,)}


def test_a_smaller_group_has_no_gaps() -> None:
    before = assign({}, ["a", "b", "c", "d"], "a", 2)
    assert assign(before, ["a", "b", "d"], "a", 2) == {"a": (0, 1), "b": (2, 3), "d": (4, 5)}


def test_another_number_of_ranks_on_each_node_begins_anew() -> None:
    before = assign({}, ["a", "b", "c"], "a", 2)
    assert assign(before, ["c", "b", "a"], "a", 1) == {"a": (0,), "c": (1,), "b": (2,)}


NODES = st.lists(st.sampled_from("abcdefgh"), unique=True, min_size=1)


@given(before=NODES, now=NODES, per_node=st.integers(1, 3), per_node_before=st.integers(1, 3))
def test_all_ranks_are_dealt_out_once_and_whoever_can_stay_does(
    before: list[str], now: list[str], per_node: int, per_node_before: int
) -> None:
    previous = assign({}, before, before[0], per_node_before)
    dealt = assign(previous, now, now[0], per_node)
    assert [rank for ranks in dealt.values() for rank in ranks] == list(range(len(now) * per_node))
    assert set(dealt) == set(now)
    assert next(iter(dealt)) == now[0]
    if per_node == per_node_before:
        wanted = {node: previous[node] for node in now[1:] if node in previous and previous[node][0] > 0}
        assert all(dealt[node] == ranks for node, ranks in wanted.items() if ranks[-1] < len(now) * per_node)


@pytest.mark.parametrize(
    ("settings", "group", "seen", "waited", "chosen"),
    [
        pytest.param(FOUR, Group(), "abcd", 0, "abcd", id="all are there"),
        pytest.param(FOUR, Group(), "abcde", 0, "abcd", id="one stands by"),
        pytest.param(FOUR, Group(), "abc", 599, None, id="a start has time"),
        pytest.param(FOUR, Group(), "abc", 600, "", id="but not for ever"),
        pytest.param(FOUR, TRAINED, "acd", 59, None, id="a lost node is waited for"),
        pytest.param(FOUR, TRAINED, "acd", 60, "", id="it does not come"),
        pytest.param(FOUR, TRAINED, "aecd", 0, "acde", id="a spare takes its place at once"),
        pytest.param(FOUR, TRAINED, "eabcd", 0, "eabc", id="the leader is always in it"),
        pytest.param(FOUR, TAKEN_OVER, "becd", 4, None, id="one that comes back is better than a spare"),
        pytest.param(FOUR, TAKEN_OVER, "becd", 5, "bcde", id="but it is lost"),
        pytest.param(FOUR, TAKEN_OVER, "bcda", 0, "bacd", id="all came back"),
        pytest.param(FOUR, TAKEN_OVER, "bcd", 60, "", id="who takes over waits no longer than for a lost node"),
        pytest.param(ELASTIC, TRAINED, "acd", 59, None, id="shrinking waits"),
        pytest.param(ELASTIC, TRAINED, "acd", 60, "acd", id="and is done then"),
        pytest.param(ELASTIC, TRAINED, "a", 60, "", id="not below the least"),
        pytest.param(ELASTIC, Group(("a", "c", "d"), formed=True), "acd", 0, "acd", id="nobody is waited for twice"),
        pytest.param(ELASTIC, Group(("a", "c", "d"), formed=True), "ad", 59, None, id="a second one is waited for"),
        pytest.param(ELASTIC, Group(("a", "c"), formed=True), "abcd", 0, "acbd", id="it grows again"),
        pytest.param(ELASTIC, Group(("a", "c"), formed=True), "acd", 0, "acd", id="in part, too"),
    ],
)
def test_who_trains(settings: NodeSettings, group: Group, seen: str, waited: float, chosen: str | None) -> None:
    assert choose_nodes(settings, group, seen, waited) == (None if chosen is None else tuple(chosen))


@given(
    settings=st.builds(NodeSettings, st.integers(3, 5), least=st.none() | st.integers(1, 3)),
    group=st.builds(Group, NODES.map(tuple) | st.just(()), st.booleans(), st.booleans()),
    seen=NODES,
    waited=st.floats(0, 1000),
)
def test_a_group_is_of_those_there_never_too_small_or_large_and_waiting_ends(
    settings: NodeSettings, group: Group, seen: list[str], waited: float
) -> None:
    chosen = choose_nodes(settings, group, seen, waited)
    if chosen:
        assert chosen[0] == seen[0]
        assert set(chosen) <= set(seen)
        assert settings.fewest <= len(chosen) <= settings.count
    else:
        assert (chosen is None) == (waited < patience(settings, group))
        assert chosen is None or len(seen) < settings.fewest


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"count": 0}, "nodes must be"),
        ({"count": 2, "spares": -1}, "nodes must be"),
        ({"count": 2, "least": 3}, "group.least"),
        ({"count": 2, "least": 0}, "group.least"),
        ({"count": 2, "wait_seconds": -1.0}, "group.wait_seconds"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, int], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        NodeSettings(**wrong)  # type: ignore[arg-type]
