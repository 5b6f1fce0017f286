"""What a snapshot holds, under the names that ``torch.distributed.checkpoint`` (DCP) would give it.

A name is the path to a value through the registered objects, with dots: ``model.0.weight``,
``optimizer.state.0.exp_avg``, ``optimizer.param_groups.0.lr``. Tensors that lie in parts in several images are one. Of
everything else that each rank has by itself, the image of one rank counts.

Beside these there are the names that ``torch.distributed.checkpoint.state_dict`` uses: an optimizer's state under the
names of the parameters instead of their numbers, and without the ``module.`` of DistributedDataParallel.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree
from resilient.snapshot.copies import Copy
from resilient.snapshot.lying import Images, Lying, OpenedImage
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.shards import DISTRIBUTED, Reference, references
from resilient.worker.filling import Box
from resilient.worker.leaves import TORCH_DTYPES, TensorSource

_STORED_TAGS = frozenset({"$tensor", "$strided", "$array"})
_WRAPPER = "module."


@dataclass
class StoredTensor:
    """A tensor, and where its parts lie.

    :ivar unplaced: a rank has a part of which it is not known where it belongs.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: dict[Box, Lying] = field(default_factory=dict)
    unplaced: bool = False

    @property
    def whole(self) -> bool:
        return sum(prod(box.shape) for box in self.parts) == prod(self.shape)


@dataclass(frozen=True)
class StoredValue:
    """Anything else; tensors and arrays inside it are :class:`StoredLeaf`."""

    value: Any
    file: ImageFile


@dataclass(frozen=True)
class StoredLeaf:
    """A tensor or array that is part of a value, and not yet read."""

    tag: str
    payload: Any
    tensor: str


@dataclass
class Contents:
    """Everything in a snapshot.

    :ivar tensors: by name.
    :ivar values: likewise.
    :ivar paths: of each name, the keys that lead to it.
    :ivar aliases: other names for some.
    :ivar parameters: of each optimizer, the names of its parameters, without that of the module's object.
    """

    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    values: dict[str, StoredValue] = field(default_factory=dict)
    paths: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, list[str | None]] = field(default_factory=dict)
    images: dict[str, OpenedImage] = field(default_factory=dict)


def contents_of(copy: Copy, *, rank: int = 0, allow_pickle: bool = False) -> Contents:
    """Look into all images, verifying what is read.

    :param rank: whose image counts for what each rank has by itself; where it lacks something, any other.
    :raises SnapshotCorrupt: an image is damaged, or parts of a tensor are in none of them.
    :raises StateError: it is not known where in a tensor the parts belong.
    """
    found, images = Contents(), Images(copy)
    for file in sorted(copy.manifest.files, key=lambda file: (file.rank != rank, file.rank)):
        found.images[file.name] = opened = open_image(images, file, copy.place)
        try:
            _add(found, file, opened, allow_pickle=allow_pickle)
        except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
            raise SnapshotCorrupt(f"{copy.place}: the state in {file.name} is malformed: {error!r}") from error
    for name, tensor in found.tensors.items():
        if tensor.unplaced and not tensor.whole:
            raise StateError(
                f"{name} lies in parts of which nobody can say where in the whole they belong",
                "resume on as many ranks and the mesh that the snapshot was taken on",
            )
        if not tensor.whole:
            raise SnapshotCorrupt(f"{copy.place}: parts of {name} are in none of the images")
    found.aliases = {alias: name for alias, name in _aliases(found) if alias not in found.paths}
    return found


def open_image(images: Images, file: ImageFile, place: str) -> OpenedImage:
    """Look into an image, verifying what is read.

    :param place: of the snapshot, for messages.
    :raises SnapshotCorrupt: it is damaged, or was not written by resilient.
    """
    opened = images.open(file)
    if not isinstance(opened.state, dict) or not isinstance(opened.state.get("objects"), dict):
        raise SnapshotCorrupt(f"{place}: the state in {file.name} has not the form that resilient writes")
    return opened


