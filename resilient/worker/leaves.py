"""The leaves of a state tree: tensors, arrays and torch's own scalars, between Python and the image."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot.image import Layout, TensorSpec
from resilient.worker.sharded import LiveMeshes, Meshes, is_distributed, local_part

DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint64: "U64",
    torch.complex64: "C64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.uint32: "U32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int16: "I16",
    torch.uint16: "U16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_PLAIN = frozenset({torch.Tensor, torch.nn.Parameter})
TORCH_DTYPES = {name: dtype for dtype, name in DTYPES.items()}


class TensorCollector:
    """Takes tensors out of a tree on its way to JSON. Tensors that share memory exactly are stored once.

    This runs for every tensor at every snapshot while the training waits, hence the care for microseconds.

    :ivar tensors: what was found, by name.
    :ivar signature: name, type and shape of each, in the same order; equal signatures have equal layouts.
    :ivar meshes: what distributed tensors are spread over.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.signature: list[tuple[str, torch.dtype, torch.Size]] = []
        self.meshes = Meshes()
        self._by_address: dict[int, str] = {}

    def __call__(self, path: str, value: Any) -> dict[str, Any] | None:
        if isinstance(value, torch.Tensor):
            return self._tensor(path, value)
        if isinstance(value, np.ndarray):
            return self._array(path, value)
        if isinstance(value, np.generic):
            if value.dtype.hasobject or value.dtype.names or not value.dtype.itemsize:
                raise StateError(f"the scalar at {path} is of type {value.dtype}, which cannot be captured")
            return {"$scalar": [value.dtype.str, base64.b64encode(value.tobytes()).decode()]}
        if isinstance(value, torch.dtype):
            return {"$dtype": str(value).removeprefix("torch.")}
        if isinstance(value, torch.device):
            return {"$device": str(value)}
        return None

    def specs(self) -> tuple[TensorSpec, ...]:
        return tuple(TensorSpec(name, DTYPES[dtype], tuple(shape)) for name, dtype, shape in self.signature)

    def _tensor(self, path: str, tensor: torch.Tensor) -> dict[str, Any]:
        if is_distributed(tensor):
            local = self._tensor(path, local_part(tensor))
            return {"$dtensor": {"local": local, **self.meshes.describe(path, tensor)}}
        if type(tensor) not in _PLAIN or tensor.layout is not torch.strided:
            raise StateError(
                f"the tensor at {path} is a {type(tensor).__name__} of layout {tensor.layout}, not one to capture",
                "register plain, dense tensors",
            )
        if tensor.dtype not in DTYPES or tensor.is_meta:
            what = "has no data" if tensor.is_meta else f"is of type {tensor.dtype}, which safetensors cannot hold"
            raise StateError(f"the tensor at {path} {what}")
        name = self._store(path, tensor)
        if tensor.is_contiguous():
            return {"$tensor": name}
        return {"$strided": [name, list(tensor.stride())]}  # channels_last and the like come back as they were

    def _store(self, path: str, tensor: torch.Tensor) -> str:
        address = tensor.data_ptr()
        known = self._by_address.get(address)
        if known is not None and same_view(self.tensors[known], tensor):
            return known
        if path in self.tensors:
            raise StateError(f"two tensors have the one path {path} in the state tree", "give them different names")
        self.tensors[path] = tensor
        self.signature.append((path, tensor.dtype, tensor.shape))
        if address:  # tensors without elements have none
            self._by_address[address] = path
        return path

    def _array(self, path: str, array: np.ndarray[Any, Any]) -> dict[str, Any]:
        if type(array) is not np.ndarray:
            raise StateError(
                f"the array at {path} is a {type(array).__qualname__}, which cannot be captured", "store its parts"
            )
        try:
            tensor = as_tensor(array)
        except (TypeError, ValueError) as error:
            raise StateError(f"the array at {path} is of type {array.dtype}, which cannot be captured") from error
        if tensor.dtype not in DTYPES:
            raise StateError(f"the array at {path} is of type {array.dtype}, which safetensors cannot hold")
        return {"$array": [self._store(path, tensor), list(array.shape)]}


def as_tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """The array's elements in a row, copied where they do not lie so.

    :raises TypeError: torch has no such type.
    :raises ValueError: torch cannot look at such memory.
    """
    return torch.from_numpy(np.ascontiguousarray(array))


def same_view(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors at one address have the same elements."""
    return (
        one.shape == other.shape
        and one.dtype == other.dtype
        and one.stride() == other.stride()
        and one.device == other.device
    )


class TensorSource:
    """Gives the leaves of a tree back from an image.

    :param views: names of tensors that are given as views of the image; all others own their memory.
    :param reuse: tensors by name that may be written into and given back, where type and shape are the same: the first
        touch of fresh memory takes several times as long as the copy itself.
    :param meshes: for an image that has parts of distributed tensors.
    """

    def __init__(
        self,
        image: memoryview,
        layout: Layout,
        *,
        views: Collection[str] = (),
        reuse: Mapping[str, torch.Tensor] | None = None,
        meshes: LiveMeshes | None = None,
    ) -> None:
        self._image = image
        self._layout = layout
        self._views = views
        self._reuse = reuse or {}
        self._meshes = meshes

    def __call__(self, tag: str, payload: Any) -> Any:
        try:
            if tag == "$tensor":
                return self._tensor(payload)
            if tag == "$strided":
                return self._strided(*payload)
            if tag == "$dtensor" and self._meshes is not None:
                [(tag_of_local, local)] = payload["local"].items()
                return self._meshes.rebuild(self(tag_of_local, local), payload)
            if tag == "$array":
                name, shape = payload
                return self._tensor(name).numpy().reshape(shape).copy()
            if tag == "$scalar":
                dtype, data = payload
                return np.frombuffer(base64.b64decode(data), np.dtype(dtype))[0]
            if tag == "$dtype":
                return _torch_dtype(payload)
            if tag == "$device":
                return torch.device(payload)
        except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, OverflowError) as error:
            raise SnapshotCorrupt(f"the state holds a malformed {tag}: {error!r}") from error
        raise SnapshotCorrupt(f"the state holds an unknown {tag!r}; it was written by a newer release")

    def _tensor(self, name: str) -> torch.Tensor:
        place = self._layout.tensors[name]
        dtype, shape = TORCH_DTYPES[place.spec.dtype], place.spec.shape
        count = place.spec.size // dtype.itemsize
        if count == 0:
            return torch.empty(shape, dtype=dtype, device="cpu")
        view = torch.frombuffer(self._image, dtype=dtype, count=count, offset=place.offset).reshape(shape)
        if name in self._views:
            return view
        known = self._reuse.get(name)
        if known is not None and known.dtype == dtype and known.shape == view.shape:
            return known.copy_(view)
        return view.clone()

    def _strided(self, name: str, strides: list[int]) -> torch.Tensor:
        source = self._tensor(name)
        if _is_dense(source, strides):
            return torch.empty_strided(source.shape, strides, dtype=source.dtype, device="cpu").copy_(source)
        return source  # an expanded or sliced view: its values are what counts


def _is_dense(tensor: torch.Tensor, strides: list[int]) -> bool:
    expected = 1
    for stride, length in sorted(zip(strides, tensor.shape, strict=True)):
        if length != 1 and stride != expected:
            return False
        expected = stride * length if length != 1 else expected
    return True


def _torch_dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name!r} is no type of tensors")  # noqa: TRY004  it is the snapshot's value that is wrong
    return dtype
