"""Going on from a snapshot of another number of ranks, or of another mesh: every rank reads what it has now.

What is distributed now is put together from the parts in whatever images they lie. What each rank has by itself comes
from the image of the same rank; ranks that there were not before take it from rank 0's, but for the generators, which
would draw the same numbers: those begin anew, from seeds that follow from rank 0's. So this is exact in every tensor
that is distributed or the same on all ranks, and does not continue the run bit for bit.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from resilient.errors import SnapshotCorrupt, StateError
from resilient.snapshot import tree
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.image import Layout
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.shards import DISTRIBUTED, references
from resilient.worker.capture import compare_names, load_named
from resilient.worker.checksum import checksum_of
from resilient.worker.contents import Box, Contents, StoredTensor, contents_of, read_tensors
from resilient.worker.leaves import TORCH_DTYPES, TensorSource
from resilient.worker.loading import parameters_have_types_of
from resilient.worker.ownership import parameters_of
from resilient.worker.positions import Stateful
from resilient.worker.rng import GlobalRandomState, mix, seeded
from resilient.worker.sharded import is_distributed

Slices = tuple[slice, ...]

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
    copy = LocalCopy(snapshot)
    world = copy.manifest.world_size
    file = next((file for file in copy.manifest.files if file.rank == rank), copy.manifest.files[0])
    contents = contents_of(copy, rank=file.rank, allow_pickle=allow_pickle)
    layout, body = contents.images[file.name].layout, contents.images[file.name].state
    compare_names(body["objects"], objects)
    same_types = parameters_have_types_of(layout, objects)
    targets = _Targets(contents, layout, objects)
    states = {name: tree.decode(body["objects"][name], targets.leaf, allow_pickle=allow_pickle) for name in objects}
    targets.fill(copy, file)
    for name, item in objects.items():
        load_named(name, item, states[name], None, same_types=same_types)
    return Resharded(int(body["step"]), rank >= world)


class _Targets:
    """Makes the tensors of the states, as the objects have them now, and then fills them."""

    def __init__(self, contents: Contents, layout: Layout, objects: Mapping[str, Stateful]) -> None:
        self._contents = contents
        self._layout = layout
        self._live = _live_tensors(objects)
        self._parameters = {
            name: parameters_of([item]) for name, item in objects.items() if isinstance(item, torch.optim.Optimizer)
        }
        self._parts: list[tuple[StoredTensor, Box, torch.Tensor]] = []
        self._own: list[tuple[str, torch.Tensor]] = []

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
        target = torch.empty(shape, dtype=dtype, device="cpu")
        if reference.shape is not None:
            self._parts.append((self._stored(reference.tensor), Box((0,) * len(shape), shape), target))
        else:
            self._own.append((reference.tensor, target))
        return target.numpy().reshape(payload[1]) if tag == "$array" else target

    def fill(self, copy: Copy, own: ImageFile) -> None:
        """Read what is missing, going through each image once.

        :param own: the image of what each rank has by itself.
        """
        wanted: dict[ImageFile, dict[str, list[tuple[torch.Tensor, Slices]]]] = defaultdict(lambda: defaultdict(list))
        for name, target in self._own:
            wanted[own][name].append((target, ()))
        for stored, box, target in self._parts:
            for part, lying in stored.parts.items():
                cut = _overlap(box, part)
                if cut is not None:
                    wanted[lying.file][lying.place.spec.name].append((target[cut[0]], cut[1]))
        for file, targets in wanted.items():
            for name, tensor in read_tensors(copy, self._contents, file, targets):
                for target, there in targets[name]:
                    target.copy_(tensor[there])

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
        from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # noqa: PLC0415

        shape, offsets = compute_local_shape_and_global_offset(like.shape, like.device_mesh, like.placements)
        local = torch.empty(shape, dtype=dtype, device=like.device)
        if local.numel():
            self._parts.append((self._stored(name), Box(tuple(offsets), tuple(shape)), local))
        with torch.no_grad():
            return DTensor.from_local(
                local, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
            )


def _overlap(target: Box, source: Box) -> tuple[Slices, Slices] | None:
    """What two parts of one tensor have in common, in each of them; None for nothing."""
    in_target, in_source = [], []
    for mine, length, theirs, there in zip(target.offsets, target.shape, source.offsets, source.shape, strict=True):
        first, last = max(mine, theirs), min(mine + length, theirs + there)
        if first >= last:
            return None
        in_target.append(slice(first - mine, last - mine))
        in_source.append(slice(first - theirs, last - theirs))
    return tuple(in_target), tuple(in_source)


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
