"""Images: what we write the real safetensors library opens, and what we read we do not trust."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.image import ITEM_SIZE, PAGE, STATE, Layout, TensorSpec, read_state

TORCH = {
    "F64": torch.float64,
    "I64": torch.int64,
    "U64": torch.uint64,
    "C64": torch.complex64,
    "F32": torch.float32,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def pattern(spec: TensorSpec, salt: int = 1) -> bytes:
    """Bytes that differ from tensor to tensor and are valid for every type, booleans too."""
    return bytes((number * 7 + salt) % 2 for number in range(spec.size))


def build(*specs: TensorSpec, state: Any = None) -> bytes:
    """A whole image with a pattern in every tensor."""
    encoded = json.dumps({"step": 7} if state is None else state).encode()
    layout = Layout.plan(specs, len(encoded))
    image = bytearray(layout.size)
    image[: len(layout.header)] = layout.header
    for salt, spec in enumerate(specs):
        place = layout.tensors[spec.name]
        image[place.offset : place.end] = pattern(spec, salt)
    padded = layout.encode_state(encoded)
    assert padded is not None
    image[layout.state.offset : layout.state.end] = padded
    return bytes(image)


def raw(header: Any, data: bytes = b"") -> bytes:
    """A file with any header at all."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def as_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


NAMES = st.text(st.characters(codec="utf-8"), max_size=12).filter(lambda name: name not in {STATE, "__metadata__"})
SPECS = st.lists(
    st.builds(
        TensorSpec,
        NAMES,
        st.sampled_from(sorted(ITEM_SIZE)),
        st.lists(st.integers(1, 5), max_size=3).map(tuple),
    ),
    max_size=6,
    unique_by=lambda spec: spec.name,
)


# --- what others make of our images


@given(SPECS)
def test_the_real_library_reads_every_tensor_as_it_was_written(specs: list[TensorSpec]) -> None:
    loaded = safetensors.torch.load(build(*specs))
    assert loaded.keys() == {STATE, *(spec.name for spec in specs)}
    for salt, spec in enumerate(specs):
        assert loaded[spec.name].dtype is TORCH[spec.dtype]
        assert tuple(loaded[spec.name].shape) == spec.shape
        assert as_bytes(loaded[spec.name]) == pattern(spec, salt)
    assert json.loads(as_bytes(loaded[STATE])) == {"step": 7}


@pytest.mark.parametrize("dtype", sorted(ITEM_SIZE))
@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 3)], ids=str)
def test_every_type_in_every_kind_of_shape(dtype: str, shape: tuple[int, ...]) -> None:
    spec = TensorSpec("x", dtype, shape)
    image = build(spec)
    loaded = safetensors.torch.load(image)["x"]
    assert (loaded.dtype, tuple(loaded.shape)) == (TORCH[dtype], shape)
    assert Layout.parse(image).tensors["x"].spec == spec


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rank-00000.safetensors"
    path.write_bytes(build(TensorSpec("w", "F32", (2,))))
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "writer": "resilient"}
        assert sorted(opened.keys()) == [STATE, "w"]


@given(SPECS)
def test_data_begins_on_a_page_ends_on_a_page_and_every_tensor_is_aligned(specs: list[TensorSpec]) -> None:
    layout = Layout.plan(specs, 100)
    assert len(layout.header) % PAGE == 0
    assert layout.size % PAGE == 0
    end = len(layout.header)
    for place in sorted(layout.tensors.values(), key=lambda place: (place.offset, place.end)):
        assert place.offset == end
        assert (place.offset - len(layout.header)) % ITEM_SIZE[place.spec.dtype] == 0
        end = place.end
    assert end == layout.size


@given(SPECS)
def test_what_is_planned_is_what_is_parsed(specs: list[TensorSpec]) -> None:
    image = build(*specs)
    parsed = Layout.parse(memoryview(image))
    planned = Layout.plan(specs, len(b'{"step": 7}'))
    assert parsed == planned
    assert read_state(image, parsed) == {"step": 7}


