"""One rank of the benchmark of sharded checkpoints: it saves and loads its part when it is told to, and says how long.

Everything is deterministic, so each rank of any number of them knows what it has to have after a load.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from benchmarks.snapshot_disk import drop_caches, read_raw, sync_tree, write_raw
from benchmarks.snapshot_limits import Limits
from resilient.convert.dcp import SnapshotReader
from resilient.protocol.arena import Arena
from resilient.snapshot.hashing import digest
from resilient.worker.capture import Capture, flatten_objects, restore
from resilient.worker.overlap import Copier
from resilient.worker.reshard import reshard
from resilient.worker.rng import GlobalRandomState

dcp: Any = checkpoint  # its stubs export only a part of what it documents
_WIDTH = 2048
_SLOTS = 3
BYTES_PER_LAYER = 3 * 4 * _WIDTH * _WIDTH  # of the parameter and of what AdamW knows of it


class _Part:
    """What the limits want of a state: this rank's tensors."""

    def __init__(self, tensors: list[torch.Tensor]) -> None:
        self._tensors = tensors
        self.size = sum(tensor.nbytes for tensor in tensors)

    def tensors(self) -> list[torch.Tensor]:
        return self._tensors


class Rank:
    """A model under FSDP2, AdamW's state of it, and slots in memory that the parent's drain reads."""

    def __init__(self, rank: int, ranks: int, layers: int, memory: Path) -> None:
        torch.manual_seed(0)
        mesh = init_device_mesh("cpu", (ranks,))
        self.model = nn.Sequential(*(nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(layers)))
        for layer in self.model:
            fully_shard(layer, mesh=mesh)
        fully_shard(self.model, mesh=mesh)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, foreach=True)
        for parameter in self.model.parameters():
            parameter.grad = parameter.detach().clone()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self._rank = rank
        self._objects = flatten_objects({"model": self.model, "optimizer": self.optimizer, "rng": GlobalRandomState()})
        self._capture, self._copier = Capture(self._objects, allow_pickle=False), Copier()
        self._arena = Arena.shared(memory, rank, _SLOTS)
        self._expected = self._digests()
        self.size = sum(tensor.nbytes for tensor in self._tensors())
        self._limits: Limits | None = None

    def _tensors(self) -> Iterator[torch.Tensor]:
        for parameter in self.model.parameters():
            for tensor in (parameter, *self.optimizer.state[parameter].values()):
                yield (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()

    def _digests(self) -> list[str]:
        return [digest(tensor.contiguous().view(-1).view(torch.uint8).numpy().data) for tensor in self._tensors()]

    def _forget(self) -> None:
        for tensor in self._tensors():
            tensor.zero_()

    def _check(self) -> None:
        if self._digests() != self._expected:
            raise RuntimeError(f"rank {self._rank}: what was loaded is not what was saved")

    # --- limits

    def limits(self, folder: Path) -> dict[str, float]:
        part = _Part(list(self._tensors()))
        if self._limits is None:
            self._limits = Limits(part)  # type: ignore[arg-type]  # as much of a state as they look at
            torch._foreach_copy_(self._limits.views, part.tensors())
        path = folder / f"raw-{self._rank}"
        dist.barrier()
        began = time.perf_counter()
        torch._foreach_copy_(self._limits.views, part.tensors())
        copied = time.perf_counter()
        dist.barrier()
        start = time.perf_counter()
        write_raw(path, self._limits.memory)
        written = time.perf_counter()
        read_raw(path, self._limits.memory)
        seconds = {"stall": copied - began, "durable": written - start, "load": time.perf_counter() - written}
        path.unlink()
        return seconds

    # --- resilient

    def capture(self, step: int, *, overlapped: bool) -> dict[str, float]:
        """The image of a step into a slot, which the parent has written to disk."""
        dist.barrier()
        began = time.perf_counter()
        slot = self._arena.next_free()
        if slot is None:
            raise RuntimeError("no slot is free")

        def done(unchanged: bool) -> None:
            if not unchanged:
                raise RuntimeError("the state was changed while it was copied")
            slot.complete(self._arena.next_sequence(), {}, hold=True)

        if overlapped:
            self._capture.write_overlapped(slot, step, self._copier, done, grow=True)
        else:
            self._capture.write(slot, step)
            done(True)
        stall = time.perf_counter() - began
        self._copier.wait()
        return {"stall": stall, "slot": slot.index}

    def install(self, index: int) -> dict[str, float]:
        """The parent has read an image into this slot."""
        self._forget()
        dist.barrier()
        began = time.perf_counter()
        slot = self._arena.slots[index]
        restore(slot.image, self._objects, allow_pickle=False)
        seconds = time.perf_counter() - began
        slot.void()
        self._check()
        return {"load": seconds}

    def reshard(self, snapshot: Path) -> dict[str, float]:
        self._forget()
        drop_caches(snapshot)
        dist.barrier()
        began = time.perf_counter()
        reshard(snapshot, self._objects, rank=self._rank, allow_pickle=False)
        dist.barrier()
        seconds = time.perf_counter() - began
        self._check()
        return {"load": seconds}

    # --- torch.distributed.checkpoint

    def _tree(self) -> dict[str, Any]:
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def dcp_save(self, path: Path, *, asynchronous: bool) -> dict[str, float]:
        """As it is, and then synced by rank 0: before, a power cut would take it along."""
        dist.barrier()
        began = time.perf_counter()
        if asynchronous:
            response = dcp.async_save(self._tree(), checkpoint_id=path)
            stall = time.perf_counter() - began
            response.result()
        else:
            dcp.save(self._tree(), checkpoint_id=path)
            stall = time.perf_counter() - began
        dist.barrier()
        if self._rank == 0:
            sync_tree(path)
        dist.barrier()
        return {"stall": stall, "durable": time.perf_counter() - began}

    def dcp_load(self, path: Path, *, snapshot: bool = False) -> dict[str, float]:
        """:param snapshot: it is one of resilient's, for its reader."""
        self._forget()
        drop_caches(path)
        dist.barrier()
        began = time.perf_counter()
        tree = self._tree()
        dcp.load(tree, checkpoint_id=path, storage_reader=SnapshotReader(path) if snapshot else None)
        set_state_dict(self.model, self.optimizer, model_state_dict=tree["model"], optim_state_dict=tree["optimizer"])
        dist.barrier()
        seconds = time.perf_counter() - began
        self._check()
        return {"load": seconds}


def serve(place: tuple[int, int], layers: int, memory: Path, store: Path, parent: Connection) -> None:
    """Do what the parent says until it says None.

    :param place: the rank, and how many there are.
    """
    rank, ranks = place
    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_WORLD_SIZE=str(ranks))
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    here = Rank(rank, ranks, layers, memory)
    parent.send(here.size)
    while (told := parent.recv()) is not None:
        operation, arguments = told
        parent.send(getattr(here, operation)(**arguments))
    dist.destroy_process_group()
