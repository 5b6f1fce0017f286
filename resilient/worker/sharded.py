"""Tensors that are spread over ranks: each rank stores the part that it has, and nothing is gathered.

``DTensor`` is what FSDP2, HSDP and tensor parallelism make of parameters, and what optimizers make of their states. Its
part on this rank is a plain tensor, and goes into the image as one. Beside it stands what the whole is: its shape and
strides, where in it the part lies, over which mesh of ranks it is spread, and how. That is enough to give it back on
the same mesh, and to put the whole together on any other.

Torch's module is not imported here before somebody else has: without it, nothing is distributed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from math import prod
from typing import Any

import torch

from resilient.errors import SnapshotCorrupt, StateError

_MODULE = "torch.distributed.tensor"


def _distributed_type() -> Any:
    return getattr(sys.modules.get(_MODULE), "DTensor", None)


def is_distributed(value: Any) -> bool:
    kind = _distributed_type()
    return kind is not None and isinstance(value, kind)


def is_replicated(tensor: Any) -> bool:
    """Whether every rank has all of a distributed tensor."""
    return all(placement.is_replicate() for placement in tensor.placements)


def local_parts(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Each tensor, or its part on this rank: the very tensor that holds it, not another view of it."""
    kind = _distributed_type()
    if kind is None:
        return tensors
    return [tensor._local_tensor if isinstance(tensor, kind) else tensor for tensor in tensors]  # noqa: SLF001


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """One tensor, likewise."""
    return local_parts((tensor,))[0]


def specs_of(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """How each is distributed, to be compared; None for those that are not."""
    kind = _distributed_type()
    if kind is None:
        return [None] * len(tensors)
    return [tensor._spec if isinstance(tensor, kind) else None for tensor in tensors]  # noqa: SLF001


def place_of(tensor: Any) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """Shape of the part of a distributed tensor that this rank should have, and its offsets in the whole; None for
    these where the part lies there in several pieces.
    """
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset  # noqa: PLC0415  see above

    mesh, placements = tensor.device_mesh, tensor.placements
    shape, offsets = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
    in_one = all(
        placement.split_factor == _ranks_behind(mesh, placements, number)
        for number, placement in enumerate(placements)
        if type(placement).__name__ == "_StridedShard"
    )
    return tuple(shape), tuple(offsets) if in_one and len(offsets) == tensor.ndim else None


def _ranks_behind(mesh: Any, placements: Sequence[Any], number: int) -> int:
    """Among how many ranks the dimensions of the mesh after this one divide the same dimension of the tensor.

    FSDP divides what tensor parallelism has divided before, though its dimension of the mesh comes first, and says so
    by a strided placement: each rank skips what is those others', and together with theirs its part is one again.
    """
    return prod(
        mesh.size(later)
        for later, placement in enumerate(placements)
        if later > number and type(placement).__name__ == "Shard" and placement.dim == placements[number].dim
    )


class Meshes:
    """The meshes that the tensors of one state are spread over. Tensors refer to them by number.

    :ivar described: each mesh as JSON.
    """

    def __init__(self) -> None:
        self.described: list[dict[str, Any]] = []
        self._numbers: dict[Any, int] = {}

    def describe(self, path: str, tensor: Any) -> dict[str, Any]:
        """What the whole is, of which this rank has a part.

        :raises StateError: the ranks hold summands and not parts of it.
        """
        placements = [_placement(path, placement) for placement in tensor.placements]
        shape, offsets = place_of(tensor)
        fits = offsets is not None and shape == tuple(local_part(tensor).shape)
        return {
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
            # None: not a part that the placements speak of, such as one that the script has cut by itself, or several
            "offsets": list(offsets) if offsets is not None and fits else None,
            "mesh": self._number(tensor.device_mesh),
            "placements": placements,
        }

    def _number(self, mesh: Any) -> int:
        if mesh not in self._numbers:
            self._numbers[mesh] = len(self.described)
            self.described.append(describe_mesh(mesh))
        return self._numbers[mesh]


def describe_mesh(mesh: Any) -> dict[str, Any]:
    """A mesh as JSON; equal ones are the same arrangement of the same ranks."""
    names = mesh.mesh_dim_names
    return {
        "device": mesh.device_type,
        "shape": list(mesh.mesh.shape),
        "names": list(names) if names is not None else None,
        "ranks": mesh.mesh.flatten().tolist(),
    }


def _placement(path: str, placement: Any) -> list[Any]:
    if placement.is_replicate():
        return ["replicate"]
    kind = type(placement).__name__
    if kind == "Shard":
        return ["shard", placement.dim]
    if kind == "_StridedShard":
        return ["strided", placement.dim, placement.split_factor]
    raise StateError(
        f"the tensor at {path} is distributed as {placement}, which has no place of its own in the whole",
        "redistribute it to shards or replicas before it becomes part of the state",
    )


class LiveMeshes:
    """The meshes of this process, among which those of an image are found again.

    :param states: what the registered objects hold now.
    :param described: the meshes of the image.
    """

    def __init__(self, states: Iterable[Any], described: Any) -> None:
        if not isinstance(described, list) or not all(isinstance(mesh, dict) for mesh in described):
            raise SnapshotCorrupt("the image's meshes have not the form that resilient writes")
        self._described = described
        self._live = [tensor.device_mesh for tensor in states if is_distributed(tensor)]

    def rebuild(self, local: torch.Tensor, payload: Mapping[str, Any]) -> torch.Tensor:
        """The distributed tensor of which ``local`` is this rank's part.

        :raises StateError: the objects are not spread over the mesh that they were spread over.
        """
        from torch.distributed.tensor import DTensor  # noqa: PLC0415  see above

        wanted = self._described[payload["mesh"]]
        mesh = next((mesh for mesh in self._live if describe_mesh(mesh) == wanted), None)
        if mesh is None:
            raise StateError(
                f"the snapshot's tensors are spread over a mesh of {wanted.get('shape')} ranks, the script's are not",
                "wrap the model as before, or set run.allow_reshard=true to deal a durable snapshot out to other ranks",
            )
        with torch.no_grad():
            return DTensor.from_local(
                local.to(mesh.device_type),
                mesh,
                [_parsed(placement) for placement in payload["placements"]],
                run_check=False,
                shape=torch.Size(payload["shape"]),
                stride=tuple(payload["stride"]),
            )


def _parsed(placement: Any) -> Any:
    from torch.distributed.tensor import Replicate, Shard  # noqa: PLC0415  see above
    from torch.distributed.tensor.placement_types import _StridedShard  # noqa: PLC0415  see above

    kind, *numbers = placement
    if kind == "strided":
        dim, split = numbers
        return _StridedShard(dim, split_factor=split)
    return {"replicate": Replicate, "shard": Shard}[kind](*numbers)
