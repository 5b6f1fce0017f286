"""Whether two images hold the same state, and where they differ."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.compare import first_difference
from resilient.snapshot.image import Layout, TensorSpec


def image(
    tensors: dict[str, bytes], objects: dict[str, Any] | None = None, *, room: int = 0, dtype: str = "U8"
) -> bytes:
    """An image of byte tensors; ``room`` makes the place of its state larger."""
    state = json.dumps({"step": 1, "objects": objects or {}}).encode()
    layout = Layout.plan([TensorSpec(name, dtype, (len(data),)) for name, data in tensors.items()], len(state) + room)
    made = bytearray(layout.size)
    made[: len(layout.header)] = layout.header
    for name, data in tensors.items():
        made[layout.tensors[name].offset : layout.tensors[name].end] = data
    padded = layout.encode_state(state)
    assert padded is not None
    made[layout.state.offset : layout.state.end] = padded
    return bytes(made)


BASE = image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 1}, "rng": [1, {"x": 2.5}]})


def test_an_image_equals_itself_and_another_layout_of_it() -> None:
    roomy = image({"model.b": b"x", "model.w": b"abc"}, {"rng": [1, {"x": 2.5}], "model": {"n": 1}}, room=9000)
    assert len(roomy) != len(BASE)
    assert first_difference(BASE, BASE) is None
    assert first_difference(BASE, roomy) is None


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (image({"model.w": b"abd", "model.b": b"x"}), "model.w differs"),
        (image({"model.w": b"abc"}), "only one has model.b"),
        (image({"model.w": b"abcd", "model.b": b"x"}), "model.w is"),
        (image({"model.w": b"abc", "model.b": b"x"}, dtype="I8"), "I8"),
        (image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 1}}), "only one has ['rng']"),
        (image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 2}, "rng": [1, {"x": 2.5}]}), "model.n: 1 and 2"),
        (image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": True}, "rng": [1, {"x": 2.5}]}), "1 and True"),
        (image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 1}, "rng": [1, {"x": 2.0}]}), "rng.1.x"),
        (image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 1}, "rng": [1]}), "rng"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_difference_is_found_and_named(other: bytes, words: str) -> None:
    found = first_difference(BASE, other)
    assert found is not None
    assert words in found
    assert first_difference(other, BASE) is not None


def test_only_what_is_asked_for_is_compared() -> None:
    other = image({"model.w": b"abc", "model.b": b"x"}, {"model": {"n": 1}, "rng": []})
    assert first_difference(BASE, other, only=["model"]) is None
    assert first_difference(BASE, other, only=["rng"]) is not None
    assert first_difference(BASE, other, only=["mod"]) is None


def test_a_corrupt_image_is_not_compared() -> None:
    with pytest.raises(SnapshotCorrupt):
        first_difference(BASE, BASE[:-1])
