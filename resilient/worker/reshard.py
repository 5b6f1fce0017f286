"""Going on from a snapshot of another number of ranks, or of another mesh: every rank reads what it has now.

What is distributed now is put together from the parts in whatever images they lie. What each rank has by itself comes
from the image of the same rank; ranks that there were not before take it from rank 0's, but for the generators, which
would draw the same numbers: those begin anew, from seeds that follow from rank 0's. So this is exact in every tensor
that is distributed or the same on all ranks, and does not continue the run bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.lying import OpenedImage
from resilient.snapshot.shards import DISTRIBUTED, references
from resilient.worker.capture import compare_names, kept_by_loading, load_named
from resilient.worker.checksum import checksum_of
from resilient.worker.contents import Contents, StoredTensor, contents_of
from resilient.worker.filling import Box, Wanted, fill, others_read
from resilient.worker.leaves import TORCH_DTYPES, TensorSource
from resilient.worker.loading import parameters_have_types_of
from resilient.worker.ownership import parameters_of
from resilient.worker.positions import Stateful
from resilient.worker.rng import GlobalRandomState, mix, seeded
from resilient.worker.sharded import is_distributed, place_of

_STORED = frozenset({"$tensor", "$strided", "$array", DISTRIBUTED})
_CONTAINERS = (dict, tuple, set, frozenset)
_OF_PARAMETER = re.compile(r"(.+)\.state\.(\d+)\..+")


@dataclass(frozen=True)
class Resharded:
    """What was loaded.

    :param new_rank: there was no such rank when the snapshot was taken.
    """

    step: int
    new_rank: bool


def reshard(snapshot: Path, objects: Mapping[str, Stateful], *, rank: int, allow_pickle: bool) -> Resharded:
    """Load a snapshot into objects that are spread otherwise. No collective: each rank reads for itself.

    :raises SnapshotCorrupt: it is damaged.
    :raises StateError: it does not fit the objects.
    """
    copy = LocalCopy(snapshot, shared=others_read())
    world = copy.manifest.world_size
    file = next((file for file in copy.manifest.files if file.rank == rank), copy.manifest.files[0])
    contents = contents_of(copy, rank=file.rank, allow_pickle=allow_pickle)
    layout, body = contents.images[file.name].layout, contents.images[file.name].state
    compare_names(body["objects"], objects)
    same_types = parameters_have_types_of(layout, objects)
    targets = _Targets(contents, contents.images[file.name], objects)
    states = {name: tree.decode(body["objects"][name], targets.leaf, allow_pickle=allow_pickle) for name in objects}
    targets.fill(copy)
    for name, item in objects.items():
        load_named(name, item, states[name], None, same_types=same_types)
    return Resharded(int(body["step"]), rank >= world)


class _Targets:
    """Makes the tensors of the states, as the objects have them now, and then fills them."""

    def __init__(self, contents: Contents, own: OpenedImage, objects: Mapping[str, Stateful]) -> None:
        self._contents = contents
        self._own = own
        self._layout = own.layout
        self._live = _live_tensors(objects)
        self._kept = {
            path: kept for name, item in objects.items() for path, kept in kept_by_loading(name, item).items()
        }
        self._parameters = {
            name: parameters_of([item]) for name, item in objects.items() if isinstance(item, torch.optim.Optimizer)
        }
        self._wanted: list[Wanted] = []

    def leaf(self, tag: str, payload: Any) -> Any:
        """For :func:`resilient.snapshot.tree.decode`: tensors and arrays that have no values yet."""
        if tag not in _STORED:
            return TensorSource(memoryview(b""), self._layout)(tag, payload)
        try:
            [reference] = references({tag: payload})
            spec = self._layout.tensors[reference.tensor].spec
        except (TypeError, ValueError, LookupError, AttributeError) as error:
            raise SnapshotCorrupt(f"the state holds a malformed {tag}: {error!r}") from error
        shape, dtype = reference.shape or spec.shape, TORCH_DTYPES[spec.dtype]
        like = self._like(reference.tensor)
        if like is not None and is_distributed(like) and tuple(like.shape) == shape:
            return self._distributed(reference.tensor, like, dtype)
        target = self._memory(reference.tensor, shape, dtype, torch.device("cpu"))
        if reference.shape is not None:
            self._want(self._stored(reference.tensor), Box((0,) * len(shape), shape), target)
        else:
            self._wanted.append(Wanted.whole(self._own.tensors[reference.tensor], target))
        return target.numpy().reshape(payload[1]) if tag == "$array" else target

    def fill(self, copy: Copy) -> None:
        """Read them all, going through each image once."""
        for _ in fill(copy, self._wanted):
            pass

    def _want(self, stored: StoredTensor, box: Box, target: torch.Tensor) -> None:
        """Fill ``target``, which is this part of the whole, from whatever parts of it are stored."""
        for part, lying in stored.parts.items():
            common = _overlap(box, part)
            if common is not None:
                inside = tuple(
                    slice(first - mine, first - mine + length)
                    for first, mine, length in zip(common.offsets, box.offsets, common.shape, strict=True)
                )
                there = tuple(first - theirs for first, theirs in zip(common.offsets, part.offsets, strict=True))
                self._wanted.append(Wanted(lying, Box(there, common.shape), target[inside]))

    def _memory(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """What the tensor is to lie in: an optimizer's own, where it has one already that fits, for the first touch of
        fresh memory takes longer than the copy itself.
        """
        known = self._kept.get(name)
        if known is not None and (known.shape, known.dtype, known.device) == (shape, dtype, device):
            return known
        return torch.empty(shape, dtype=dtype, device=device)

    def _stored(self, name: str) -> StoredTensor:
        stored = self._contents.tensors.get(name)
        if stored is None:
            raise StateError(f"{name} is distributed, and hidden in a tuple or the like: it cannot be put together")
        return stored

    def _like(self, name: str) -> torch.Tensor | None:
        """The tensor that the script has there now, or the parameter that an optimizer will keep it for."""
        found = self._live.get(name)
        place = _OF_PARAMETER.fullmatch(name)
        if found is None and place is not None:
            parameters, number = self._parameters.get(place[1], []), int(place[2])
            return parameters[number] if number < len(parameters) else None
        return found

    def _distributed(self, name: str, like: Any, dtype: torch.dtype) -> torch.Tensor:
        from torch.distributed.tensor import DTensor  # noqa: PLC0415  somebody has, by now

        shape, offsets = place_of(like)
        if offsets is None:
            raise StateError(
                f"{name} is spread as {like.placements}, so that a rank has several pieces of it",
                "resume on the mesh that the snapshot was taken on",
            )
        local = self._memory(name, shape, dtype, like.device)
        if local.numel():
            self._want(self._stored(name), Box(offsets, shape), local)
        with torch.no_grad():
            return DTensor.from_local(
                local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )


def _overlap(one: Box, other: Box) -> Box | None:
    """What two parts of one tensor have in common; None for nothing."""
    ends = [
        (max(mine, theirs), min(mine + length, theirs + there))
        for mine, length, theirs, there in zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    ]
    if any(first >= last for first, last in ends):
        return None
    return Box(tuple(first for first, _ in ends), tuple(last - first for first, last in ends))


def _live_tensors(objects: Mapping[str, Stateful]) -> dict[str, torch.Tensor]:
    """What the objects hold now, by path."""
    found: dict[str, torch.Tensor] = {}

    def record(path: str, value: Any) -> dict[str, Any] | None:
        if isinstance(value, torch.Tensor):
            found[path] = value
        return None if isinstance(value, _CONTAINERS) else {}

    for name, item in objects.items():
        tree.encode(item.state_dict(), record, path=name)
    return found


def fresh_generators(state: Mapping[str, Any], rank: int) -> dict[str, Any]:
    """A state of the generators for ``rank``, which follows from another rank's."""
    drawn = checksum_of([state["torch"]])
    with seeded(mix(drawn.host if drawn is not None else 0, rank)):
        return {**state, **{name: value for name, value in GlobalRandomState().state_dict().items() if name != "cuda"}}
