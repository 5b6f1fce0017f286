"""State trees to typed JSON and back, exactly, or not at all."""

from __future__ import annotations

import enum
import json
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree


def no_leaf(path: str, value: Any) -> None:
    return None


def no_tag(tag: str, payload: Any) -> Any:
    raise SnapshotCorrupt(f"unknown {tag}")


def encoded(value: Any, **options: Any) -> bytes:
    return tree.dumps(tree.encode(value, no_leaf, **options))


def round_trip(value: Any) -> Any:
    return tree.decode(json.loads(encoded(value)), no_tag)


def same(one: Any, other: Any) -> bool:
    """Equal in type, value and order, where nan equals itself and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return one.hex() == str(other.hex())
    if isinstance(one, complex):
        return same(one.real, other.real) and same(one.imag, other.imag)
    if isinstance(one, dict):
        pairs = zip(one.items(), other.items(), strict=True)
        return len(one) == len(other) and all(same(a, b) and same(x, y) for (a, x), (b, y) in pairs)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=True)
    | st.sampled_from(["$tensor", "$dict", "$", "$$"])
)
PLAIN = st.none() | st.booleans() | st.integers() | st.text() | st.binary() | st.floats(allow_nan=False)
KEYS: st.SearchStrategy[Any] = st.deferred(
    lambda: PLAIN | st.lists(KEYS, max_size=2).map(tuple) | st.frozensets(KEYS, max_size=2)
)
TREES: st.SearchStrategy[Any] = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.text(), inner, max_size=3),
        st.dictionaries(st.sampled_from(["$tensor", "$dict", "$x", "x"]), inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3),
        st.dictionaries(KEYS, inner, max_size=3).map(OrderedDict),
        st.dictionaries(st.text(), st.integers(), max_size=3).map(Counter),
        st.sets(KEYS, max_size=3),
        st.frozensets(KEYS, max_size=3),
    ),
    max_leaves=15,
)


@settings(max_examples=300)
@given(TREES)
def test_every_tree_of_plain_values_comes_back_as_it_was(value: Any) -> None:
    assert same(round_trip(value), value)


@given(st.lists(KEYS, max_size=5, unique=True))
def test_the_encoding_of_a_set_does_not_depend_on_its_order(values: list[Any]) -> None:
    assert encoded(set(values)) == encoded(set(dict.fromkeys(reversed(values))))


@given(TREES)
def test_the_encoding_is_ascii_json_without_inventions(value: Any) -> None:
    def refuse(constant: str) -> Any:
        raise AssertionError(constant)

    json.loads(encoded(value).decode("ascii"), parse_constant=refuse)


@pytest.mark.parametrize(
    "value",
    [
        {1: "int", "1": "str"},
        {True: 1},
        {None: 1},
        {(1, "a"): 1},
        {b"key": 1},
        {1.5: 1},
        {"": {"": []}},
        {"$tensor": "not a tensor"},
        {"$dict": [[1, 2]]},
        {"$pickle": "not a pickle"},
        [math.inf, -math.inf, math.nan, -0.0, 5e-324],
        10**40,
        (),
        ((),),
        [[], {}, set(), frozenset(), OrderedDict(), Counter()],
        {1, "1", None, (1, 2)},
        OrderedDict([("b", 1), ("a", 2)]),
        Counter({"b": 2, "a": 1}),
        b"\x00\xff",
        complex(math.inf, math.nan),
        "\ud800",
        "größe\n\0",
    ],
    ids=lambda value: repr(value) if not isinstance(value, (set, frozenset, list)) else type(value).__name__,
)
def test_what_json_does_not_know_comes_back(value: Any) -> None:
    assert same(round_trip(value), value)


# --- leaves


class Tensor:
    """Stands for what goes into the image instead of the JSON."""

    def __init__(self, number: int) -> None:
        self.number = number


def test_leaves_are_given_with_their_path_and_come_back_by_their_tag() -> None:
    seen: dict[str, int] = {}

    def take(path: str, value: Any) -> dict[str, Any] | None:
        if not isinstance(value, Tensor):
            return None
        seen[path] = value.number
        return {"$number": path}

    value = {"a": [Tensor(1), (Tensor(2),)], 3: {"b": Tensor(3)}, "$c": OrderedDict(d=Tensor(4))}
    found = tree.decode(json.loads(tree.dumps(tree.encode(value, take, path="model"))), lambda tag, path: seen[path])
    assert seen == {"model.a.0": 1, "model.a.1.0": 2, "model.3.b": 3, "model.$c.d": 4}
    assert found == {"a": [1, (2,)], 3: {"b": 3}, "$c": OrderedDict(d=4)}


def test_an_unknown_tag_is_the_leafs_to_refuse() -> None:
    with pytest.raises(SnapshotCorrupt, match=r"\$future"):
        tree.decode({"$future": 1}, no_tag)


# --- what has no exact form


class Shape(NamedTuple):
    height: int


class Colour(enum.IntEnum):
    RED = 1


class Text(str):
    __slots__ = ()


class Unpicklable:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    "value",
    [object(), Shape(1), Colour.RED, Text("x"), defaultdict(list), range(3), PurePosixPath("x"), no_leaf, int],
    ids=lambda value: type(value).__name__,
)
def test_a_value_without_exact_form_is_an_error_that_names_its_path_and_type(value: Any) -> None:
    with pytest.raises(StateError, match=rf"optimizer\.groups\.1\.x is a .*{type(value).__qualname__}") as raised:
        tree.encode({"groups": [0, {"x": value}]}, no_leaf, path="optimizer")
    assert "state_dict" in raised.value.remedy


@pytest.mark.parametrize("wrap", [lambda value: {(value,): 1}, lambda value: {"x": {(value,)}}])
def test_so_is_one_inside_a_key_or_a_set(wrap: Callable[[Any], Any]) -> None:
    with pytest.raises(StateError, match=r"state\b.*<(key|item)>"):
        tree.encode(wrap(object()), no_leaf, path="state")


def test_a_bad_value_at_the_root_is_said_to_be_there() -> None:
    with pytest.raises(StateError, match="the root"):
        tree.encode(object(), no_leaf)


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def test_nesting_is_bounded_with_an_error_that_names_the_path() -> None:
    limit = tree._MAX_DEPTH
    assert limit >= 50
    assert round_trip(_nested(limit)) == _nested(limit)
    with pytest.raises(StateError, match=rf"x\.0\.0.*deeper than {limit}"):
        tree.encode(_nested(limit + 1), no_leaf, path="x")


def test_a_tree_that_contains_itself_is_an_error() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(StateError, match="nested deeper"):
        tree.encode(value, no_leaf)


# --- pickle


def test_nothing_is_pickled_unless_it_is_asked_for() -> None:
    value = {"x": PurePosixPath("a/b")}
    with pytest.raises(StateError, match="pickle"):
        tree.encode(value, no_leaf)
    body = json.loads(encoded(value, allow_pickle=True))
    assert tree.decode(body, no_tag, allow_pickle=True) == value


def test_a_pickle_is_never_loaded_unless_it_is_asked_for() -> None:
    body = json.loads(encoded({"x": PurePosixPath("a/b")}, allow_pickle=True))
    with pytest.raises(StateError, match="can execute code") as raised:
        tree.decode(body, no_tag)
    assert "allow_pickle" in raised.value.remedy


def test_what_cannot_even_be_pickled_is_an_error_that_names_its_path() -> None:
    with pytest.raises(StateError, match=r"the state at x\.y is a .*Unpicklable, which cannot be pickled"):
        tree.encode({"y": Unpicklable()}, no_leaf, path="x", allow_pickle=True)


def test_pickling_allowed_changes_nothing_for_what_has_a_form() -> None:
    value = {"a": [1, (2.5, None)], 3: b"x"}
    assert encoded(value, allow_pickle=True) == encoded(value)


# --- damaged input


@pytest.mark.parametrize(
    "body",
    [
        {"$float": "abc"},
        {"$float": None},
        {"$bytes": "!"},
        {"$bytes": "größe"},
        {"$bytes": 3},
        {"$complex": ["1", "x"]},
        {"$complex": None},
        {"$dict": [[1]]},
        {"$dict": [[1, 2, 3]]},
        {"$dict": [[[], 1]]},
        {"$dict": 3},
        {"$ordered": [3]},
        {"$counter": None},
        {"$tuple": 3},
        {"$set": [[]]},
        {"$frozenset": [{}]},
    ],
    ids=json.dumps,
)
def test_a_malformed_payload_is_corrupt(body: Any) -> None:
    with pytest.raises(SnapshotCorrupt, match="malformed"):
        tree.decode({"x": [body]}, no_tag)