def test_the_layout_depends_on_names_types_and_shapes_alone() -> None:
    one, other = TensorSpec("a", "F32", (2,)), TensorSpec("b", "I64", (3,))
    assert Layout.plan([one, other], 50) == Layout.plan([other, one], 50)


def test_a_header_of_many_tensors_grows_by_whole_pages() -> None:
    specs = [TensorSpec(f"layer.{number}.weight", "F32", (1,)) for number in range(500)]
    layout = Layout.plan(specs, 10)
    assert len(layout.header) > 2 * PAGE
    assert len(layout.header) % PAGE == 0
    assert safetensors.torch.load(build(*specs)).keys() == layout.tensors.keys()


# --- the state


def test_the_state_has_room_to_grow_and_then_asks_for_a_new_layout() -> None:
    layout = Layout.plan([], 1000)
    capacity = layout.state.spec.size
    assert capacity >= 1500
    padded = layout.encode_state(b"x" * capacity)
    assert padded == b"x" * capacity
    assert layout.encode_state(b"{}") == b"{}".ljust(capacity)
    assert layout.encode_state(b"x" * (capacity + 1)) is None


def test_an_image_without_state_was_not_written_by_us() -> None:
    image = raw({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"x")
    with pytest.raises(SnapshotCorrupt, match="not written by resilient"):
        read_state(image, Layout.parse(image))


@pytest.mark.parametrize("state", [b"", b"{", b"\xff\xfe", b"[" * 100_000])
def test_a_damaged_state_is_corrupt(state: bytes) -> None:
    image = raw({STATE: {"dtype": "U8", "shape": [len(state)], "data_offsets": [0, len(state)]}}, state)
    with pytest.raises(SnapshotCorrupt, match="damaged"):
        read_state(image, Layout.parse(image))


# --- what we do not believe

SMALL = build(TensorSpec("weight", "F32", (2, 3)), TensorSpec("bias", "BF16", (3,)), TensorSpec("n", "I64", ()))


def test_truncation_is_found_at_any_length() -> None:
    for length in [*range(300), *range(300, len(SMALL), 61), len(SMALL) - 1]:
        with pytest.raises(SnapshotCorrupt):
            Layout.parse(SMALL[:length])


def test_anything_behind_the_end_is_found() -> None:
    with pytest.raises(SnapshotCorrupt):
        Layout.parse(SMALL + b"\0")


@pytest.mark.parametrize(
    "length", [0, 1, len(SMALL) - 7, len(SMALL), 1 << 28, (1 << 28) + 1, 1 << 40, (1 << 63), (1 << 64) - 1]
)
def test_a_wrong_header_length_is_found_before_anything_is_allocated(length: int) -> None:
    with pytest.raises(SnapshotCorrupt):
        Layout.parse(struct.pack("<Q", length) + SMALL[8:])


def _entry(dtype: Any = "U8", shape: Any = (4,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "header",
    [
        pytest.param({"a": _entry(offsets=(1, 5))}, id="gap at the beginning"),
        pytest.param({"a": _entry(shape=(1,), offsets=(0, 1)), "b": _entry(shape=(2,), offsets=(2, 4))}, id="gap"),
        pytest.param({"a": _entry(shape=(3,), offsets=(0, 3)), "b": _entry(shape=(2,), offsets=(2, 4))}, id="overlap"),
        pytest.param({"a": _entry(), "b": _entry()}, id="same place"),
        pytest.param({"a": _entry(offsets=(4, 0))}, id="backwards"),
        pytest.param({"a": _entry(offsets=(-4, 0))}, id="negative offset"),
        pytest.param({"a": _entry(shape=(5,))}, id="shape and offsets disagree"),
        pytest.param({"a": _entry(dtype="F32")}, id="type and offsets disagree"),
        pytest.param({"a": _entry(shape=(-4,))}, id="negative shape"),
        pytest.param({"a": _entry(shape=(-2, -2))}, id="negative shapes with a positive product"),
        pytest.param({"a": _entry(shape=(1 << 62,), offsets=(0, 1 << 62))}, id="huge"),
        pytest.param({"a": _entry(shape=(1 << 40,) * 8)}, id="huge product"),
        pytest.param({"a": _entry(shape=(3,), offsets=(0, 3))}, id="data left over"),
        pytest.param({}, id="no tensor for the data"),
        pytest.param({"a": _entry(dtype="F7")}, id="unknown type"),
        pytest.param({"a": _entry(dtype=["U8"])}, id="type is a list"),
        pytest.param({"a": _entry(dtype=None)}, id="type is null"),
        pytest.param({"a": _entry(shape=None)}, id="shape is null"),
        pytest.param({"a": _entry(shape=4)}, id="shape is a number"),
        pytest.param({"a": _entry(shape=["x"])}, id="shape of text"),
        pytest.param({"a": _entry(offsets=(0,))}, id="one offset"),
        pytest.param({"a": _entry(offsets=(0, 2, 4))}, id="three offsets"),
        pytest.param({"a": _entry(offsets=(None, 4))}, id="offset is null"),
        pytest.param({"a": {"dtype": "U8", "shape": [4]}}, id="no offsets"),
        pytest.param({"a": 3}, id="entry is a number"),
        pytest.param({"a": []}, id="entry is a list"),
        pytest.param([], id="header is a list"),
        pytest.param(3, id="header is a number"),
        pytest.param(None, id="header is null"),
        pytest.param(b"", id="no header"),
        pytest.param(b"{", id="header cut short"),
        pytest.param(b'{"a": NaN}', id="not a number"),
        pytest.param(b"\xff\xfe\xfd", id="no text"),
        pytest.param(b"[" * 100_000, id="nested too deeply"),
        pytest.param(
            b'{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, ' + b"4" * 5000 + b"]}}", id="long number"
        ),
    ],
)
def test_a_header_that_lies_is_found(header: Any) -> None:
    with pytest.raises(SnapshotCorrupt):
        Layout.parse(raw(header, b"data"))


def accepts(image: bytes) -> bool:
    """Parse; what is accepted must tile the image without gap, overlap or excess."""
    try:
        layout = Layout.parse(image)
    except SnapshotCorrupt:
        return False
    end = len(layout.header)
    for place in sorted(layout.tensors.values(), key=lambda place: (place.offset, place.end)):
        assert place.offset == end
        assert all(length >= 0 for length in place.spec.shape)
        end = place.end
    assert end == layout.size == len(image)
    return True


def test_no_flipped_bit_in_the_header_is_more_than_corrupt() -> None:
    used = SMALL[:PAGE].rstrip()
    for position in range(len(used) + 2):
        for bit in range(8):
            accepts(SMALL[:position] + bytes([SMALL[position] ^ 1 << bit]) + SMALL[position + 1 :])


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.floats(allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELD = st.integers(-2, 9) | JSON


@settings(max_examples=300)
@given(
    header=st.dictionaries(
        st.sampled_from(["a", "b", STATE, "__metadata__"]),
        st.fixed_dictionaries(
            {},
            optional={
                "dtype": st.sampled_from([*ITEM_SIZE, "F7"]) | JSON,
                "shape": st.lists(FIELD, max_size=3) | JSON,
                "data_offsets": st.lists(FIELD, min_size=2, max_size=2) | JSON,
            },
        )
        | JSON,
        max_size=3,
    )
    | JSON,
    data=st.binary(max_size=8),
)
def test_no_header_whatever_is_more_than_corrupt(header: Any, data: bytes) -> None:
    accepts(raw(header, data))


@given(st.binary(max_size=200))
def test_no_bytes_whatever_are_more_than_corrupt(data: bytes) -> None:
    accepts(data)
    accepts(struct.pack("<Q", len(data)) + data)


def test_the_check_of_accepted_images_accepts_a_good_one() -> None:
    assert accepts(SMALL)
