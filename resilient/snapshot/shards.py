"""Tensors that lie in parts in several images: what the wholes are, and where in them the parts belong.

The JSON state of an image says for each distributed tensor which part of the whole the image has. Parts that several
ranks have alike are there several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.snapshot.image import ITEM_SIZE, Layout, read_state

DISTRIBUTED = "$dtensor"
_TENSOR_TAGS = frozenset({"$tensor", "$strided", "$array"})
_PAIR_TAGS = frozenset({"$dict", "$ordered", "$counter"})
_SEQUENCE_TAGS = frozenset({"$tuple", "$set", "$frozenset"})
_MOST_PARTS = 20_000


@dataclass(frozen=True)
class Part:
    """What one rank has of a tensor: ``shape`` elements, of which the first lies at ``offsets`` in the whole."""

    rank: int
    offsets: tuple[int, ...]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Whole:
    """A distributed tensor.

    :param dtype: as safetensors names it.
    :param parts: those that have elements.
    """

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]

    def __post_init__(self) -> None:
        if self.dtype not in ITEM_SIZE or any(length < 0 for length in self.shape):
            raise ValueError(f"there is no tensor of type {self.dtype!r} and shape {self.shape}")
        for part in self.parts:
            if not len(part.offsets) == len(part.shape) == len(self.shape):
                raise ValueError(f"a part has other dimensions than the whole: {part}")
            for offset, length, whole in zip(part.offsets, part.shape, self.shape, strict=True):
                if offset < 0 or length < 0 or offset + length > whole:
                    raise ValueError(f"a part lies outside of the whole: {part}")

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return ITEM_SIZE[self.dtype] * prod(self.shape)


@dataclass(frozen=True)
class Reference:
    """A place in a state tree that holds a tensor.

    :param path: with dots.
    :param tensor: name in the image.
    :param shape: of the whole, where the image has a part of it.
    :param offsets: of that part; None where it is not known, or nothing is distributed.
    """

    path: str
    tensor: str
    shape: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None


def references(node: Any, path: str = "") -> Iterator[Reference]:
    """All tensors of an encoded state tree.

    :raises TypeError: the tree is malformed; or ValueError, LookupError, RecursionError.
    """
    tag, payload = tagged(node)
    if tag in _TENSOR_TAGS:
        yield Reference(path, str(payload if tag == "$tensor" else payload[0]))
        return
    if tag == DISTRIBUTED:
        [local] = references(payload["local"])
        offsets = payload["offsets"]
        known = tuple(map(int, offsets)) if offsets is not None else None
        yield Reference(path, local.tensor, tuple(map(int, payload["shape"])), known)
        return
    for key, item in _children(node, tag, payload):
        yield from references(item, f"{path}.{key}" if path else str(key))


def _children(node: Any, tag: str, payload: Any) -> Iterator[tuple[Any, Any]]:
    if tag in _PAIR_TAGS:
        yield from payload
    elif tag in _SEQUENCE_TAGS:
        yield from enumerate(payload)
    elif isinstance(node, list):
        yield from enumerate(node)
    elif isinstance(node, dict) and not tag:
        yield from node.items()


def tagged(node: Any) -> tuple[str, Any]:
    """Tag and payload of what JSON has no form for; no tag for anything else."""
    if isinstance(node, dict) and len(node) == 1:
        tag, payload = next(iter(node.items()))
        if tag.startswith("$"):
            return tag, payload
    return "", None


def distributed_in(images: Mapping[int, memoryview]) -> dict[str, Whole]:
    """The distributed tensors of some images, which are final, by their path in the state.

    It is told to whoever looks at the snapshot; loading goes by the images. So where there are very many parts, or an
    image is none, there are none.
    """
    return distributed_among((rank, _opened(image)) for rank, image in images.items())


def distributed_among(images: Iterable[tuple[int, Callable[[], tuple[Layout, Any]]]]) -> dict[str, Whole]:
    """The same of images that are read as needed.

    :param images: of each rank, what returns layout and state.
    """
    found: dict[str, Whole] = {}
    try:
        for rank, read in images:
            _add(found, rank, *read())
            if sum(len(whole.parts) for whole in found.values()) > _MOST_PARTS:
                return {}
    except (SnapshotCorrupt, TypeError, ValueError, LookupError, AttributeError, RecursionError):
        return {}
    return found


def _opened(image: memoryview) -> Callable[[], tuple[Layout, Any]]:
    def read() -> tuple[Layout, Any]:
        layout = Layout.parse(image)
        return layout, read_state(image, layout)

    return read


def _add(found: dict[str, Whole], rank: int, layout: Layout, body: Any) -> None:
    if "meshes" not in body:
        return
    for reference in references(body["objects"]):
        if reference.shape is None or reference.offsets is None:
            continue
        spec = layout.tensors[reference.tensor].spec
        before = found.get(reference.path, Whole(spec.dtype, reference.shape, ()))
        parts = (Part(rank, reference.offsets, spec.shape),) if spec.size else ()
        found[reference.path] = Whole(spec.dtype, reference.shape, (*before.parts, *parts))


def runs(whole: Sequence[int], offsets: Sequence[int], shape: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """The pieces of a part that lie in one row both in it and in the whole: where in the part, where in the whole, and
    how long, all in elements.
    """
    if not prod(shape):
        return
    split = len(whole)  # dimensions from here on are there in full
    while split and shape[split - 1] == whole[split - 1]:
        split -= 1
    split = max(split - 1, 0)
    length = prod(shape[split:])
    steps = [prod(whole[dimension + 1 :]) for dimension in range(len(whole))]
    base = sum(offset * step for offset, step in zip(offsets[split:], steps[split:], strict=True))
    for number, outer in enumerate(product(*map(range, shape[:split]))):
        place = sum((offset + at) * step for offset, at, step in zip(offsets, outer, steps, strict=False))
        yield number * length, base + place, length
