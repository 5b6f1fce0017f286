"""Snapshots as checkpoints of ``torch.distributed.checkpoint`` (DCP), to load them with, and to write them from there.

``SnapshotReader`` lets DCP load a snapshot into any state, on any number of ranks and any mesh, or in one process::

    state = {"model": model.state_dict()}
    torch.distributed.checkpoint.load(state, storage_reader=SnapshotReader("runs/x/snapshots/latest"))
    model.load_state_dict(state["model"])

The names are those under which the objects were registered. ``SnapshotWriter`` is for the way back. What to read and
write is planned by DCP's own planners. https://docs.pytorch.org/docs/stable/distributed.checkpoint.html
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem
from torch.distributed.checkpoint.storage import StorageReader
from torch.futures import Future

from resilient.convert.dcp_writer import SnapshotWriter
from resilient.snapshot.copies import Copy, LocalCopy
from resilient.snapshot.lying import Lying
from resilient.snapshot.manifest import ImageFile
from resilient.worker.contents import Contents, StoredLeaf, StoredValue, contents_of
from resilient.worker.filling import Box, Wanted, fill, others_read
from resilient.worker.leaves import TORCH_DTYPES

__all__ = ["SnapshotReader", "SnapshotWriter"]


class SnapshotReader(StorageReader):
    """Reads one snapshot, every byte of it verified.

    :param path: directory of the snapshot, or a link to it such as ``latest``.
    :param rank: whose image counts for what each rank has by itself, such as a generator's state; by default the own
        rank's where there are as many ranks as in the snapshot, otherwise rank 0's.
    :param allow_pickle: state that has no other form may be unpickled, which can run code.
    :raises SnapshotCorrupt: on reading; the snapshot is damaged or incomplete.
    """

    def __init__(self, path: str | os.PathLike[str], *, rank: int | None = None, allow_pickle: bool = False) -> None:
        self._path = Path(path)
        self._rank = rank
        self._allow_pickle = allow_pickle
        self._opened: tuple[Copy, Contents] | None = None

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id is not None:
            self._path = Path(checkpoint_id)
        self._opened = None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return Path(checkpoint_id).is_dir()

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        contents = self._contents
        entries: dict[str, Any] = {
            name: TensorStorageMetadata(
                TensorProperties(dtype=tensor.dtype),
                torch.Size(tensor.shape),
                [ChunkStorageMetadata(torch.Size(box.offsets), torch.Size(box.shape)) for box in tensor.parts],
            )
            for name, tensor in contents.tensors.items()
        }
        entries |= {name: BytesStorageMetadata() for name in contents.values}
        return Metadata(
            _Named(entries, contents.aliases),
            planner_data=dict(contents.paths),
            storage_meta=StorageMeta(checkpoint_id=self._path),
        )

    def set_up_storage_reader(self, metadata: Metadata, is_coordinator: bool, *_: Any, **__: Any) -> None:
        """All is known from the metadata's reading."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        return plans

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Go through each image once, and give every tensor to the planner as soon as it is there."""
        items, wanted = list[ReadItem](), list[Wanted]()
        for item in plan.items:
            if item.type == LoadItemType.BYTE_IO:
                self._load_value(item, planner)
                continue
            items.append(item)
            wanted.append(Wanted(self._lying(item), _box(item), planner.resolve_tensor(item).detach()))
        for number in fill(self._open()[0], wanted):
            planner.commit_tensor(items[number], wanted[number].target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    @property
    def _contents(self) -> Contents:
        return self._open()[1]

    def _open(self) -> tuple[Copy, Contents]:
        if self._opened is None:
            copy = LocalCopy(self._path, shared=others_read())
            rank = self._rank
            if rank is None:
                several = dist.is_available() and dist.is_initialized()
                same = several and dist.get_world_size() == copy.manifest.world_size
                rank = dist.get_rank() if same else 0
            self._opened = copy, contents_of(copy, rank=rank, allow_pickle=self._allow_pickle)
        return self._opened

    def _name(self, item: ReadItem) -> str:
        name = item.storage_index.fqn
        return self._contents.aliases.get(name, name)

    def _lying(self, item: ReadItem) -> Lying:
        tensor = self._contents.tensors[self._name(item)]
        offsets = tuple(item.storage_index.offset or (0,) * len(tensor.shape))
        return next(lying for box, lying in tensor.parts.items() if box.offsets == offsets)

    def _load_value(self, item: ReadItem, planner: LoadPlanner) -> None:
        name = self._name(item)
        value = self._value(self._contents.values[name])
        owner, *keys = map(str, self._contents.paths[name])
        names = self._contents.parameters.get(owner)
        if names is not None and keys[:1] == ["param_groups"] and keys[-1:] == ["params"]:
            wanted = getattr(planner, "state_dict", {}).get(item.dest_index.fqn)
            if isinstance(wanted, list) and any(isinstance(entry, str) for entry in wanted):
                value = [names[number] for number in value]  # the state there goes by names, not by numbers
        written = io.BytesIO()
        torch.save(value, written)
        written.seek(0)
        planner.load_bytes(item, written)

    def _value(self, stored: StoredValue) -> Any:
        def filled(value: Any) -> Any:
            if isinstance(value, StoredLeaf):
                return self._leaf(stored.file, value)
            if type(value) in (tuple, list, set, frozenset):
                return type(value)(map(filled, value))
            return value

        return filled(stored.value)

    def _leaf(self, file: ImageFile, leaf: StoredLeaf) -> Any:
        copy, contents = self._open()
        lying = contents.images[file.name].tensors[leaf.tensor]
        spec = lying.place.spec
        tensor = torch.empty(spec.shape, dtype=TORCH_DTYPES[spec.dtype], device="cpu")
        for _ in fill(copy, [Wanted.whole(lying, tensor)]):
            pass
        if leaf.tag == "$array":
            return tensor.numpy().reshape(leaf.payload[1])
        return tensor


class _Named(dict[str, Any]):
    """What is stored, by name, and found under other names too."""

    def __init__(self, entries: Mapping[str, Any], aliases: Mapping[str, str]) -> None:
        super().__init__(entries)
        self._aliases = dict(aliases)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or name in self._aliases

    def __missing__(self, name: str) -> Any:
        return self[self._aliases[name]]

    def __reduce__(self) -> tuple[Any, ...]:
        return _Named, (dict(self), self._aliases)


def _box(item: ReadItem) -> Box:
    """What is wanted of the part that is stored."""
    return Box(tuple(item.storage_offsets), tuple(item.lengths))
