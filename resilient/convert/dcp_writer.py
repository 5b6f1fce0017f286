"""From ``torch.distributed.checkpoint`` (DCP) to a snapshot: each rank writes one image, and the coordinator commits.

The images go to a temporary directory beside the snapshot, which all ranks must see; it becomes the snapshot when all
of them are durable and the manifest is. Until then, and where anything fails, there is no snapshot.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import platform
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from resilient.errors import StateError, StorageFull, TargetNotWritable, UsageError
from resilient.protocol import names
from resilient.snapshot import manifest as manifests
from resilient.snapshot import tree
from resilient.snapshot.commit import TEMPORARY
from resilient.snapshot.ends import ends_of_image
from resilient.snapshot.hashing import Checksum, checksum, chunks_of
from resilient.snapshot.image import Layout
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.shards import DISTRIBUTED, distributed_in
from resilient.snapshot.storage import Storage, Writer
from resilient.worker.leaves import TORCH_DTYPES, TensorCollector

_SPARE_BYTES = 16 << 20


class SnapshotWriter(StorageWriter):
    """Makes a snapshot directory of what DCP saves. Each rank holds its own part once more in memory meanwhile.

    Values that are no tensors are stored as JSON and not pickled, so they have to be plain.

    :param path: of the new directory; where its name is that of a snapshot, such as ``step-000000100``, it says the
        step.
    :param step: which the state is of.
    :param run_id: of the run that it shall belong to.
    :raises StateError: on writing; a value has no form as JSON, or a rank has several parts of one tensor.
    :raises TargetNotWritable: on writing; there is something already.
    """

    def __init__(self, path: str | os.PathLike[str], *, step: int | None = None, run_id: str = "dcp") -> None:
        self.reset(path)
        named = names.snapshot_step(self._path.name)
        if None not in (named, step) and named != step:
            raise UsageError(f"{self._path.name} is the name of another step than {step}")
        self._step = step if step is not None else named or 0
        self._run_id = run_id
        self._rank, self._ranks = 0, 1
        self._storage = Storage()

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        if checkpoint_id is not None:
            self._path = Path(checkpoint_id)

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return not Path(checkpoint_id).exists()

    def storage_meta(self) -> StorageMeta:
        return StorageMeta(checkpoint_id=self._path)

    def set_up_storage_writer(self, is_coordinator: bool, *_: Any, **kwargs: Any) -> None:  # noqa: ARG002
        several = dist.is_available() and dist.is_initialized()
        self._rank = int(kwargs.get("rank", dist.get_rank() if several else 0))

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """In the coordinator, before any rank writes."""
        if self._path.exists():
            raise TargetNotWritable(f"{self._path} is there already", "choose another path")
        self._ranks = len(plans)
        needed = sum(_size(item) for plan in plans for item in plan.items) + _SPARE_BYTES
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            if self._temporary.exists():
                self._storage.remove_tree(self._temporary)  # of an attempt that was cut short
            free = self._storage.free_bytes(self._path.parent)
            self._storage.make_directory(self._temporary)
        except OSError as error:
            problem = f"{self._path} cannot be written: {error.strerror or error}"
            raise TargetNotWritable(problem, "check the path and its permissions") from error
        if free < needed:
            raise StorageFull(f"{needed} bytes are needed in {self._path.parent}, which has less", "free space there")
        return plans

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        image = _image(plan.items, planner, self._step)
        name, sums = names.image_name(self._rank), list[Checksum]()

        def produce(append: Writer) -> None:
            sums.append(checksum(chunks_of(image), append))

        self._storage.write(self._temporary / name, produce)
        done: Future[list[WriteResult]] = Future()
        file = ImageFile(name, self._rank, sums[0], ends=ends_of_image(image))
        done.set_result([WriteResult(MetadataIndex(name), len(image), file)])
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:  # noqa: ARG002  the images say it
        """In the coordinator, when all ranks have written."""
        files = sorted((result.storage_data for each in results for result in each), key=lambda file: int(file.rank))
        manifest = Manifest(
            run_id=self._run_id,
            step=self._step,
            round=0,
            world_size=self._ranks,
            identity=uuid.uuid4().hex,
            parent=None,
            created=time.time(),
            files=tuple(files),
            versions={"python": platform.python_version(), "torch": torch.__version__},
            tensors=distributed_in({file.rank: _mapped(self._temporary / file.name) for file in files}),
        )
        encoded = memoryview(manifest.to_bytes())
        self._storage.write(self._temporary / manifests.NAME, lambda append: append(encoded))
        self._storage.sync_directory(self._temporary)
        self._storage.rename(self._temporary, self._path)
        self._storage.sync_directory(self._path.parent)

    @property
    def _temporary(self) -> Path:
        return self._path.with_name(f"{TEMPORARY}{self._path.name}-dcp")


def _size(item: WriteItem) -> int:
    data = item.tensor_data
    return data.chunk.sizes.numel() * data.properties.dtype.itemsize if data is not None else 0


def _mapped(path: Path) -> memoryview:
    with path.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def _image(items: Sequence[WriteItem], planner: SavePlanner, step: int) -> memoryview:
    """One rank's image, in memory aligned to pages."""
    collector = TensorCollector()
    objects, paths = _encoded(items, planner, collector)
    state = tree.dumps({"step": step, "meshes": [], "paths": paths, "objects": objects})
    layout = Layout.plan(collector.specs(), len(state))
    padded = layout.encode_state(state)
    assert padded is not None  # noqa: S101  the layout was planned for a state of this size
    image = memoryview(mmap.mmap(-1, layout.size))
    image[: len(layout.header)] = layout.header
    image[layout.state.offset : layout.state.end] = padded
    for name, tensor in collector.tensors.items():
        place = layout.tensors[name]
        if tensor.numel():
            dtype = TORCH_DTYPES[place.spec.dtype]
            view = torch.frombuffer(image, dtype=dtype, count=tensor.numel(), offset=place.offset)
            view.reshape(tensor.shape).copy_(tensor)
    return image


