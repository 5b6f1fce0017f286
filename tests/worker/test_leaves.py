"""Tensors, arrays and torch's own scalars through an image and back, bit for bit, or refused by their path."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree
from resilient.snapshot.image import Layout, TensorSpec, read_state
from resilient.worker.leaves import DTYPES, TensorCollector, TensorSource

EVERY_DTYPE = sorted(DTYPES, key=str)


def image_of(value: Any, path: str = "x") -> bytes:
    """An image that holds ``value``."""
    collector = TensorCollector()
    state = tree.dumps(tree.encode(value, collector, path=path))
    layout = Layout.plan(collector.specs(), len(state))
    image = bytearray(layout.size)
    image[: len(layout.header)] = layout.header
    for name, tensor in collector.tensors.items():
        place = layout.tensors[name]
        image[place.offset : place.end] = bits(tensor)
    padded = layout.encode_state(state)
    assert padded is not None
    image[layout.state.offset : layout.state.end] = padded
    return bytes(image)


def value_in(image: bytes, *, copy: bool = True) -> Any:
    memory = memoryview(bytearray(image))
    layout = Layout.parse(memory)
    views = () if copy else layout.tensors
    return tree.decode(read_state(memory, layout), TensorSource(memory, layout, views=views))


def round_trip(value: Any) -> Any:
    return value_in(image_of(value))


def bits(tensor: torch.Tensor) -> bytes:
    plain = tensor.detach().resolve_conj().resolve_neg().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes() if plain.numel() else b""


def stored(value: Any) -> list[str]:
    """Names of the tensors that the image of ``value`` would hold."""
    collector = TensorCollector()
    tree.encode(value, collector, path="x")
    assert [spec.name for spec in collector.specs()] == list(collector.tensors)
    return list(collector.tensors)


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """Any bits at all, so that no value is too odd to be in it; only truth values are restricted to theirs."""
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype is torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    return raw.view(dtype).reshape(shape)


# --- tensors


@pytest.mark.parametrize("dtype", EVERY_DTYPE, ids=str)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4), (0,), (3, 0)], ids=str)
def test_every_type_comes_back_bit_for_bit(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    tensor = random_tensor(dtype, shape)
    found = round_trip({"t": tensor})["t"]
    assert (found.dtype, found.shape) == (dtype, tensor.shape)
    assert bits(found) == bits(tensor)


def test_every_type_beside_every_other() -> None:
    """Types of different widths in one image, each on its own alignment."""
    tensors = {str(dtype): random_tensor(dtype, (3,)) for dtype in EVERY_DTYPE}
    found = round_trip(tensors)
    assert {name: bits(tensor) for name, tensor in found.items()} == {name: bits(t) for name, t in tensors.items()}


def test_a_parameter_comes_back_as_values_without_history() -> None:
    parameter = torch.nn.Parameter(torch.randn(3))
    found = round_trip([parameter, parameter * 2])
    assert torch.equal(found[0], parameter)
    assert not any(tensor.requires_grad for tensor in found)


def test_channels_last_comes_back_as_it_was() -> None:
    tensor = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    found = round_trip(tensor)
    assert found.stride() == tensor.stride()
    assert torch.equal(found, tensor)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(6).reshape(2, 3).T,
        torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
        torch.arange(10)[::2],
        torch.arange(12).reshape(3, 4)[:, 1:3],
        torch.arange(3).expand(4, 3),
        torch.arange(6.0).reshape(2, 3).mT,
        torch.tensor([1 + 2j]).conj(),
        torch.tensor([1 + 2j, 3 - 4j]).conj().imag,
    ],
    ids=["transposed", "permuted", "strided", "sliced", "expanded", "mT", "conjugate", "negative"],
)
def test_a_view_comes_back_with_its_values(tensor: torch.Tensor) -> None:
    found = round_trip({"t": tensor})["t"]
    assert found.dtype is tensor.dtype
    assert torch.equal(found, tensor)


def test_a_dense_view_keeps_its_strides_and_a_sparse_one_becomes_contiguous() -> None:
    transposed, sliced = torch.arange(6).reshape(2, 3).T, torch.arange(10)[::2]
    found = round_trip([transposed, sliced])
    assert found[0].stride() == transposed.stride()
    assert found[1].is_contiguous()


def test_tied_tensors_are_stored_once_and_come_back_under_both_names() -> None:
    weight = torch.randn(4, 3)
    tied = {"embedding": weight, "head": weight, "parameter": torch.nn.Parameter(weight)}
    assert stored(tied) == ["x.embedding"]
    found = round_trip(tied)
    assert all(torch.equal(tensor, weight) for tensor in found.values())


def test_views_of_one_storage_that_differ_are_stored_each() -> None:
    whole = torch.arange(6)
    assert stored([whole, whole[:3], whole[3:], whole.reshape(2, 3), whole.view(torch.float64)]) == [
        f"x.{number}" for number in range(5)
    ]


def test_a_square_matrix_and_its_transpose_are_not_the_same_view() -> None:
    square = torch.arange(4).reshape(2, 2)
    found = round_trip([square, square.T])
    assert torch.equal(found[0], square)
    assert torch.equal(found[1], square.T)


def test_equal_values_in_different_memory_are_not_tied() -> None:
    assert stored([torch.zeros(2), torch.zeros(2)]) == ["x.0", "x.1"]


def test_empty_tensors_which_share_the_null_address_are_not_tied() -> None:
    assert stored([torch.empty(0, 3), torch.ones(1), torch.empty(0, 3, dtype=torch.int64)]) == ["x.0", "x.1", "x.2"]


# --- whose memory


def test_copies_outlive_the_image_and_views_follow_it() -> None:
    memory = memoryview(bytearray(image_of({"t": torch.ones(4), "n": np.ones(4)})))
    layout = Layout.parse(memory)
    body = read_state(memory, layout)
    own = tree.decode(body, TensorSource(memory, layout))
    view = tree.decode(body, TensorSource(memory, layout, views=layout.tensors))
    memory[len(layout.header) :] = bytes(len(memory) - len(layout.header))
    assert own["t"].tolist() == [1.0] * 4
    assert own["n"].tolist() == [1.0] * 4
    assert view["t"].tolist() == [0.0] * 4


# --- arrays and scalars


@pytest.mark.parametrize(
    "dtype",
    ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?", "c8"],
    ids=lambda name: f"np-{name}",
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)], ids=str)
def test_arrays_come_back_bit_for_bit(dtype: str, shape: tuple[int, ...]) -> None:
    array: npt.NDArray[Any] = np.full(shape, 3, dtype)
    found = round_trip({"a": array})["a"]
    assert type(found) is np.ndarray
    assert (found.dtype, found.shape) == (array.dtype, array.shape)
    assert found.tobytes() == array.tobytes()
    assert found.flags.owndata


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6)[::-1],
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(10)[::3],
        np.arange(24).reshape(2, 3, 4).transpose(2, 0, 1),
    ],
    ids=["reversed", "fortran", "strided", "transposed"],
)
def test_an_array_in_any_order_comes_back_with_its_values(array: npt.NDArray[Any]) -> None:
    assert np.array_equal(round_trip(array), array)


def test_an_array_and_a_tensor_on_the_same_memory_come_back_as_what_they_were() -> None:
    array = np.arange(5.0)
    found = round_trip({"array": array, "tensor": torch.from_numpy(array)})
    assert np.array_equal(found["array"], array)
    assert torch.equal(found["tensor"], torch.arange(5.0, dtype=torch.float64))


@pytest.mark.parametrize(
    "scalar",
    [
        np.float16(1.5),
        np.float32(0.1),
        np.float64(0.1),
        np.float64("nan"),
        np.float64("-inf"),
        np.int8(-1),
        np.int64(1 << 62),
        np.uint64((1 << 64) - 1),
        np.bool_(True),
        np.complex128(1 + 2j),
        np.str_("text"),
        np.bytes_(b"bytes"),
        np.datetime64("2026-01-02T03:04:05"),
    ],
    ids=lambda scalar: f"{type(scalar).__name__}-{scalar}",
)
def test_numpy_scalars_come_back_as_what_they_were(scalar: np.generic) -> None:
    found = round_trip({"s": scalar})["s"]
    assert type(found) is type(scalar)
    assert found.dtype == scalar.dtype
    assert found.tobytes() == scalar.tobytes()


def test_torchs_own_values_come_back() -> None:
    value = {
        "dtype": torch.bfloat16,
        "device": torch.device("cuda:1"),
        "size": torch.Size([2, 3]),
        "nested": [torch.float8_e5m2, torch.device("cpu")],
    }
    found = round_trip(value)
    assert found == {**value, "size": (2, 3)}


# --- what cannot be captured


class Subclass(torch.Tensor):
    """A tensor that may carry more than its values."""


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (torch.eye(3).to_sparse(), "sparse_coo"),
        (torch.ones(2).as_subclass(Subclass), "Subclass"),
        (torch.ones(2, dtype=torch.complex128), "complex128"),
        (np.array([None]), "object"),
        (np.array(["text"]), "U4"),
        (np.zeros(2, [("field", "f4")]), "field"),
        (np.array(["2026-01-01"], "M8[D]"), "datetime64"),
    ],
    ids=["sparse", "subclass", "complex128", "objects", "text", "records", "dates"],
)
def test_what_has_no_form_in_the_image_is_refused_by_its_path(value: Any, words: str) -> None:
    with pytest.raises(StateError, match=rf"optimizer\.state\.0\.m.*{words}"):
        image_of({"state": {0: {"m": value}}}, path="optimizer")


@pytest.mark.parametrize(
    "value",
    [
        {1: torch.ones(1), "1": torch.zeros(1)},
        {"a.b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    ],
)
def test_two_tensors_that_would_have_one_name_are_refused(value: Any) -> None:
    with pytest.raises(StateError, match="two tensors have the one path"):
        image_of(value)


# --- damaged input


def source() -> TensorSource:
    image = memoryview(bytearray(image_of({"t": torch.arange(6.0)})))
    return TensorSource(image, Layout.parse(image))


@pytest.mark.parametrize(
    ("tag", "payload"),
    [
        ("$tensor", "unknown"),
        ("$tensor", ["x.t"]),
        ("$tensor", None),
        ("$strided", ["x.t"]),
        ("$strided", ["x.t", [1, 1]]),
        ("$strided", ["x.t", 3]),
        ("$strided", None),
        ("$array", "x.t"),
        ("$array", ["x.t", [7]]),
        ("$array", ["x.t", ["a"]]),
        ("$scalar", ["<f8", "AAAA"]),
        ("$scalar", ["<f8", "!"]),
        ("$scalar", ["nonsense", "AAAA"]),
        ("$scalar", ["O", "AAAAAAAAAAA="]),
        ("$scalar", []),
        ("$dtype", "load"),
        ("$dtype", None),
        ("$device", []),
    ],
    ids=json.dumps,
)
def test_a_malformed_leaf_is_corrupt(tag: str, payload: Any) -> None:
    with pytest.raises(SnapshotCorrupt, match=rf"malformed \{tag}"):
        source()(tag, payload)


def test_a_leaf_of_a_newer_release_is_said_to_be_one() -> None:
    with pytest.raises(SnapshotCorrupt, match="newer release"):
        source()("$future", 1)


def test_an_image_from_elsewhere_with_an_impossible_shape_is_corrupt() -> None:
    layout = Layout.plan([TensorSpec("t", "F32", (0, 1 << 70))], 10)
    image = memoryview(bytearray(layout.size))
    image[: len(layout.header)] = layout.header
    with pytest.raises(SnapshotCorrupt):
        TensorSource(image, Layout.parse(image))("$tensor", "t")
