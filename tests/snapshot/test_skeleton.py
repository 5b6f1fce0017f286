"""A tree's skeleton renders to the same JSON as the tree itself, and fits no tree that has another one."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import StateError
from resilient.snapshot import tree
from resilient.snapshot.skeleton import Parts, Skeleton


def no_leaf(path: str, value: Any) -> None:
    return None


def skeleton_of(value: dict[str, Any]) -> Skeleton:
    return Skeleton.of(value, Parts.of(value), no_leaf, allow_pickle=False)


def rendered(value: dict[str, Any]) -> bytes:
    """The JSON of ``value``, put together from its skeleton and its leaves."""
    parts = Parts.of(value)
    skeleton = Skeleton.of(value, parts, no_leaf, allow_pickle=False)
    assert len(skeleton.paths) == len(parts.leaves)
    leaves = [tree.dumps(tree.encode(leaf, no_leaf)).decode() for leaf in parts.leaves]
    text = skeleton.texts[0]
    for leaf, after in zip(leaves, skeleton.texts[1:], strict=True):
        text += leaf + after
    return text.encode()


_LETTERS = 'a$."é\0'

_texts = st.text(_LETTERS, max_size=4)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | _texts | st.binary(max_size=3)
keys = _texts | st.integers() | st.booleans() | st.none() | st.just("$tensor") | st.just((1, "a"))
trees = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(keys, inner, max_size=3),
        st.dictionaries(keys, inner, max_size=3).map(OrderedDict),
        st.lists(_texts, max_size=4).map(Counter),
        st.sets(st.integers(), max_size=3),
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), trees, max_size=3))
def test_skeleton_and_leaves_together_are_the_json_of_the_tree(value: dict[str, Any]) -> None:
    expected = {key: tree.encode(item, no_leaf, path=key) for key, item in value.items()}
    assert rendered(value) == tree.dumps(expected)


@given(trees, trees)
def test_a_skeleton_fits_only_trees_that_have_the_same(one: Any, other: Any) -> None:
    first, second = skeleton_of({"x": one}), skeleton_of({"x": other})
    if first.fits(Parts.of({"x": other})):
        assert first.texts == second.texts
        assert first.paths == second.paths


def test_paths_are_those_of_the_leaves() -> None:
    assert skeleton_of({"a": {"b": [1, {2: "x"}], "c": 3}, "d": ()}).paths == ["a.b.0", "a.b.1.2", "a.c"]


BEFORE: dict[str, Any] = {"m": {"a": 1, "b": [1, 2.0], "c": {0: "x", 1: "y"}}}
CHANGES: dict[str, dict[str, Any]] = {
    "a key more": {"m": {**BEFORE["m"], "d": 1}},
    "a key less": {"m": {"a": 1, "b": [1, 2.0]}},
    "another key": {"m": {"a": 1, "b": [1, 2.0], "x": {0: "x", 1: "y"}}},
    "another order": {"m": {"b": [1, 2.0], "a": 1, "c": {0: "x", 1: "y"}}},
    "a key of another type that is equal": {"m": {"a": 1, "b": [1, 2.0], "c": {False: "x", 1: "y"}}},
    "a longer list": {"m": {"a": 1, "b": [1, 2.0, 3], "c": {0: "x", 1: "y"}}},
    "a tuple for a list": {"m": {"a": 1, "b": (1, 2.0), "c": {0: "x", 1: "y"}}},
    "an ordered dictionary": {"m": {"a": 1, "b": [1, 2.0], "c": OrderedDict({0: "x", 1: "y"})}},
    "a value of another type that is equal": {"m": {"a": True, "b": [1, 2.0], "c": {0: "x", 1: "y"}}},
    "nested otherwise": {"m": {"a": 1, "b": [[1], 2.0], "c": {0: "x", 1: "y"}}},
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_form_is_seen(name: str) -> None:
    assert skeleton_of(BEFORE).fits(Parts.of({"m": {"a": 2, "b": [0, 0.5], "c": {0: "", 1: "z"}}}))
    assert not skeleton_of(BEFORE).fits(Parts.of(CHANGES[name]))


def test_keys_that_may_be_equal_without_being_the_same_never_fit() -> None:
    value = {"m": {0.0: 1}}
    assert not skeleton_of(value).fits(Parts.of(value))
    assert not skeleton_of({"m": {(1,): 1}}).fits(Parts.of({"m": {(True,): 1}}))


def test_a_key_without_exact_form_is_an_error() -> None:
    with pytest.raises(StateError, match=r"m\.<key>"):
        skeleton_of({"m": {no_leaf: 1}})


def test_a_tree_that_contains_itself_cannot_be_taken_apart() -> None:
    value: dict[str, Any] = {}
    value["x"] = value
    with pytest.raises(RecursionError):
        Parts.of(value)