def _add(found: Contents, file: ImageFile, opened: OpenedImage, *, allow_pickle: bool) -> None:
    layout, body = opened.layout, opened.state
    leaves: dict[int, tuple[torch.Tensor, Reference]] = {}

    def leaf(tag: str, payload: Any) -> Any:
        if tag not in _STORED_TAGS and tag != DISTRIBUTED:
            return TensorSource(memoryview(b""), layout)(tag, payload)
        [reference] = references({tag: payload})
        place = layout.tensors[reference.tensor]
        if tag == "$array":
            return StoredLeaf(tag, payload, reference.tensor)
        shape = place.spec.shape if reference.shape is None else reference.shape
        stand_in = torch.empty(shape, dtype=TORCH_DTYPES[place.spec.dtype], device="meta")
        leaves[id(stand_in)] = (stand_in, reference)
        return stand_in

    states = {}
    for name, state in body["objects"].items():
        try:
            states[name] = tree.decode(state, leaf, allow_pickle=allow_pickle)
        except StateError as error:
            warnings.warn(f"{name} is left out: {error}", stacklevel=4)
    flat, paths = flatten_state_dict(states)
    written = {name: tuple(path) for name, path in body.get("paths", {}).items()}
    for name, value in flat.items():
        found.paths.setdefault(name, written.get(name, paths[name]))
        if isinstance(value, torch.Tensor):
            stand_in, reference = leaves[id(value)]
            _add_tensor(found, name, stand_in, reference, opened.tensors[reference.tensor])
        elif name not in found.values:
            found.values[name] = StoredValue(_without_stand_ins(value, leaves), file)
    for optimizer, names in body.get("parameters", {}).items():
        found.parameters.setdefault(optimizer, [_bare(name, body["objects"]) for name in names])


def _add_tensor(found: Contents, name: str, stand_in: torch.Tensor, reference: Reference, lying: Lying) -> None:
    shape = tuple(stand_in.shape)
    known = found.tensors.setdefault(name, StoredTensor(stand_in.dtype, shape))
    if reference.shape is None:
        if not known.parts:
            known.parts[Box((0,) * len(shape), shape)] = lying
    elif reference.offsets is not None and (lying.place.spec.size or 0 in shape):
        known.parts.setdefault(Box(reference.offsets, lying.place.spec.shape), lying)
    known.unplaced |= reference.shape is not None and reference.offsets is None


def _without_stand_ins(value: Any, leaves: Mapping[int, tuple[torch.Tensor, Reference]]) -> Any:
    """Tuples and the like are one value, with whatever is inside."""
    if isinstance(value, torch.Tensor):
        _, reference = leaves[id(value)]
        return StoredLeaf("$tensor", reference.tensor, reference.tensor)
    if type(value) in (tuple, list, set, frozenset):
        return type(value)(_without_stand_ins(item, leaves) for item in value)
    return value


def _bare(name: str | None, objects: Mapping[str, Any]) -> str | None:
    """A parameter's name in its own module, as a model without a wrapper has it."""
    if name is None:
        return None
    owner = max((owner for owner in objects if name.startswith(f"{owner}.")), key=len, default="")
    return name.removeprefix(f"{owner}.").removeprefix(_WRAPPER)


def _aliases(found: Contents) -> Iterator[tuple[str, str]]:
    for name, path in found.paths.items():
        owner, *keys = map(str, path)
        names = found.parameters.get(owner)
        if names is not None and keys[:1] == ["state"] and keys[1].isdecimal() and int(keys[1]) < len(names):
            parameter = names[int(keys[1])]
            if parameter is not None:
                yield ".".join([owner, "state", parameter, *keys[2:]]), name
        elif keys and keys[0].startswith(_WRAPPER):
            yield ".".join([owner, keys[0].removeprefix(_WRAPPER), *keys[1:]]), name
