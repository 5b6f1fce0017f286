"""A model that is spread over ranks, with all that makes this difficult, and snapshots of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture, flatten_objects
from tests.processes import in_ranks


class Network(nn.Module):
    """Shards of different sizes, an empty one, tied weights, and a buffer that all ranks have."""

    def __init__(self, mesh: DeviceMesh | None) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.hidden = nn.Linear(6, 5)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight
        self.last = nn.Linear(7, 1)
        scale = torch.rand(3)
        self.register_buffer(
            "scale", scale if mesh is None else distribute_tensor(scale, mesh, [Replicate()] * mesh.ndim)
        )

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        embedded = self.embed(tokens)
        result: torch.Tensor = self.last(self.head(embedded) + self.hidden(embedded).sum(-1, keepdim=True))
        return result


class Training:
    """:param mesh: over which all is spread; None for none."""

    def __init__(self, mesh: DeviceMesh | None, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = Network(mesh)
        for module in (self.model.hidden, self.model) if mesh is not None else ():
            fully_shard(module, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=0.1)
        self.objects = flatten_objects({"model": self.model, "optimizer": self.optimizer})
        self.capture = Capture(self.objects, allow_pickle=False)

    def step(self, number: int, rank: int) -> None:
        generator = torch.Generator().manual_seed(100 * rank + number)
        self.optimizer.zero_grad()
        self.model(torch.randint(0, 7, (4, 2), generator=generator)).pow(2).sum().backward()
        self.optimizer.step()

    def parts(self) -> dict[str, torch.Tensor]:
        """A copy of all that this rank has."""
        found = dict(self.model.state_dict())
        for number, state in self.optimizer.state_dict()["state"].items():
            found |= {f"{number}.{name}": value for name, value in state.items()}
        return {
            name: (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach().clone()
            for name, tensor in found.items()
        }

    def wholes(self) -> dict[str, torch.Tensor]:
        """All tensors, put together by torch."""
        return wholes_of(self.model, self.optimizer)


def wholes_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All tensors of both, put together by torch; on all ranks at once."""
    found = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for number, state in optimizer.state_dict()["state"].items():
        found |= {f"optimizer.state.{number}.{name}": value for name, value in state.items()}
    return {
        name: (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().clone()
        for name, tensor in found.items()
    }


def mesh_of(shape: tuple[int, ...]) -> DeviceMesh:
    return init_device_mesh("cpu", shape, mesh_dim_names=("replicate", "shard")[-len(shape) :])


def _save(rank: int, folder: Path, shape: tuple[int, ...]) -> dict[str, torch.Tensor]:
    training, arena = Training(mesh_of(shape), 0), Arena.private(1)
    for number in range(3):
        training.step(number, rank)
    training.capture.write(arena.slots[0], 3)
    images: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(images, bytes(arena.slots[0].image))
    if rank == 0:
        draft = Draft("spread", 3, 0, {number: memoryview(image) for number, image in enumerate(images)})
        commit(Storage(), folder, draft)
    return training.wholes()


def snapshot_of_ranks(folder: Path, shape: tuple[int, ...]) -> tuple[Path, dict[str, torch.Tensor]]:
    """A snapshot by as many ranks, arranged so, and the tensors that are in it, put together."""
    wholes = in_ranks(torch.Size(shape).numel(), folder, _save, folder, shape)
    return folder / names.snapshot_name(3), wholes[0]