def _encoded(
    items: Sequence[WriteItem], planner: SavePlanner, collector: TensorCollector
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The state as JSON, one object for each key of the outermost dictionary; and the keys that lead to each name."""
    known = getattr(planner, "mappings", {})
    objects: dict[str, Any] = {}
    paths: dict[str, list[Any]] = {}
    for item in items:
        name = item.index.fqn
        if name in paths:
            raise StateError(f"a rank has several parts of {name}", "save tensors that are distributed as DTensor")
        paths[name] = list(known.get(name, (name,)))
        value = _encoded_item(item, planner, collector)
        owner, *keys = map(str, paths[name])
        if keys:
            objects.setdefault(owner, {})[".".join(keys)] = value
        else:
            objects[owner] = value
    return objects, paths


def _encoded_item(item: WriteItem, planner: SavePlanner, collector: TensorCollector) -> Any:
    name, data = item.index.fqn, planner.resolve_data(item)
    if item.type == WriteItemType.BYTE_IO:
        assert isinstance(data, io.BytesIO)  # noqa: S101  as DCP says
        data.seek(0)
        try:
            value = torch.load(data, weights_only=True)
        except pickle.UnpicklingError as error:
            raise StateError(f"the value of {name} cannot be stored without pickle: {error}") from error
        return tree.encode(value, collector, path=name)
    assert isinstance(data, torch.Tensor)  # noqa: S101  likewise
    assert item.tensor_data is not None  # noqa: S101  likewise
    local, chunk, size = collector(name, data.detach()), item.tensor_data.chunk, item.tensor_data.size
    if chunk.sizes == size:
        return local
    stride = torch.empty(size, device="meta").stride()
    whole = {"shape": list(size), "stride": list(stride), "offsets": list(chunk.offsets)}
    return {DISTRIBUTED: {"local": local, **whole, "mesh": None, "placements": None}}
