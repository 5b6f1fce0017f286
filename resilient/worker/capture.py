"""From live objects to an image in a slot, and back."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import compress
from typing import Any, NamedTuple

import torch

from resilient.errors import ResilientError, SnapshotCorrupt, StateError
from resilient.protocol.arena import HEADER, Slot
from resilient.snapshot import tree
from resilient.snapshot.image import Layout, TensorSpec, read_state
from resilient.snapshot.skeleton import Parts
from resilient.worker.cuda import CudaCopy, PinnedSlots
from resilient.worker.leaves import TORCH_DTYPES, TensorCollector, TensorSource
from resilient.worker.loading import load, parameters_have_types_of
from resilient.worker.overlap import Copier, Done, Piece, copy_all
from resilient.worker.ownership import parameters_of
from resilient.worker.plan import Content, Plan
from resilient.worker.positions import Stateful
from resilient.worker.sharded import LiveMeshes

_PIECE = 32 << 20
"""Bytes copied at a time when the image goes to disk meanwhile: half of what the drain takes at a time."""


def flatten_objects(objects: Mapping[str, Any]) -> dict[str, Stateful]:
    """Name everything that has state: lists and dictionaries of objects get dotted names, None is left out.

    :raises StateError: an object has no state to take, or two have one name.
    """
    found: dict[str, Stateful] = {}
    for name, value in objects.items():
        if value is None:
            continue
        nested: Mapping[str, Any] = {}
        if isinstance(value, Stateful):
            nested = {name: value}
        elif isinstance(value, (list, tuple)):
            nested = flatten_objects({f"{name}.{index}": item for index, item in enumerate(value)})
        elif isinstance(value, dict):
            nested = flatten_objects({f"{name}.{key}": item for key, item in value.items()})
        else:
            raise StateError(
                f"{name} is a {type(value).__name__}, which has no state_dict() and load_state_dict()",
                "register objects that have both",
            )
        for key, item in nested.items():
            if key in found:
                raise StateError(f"two objects are registered under the one name {key}", "give them different names")
            found[key] = item
    return found


class Capture:
    """Writes the state of the registered objects into slots. What one capture finds out, the next one reuses."""

    def __init__(self, objects: Mapping[str, Stateful], *, allow_pickle: bool) -> None:
        self._objects = objects
        self._allow_pickle = allow_pickle
        self._plan: Plan | None = None
        self._moved: Counter[str] = Counter()
        self._pinned = PinnedSlots()
        self._layout: Layout | None = None
        self._signature: list[Any] = []
        self._specs: tuple[TensorSpec, ...] = ()
        self._offsets: list[int] = []  # of the tensors with elements, in the image
        self._views: dict[int, tuple[Layout, Any, list[torch.Tensor]]] = {}

    def write(self, slot: Slot, step: int, *, grow: bool = False) -> None:
        """Put the state after ``step`` into ``slot``, which is WRITING when this returns.

        :param grow: hold the slot already now, so that it goes to disk while it is being written.
        :raises StateError: something cannot be captured; the message names its path.
        :raises StorageFull: no room for the image.
        """
        batch = self._stage(slot, step)
        for targets, sources in self._grow(slot, batch) if grow else [(batch.targets, batch.sources)]:
            copy_all(targets, sources)

    def write_overlapped(self, slot: Slot, step: int, copier: Copier, done: Done, *, grow: bool = False) -> None:
        """Like :meth:`write`, but what the optimizers own is copied by ``copier`` after this returns; then ``done``
        is called.

        :param grow: as there; where an accelerator copies it is for ``done`` to hold the slot, because nothing is known
            to be final before.
        """
        host, device = self._stage(slot, step), None
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's stubs
            on_device = [source.is_cuda for source in host.sources]
            if any(on_device):
                there = host.only(on_device)
                device = CudaCopy(slot, self._pinned, there.targets, there.sources, there.owned)
                host = host.only([not is_there for is_there in on_device])
        at_once, later = host.only([not is_owned for is_owned in host.owned]), host.only(host.owned)
        copy_all(at_once.targets, at_once.sources)
        pieces = self._grow(slot, later) if grow and device is None else None
        copier.start(later.targets, later.sources, done, device, pieces=pieces, watched=later.watched)

    def close(self) -> None:
        """Let go of what CUDA knows of the slots. Nothing may be being copied."""
        self._pinned.close()

    def _grow(self, slot: Slot, batch: _Batch) -> Iterator[Piece]:
        """Hold the slot, of whose image nothing but ``batch`` is missing; returns the pieces in which to copy that."""
        slot.reached(min(batch.offsets, default=slot.info().size))
        slot.hold()
        return batch.pieces(slot)

    def _stage(self, slot: Slot, step: int) -> _Batch:
        """Write all of the image but its tensors; returns these, and where each of them goes."""
        content = self._content(step)
        layout, padded = self._layout_for(content.state)
        slot.begin(step, layout.size)
        image = slot.image
        image[: len(layout.header)] = layout.header
        image[layout.state.offset : layout.state.end] = padded
        views = self._views_of(slot, layout)
        return _Batch(views, content.sources, content.owned, self._offsets, content.watched)

    def _content(self, step: int) -> Content:
        states = {name: item.state_dict() for name, item in self._objects.items()}
        try:
            parts = Parts.of(states)
        except RecursionError:
            for name, state in states.items():  # says where
                tree.encode(state, TensorCollector(), path=name, allow_pickle=self._allow_pickle)
            raise
        content = self._plan.content(step, parts) if self._plan is not None else None
        if content is None:
            self._plan = None
            plan = Plan(self._objects, states, parts, self._moved, allow_pickle=self._allow_pickle)
            content = plan.first_content(step)
            if self._signature != plan.signature:
                self._layout, self._signature, self._specs = None, plan.signature, plan.specs
            self._plan = plan if plan.reusable else None
        return content

    def _layout_for(self, state: bytes) -> tuple[Layout, bytes]:
        padded = self._layout.encode_state(state) if self._layout is not None else None
        if self._layout is None or padded is None:
            self._layout = Layout.plan(self._specs, len(state))
            self._offsets = [self._layout.tensors[spec.name].offset for spec in self._specs if spec.size]
            padded = self._layout.encode_state(state)
        assert padded is not None  # noqa: S101  the layout was planned for a state of this size
        return self._layout, padded

    def _views_of(self, slot: Slot, layout: Layout) -> list[torch.Tensor]:
        cached = self._views.get(slot.index)
        if cached is not None and cached[0] is layout and cached[1] is slot.memory:
            return cached[2]
        views = []
        mapped = memoryview(slot.memory)  # keeps the slot from being unmapped, which a tensor alone does not
        for spec in self._specs:
            place = layout.tensors[spec.name]
            dtype = TORCH_DTYPES[spec.dtype]
            count = spec.size // dtype.itemsize
            if count:
                flat = torch.frombuffer(mapped, dtype=dtype, count=count, offset=HEADER + place.offset)
                views.append(flat.reshape(spec.shape))
        self._views[slot.index] = (layout, slot.memory, views)
        return views


class _Batch(NamedTuple):
    """Tensors to copy, where each of them goes, whether only an optimizer's step changes it, and the byte of the image
    at which it begins. ``watched`` are others whose versions tell of changes to what the optimizers own.
    """

    targets: Sequence[torch.Tensor]
    sources: Sequence[torch.Tensor]
    owned: Sequence[bool]
    offsets: Sequence[int]
    watched: Sequence[torch.Tensor] = ()

    def only(self, wanted: Sequence[bool]) -> _Batch:
        return _Batch(
            list(compress(self.targets, wanted)),
            list(compress(self.sources, wanted)),
            list(compress(self.owned, wanted)),
            list(compress(self.offsets, wanted)),
            self.watched,
        )

    def pieces(self, slot: Slot) -> Iterator[Piece]:
        """The tensors in the order in which they lie; the slot is told of each piece when the next is asked for."""
        order = sorted(range(len(self.offsets)), key=self.offsets.__getitem__)
        places = [*(self.offsets[index] for index in order), slot.info().size]
        begin = 0
        while begin < len(order):
            end = max(begin + 1, bisect_left(places, places[begin] + _PIECE, hi=len(order)))
            yield (
                [self.targets[index] for index in order[begin:end]],
                [self.sources[index] for index in order[begin:end]],
            )
            slot.reached(places[end])
            begin = end


def restore(image: memoryview, objects: Mapping[str, Stateful], *, allow_pickle: bool) -> int:
    """Load the state in ``image`` into the objects and return its step.

    :raises SnapshotCorrupt: the image is damaged.
    :raises StateError: it does not fit the registered objects; the message names which.
    """
    layout = Layout.parse(image)
    body = read_state(image, layout)
    if not isinstance(body, dict) or not isinstance(body.get("objects"), dict) or type(body.get("step")) is not int:
        raise SnapshotCorrupt("the image's state has not the form that resilient writes")
    compare_names(body["objects"], objects)
    same_types = parameters_have_types_of(layout, objects)
    meshes = _live_meshes(body["meshes"], objects) if "meshes" in body else None
    for name, item in objects.items():
        source = TensorSource(
            image, layout, views=_copied_by_loading(name, item), reuse=kept_by_loading(name, item), meshes=meshes
        )
        state = tree.decode(body["objects"][name], source, allow_pickle=allow_pickle)
        load_named(name, item, state, image, same_types=same_types)
    return int(body["step"])


def load_named(name: str, item: Stateful, state: Any, image: memoryview | None, *, same_types: bool) -> None:
    """Give an object its state back, as :func:`resilient.worker.loading.load` does.

    :raises StateError: it does not fit; the message says which.
    """
    try:
        load(item, state, image, same_types=same_types)
    except ResilientError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StateError(
            f"the snapshot's state of {name} does not fit the script's {type(item).__name__}: {error}",
            "undo the change to the script, or begin a new run with another run.id",
        ) from error


def _live_meshes(described: Any, objects: Mapping[str, Stateful]) -> LiveMeshes:
    states = {name: item.state_dict() for name, item in objects.items()}
    parameters = parameters_of(objects.values())  # an optimizer that has not stepped has no state yet
    return LiveMeshes([*Parts.of(states).leaves, *parameters], described)


def _copied_by_loading(name: str, item: Stateful) -> frozenset[str]:
    """Tensors that ``load_state_dict`` copies from: a module's parameters and buffers. They may be views of the slot.

    Anything else may be kept as it is given, and must not change with the snapshots that come to lie in the slot later.
    """
    if not isinstance(item, torch.nn.Module):
        return frozenset()
    own = itertools.chain(item.named_parameters(), item.named_buffers())
    return frozenset(f"{name}.{key}" for key, _ in own)


def kept_by_loading(name: str, item: Stateful) -> dict[str, torch.Tensor]:
    """The tensors of an optimizer's state. Its ``load_state_dict`` takes what it is given in their place, so it may as
    well be given them, filled anew. Those that share memory with another tensor are left out.
    """
    if not isinstance(item, torch.optim.Optimizer):
        return {}
    collector = TensorCollector()
    with suppress(StateError):
        tree.encode(item.state_dict(), collector, path=name)
    storages = Counter(tensor.untyped_storage().data_ptr() for tensor in collector.tensors.values())
    return {
        path: tensor
        for path, tensor in collector.tensors.items()
        if tensor.device.type == "cpu"
        and tensor.is_contiguous()
        and not tensor.requires_grad
        and storages[tensor.untyped_storage().data_ptr()] == 1
    }


def compare_names(stored: Mapping[str, Any], objects: Mapping[str, Stateful]) -> None:
    """:raises StateError: the snapshot is of other objects."""
    missing, extra = sorted(set(objects) - set(stored)), sorted(set(stored) - set(objects))
    if missing or extra:
        parts = [f"no state for {', '.join(missing)}"] if missing else []
        parts += [f"state for {', '.join(extra)}, which the script does not register"] if extra else []
        raise StateError(
            f"the snapshot has {' and '.join(parts)}",
            "register the same objects as before, or begin a new run with another run.id",
        )
