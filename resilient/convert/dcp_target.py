"""Writes checkpoints of ``torch.distributed.checkpoint`` with its own planner and writer, and so in its own form.

The planner is given stand-ins without elements, and the writer asks it for one tensor after the other. Beside what DCP
writes there is a file with what it has no form for; only this package looks at it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.checkpoint.state_dict_saver import save

from resilient.convert import dcp_metadata
from resilient.convert.checkpoint import Fitted, Format, LazyTensor, Tree, Writing, changed, tensors_of
from resilient.convert.dcp_source import BESIDE, INSIDE, DcpSource
from resilient.convert.typed import encoded
from resilient.errors import StateError
from resilient.snapshot import tree as trees
from resilient.snapshot.hashing import digest
from resilient.snapshot.storage import Storage


class DcpTarget:
    """A directory with one file of data."""

    def __init__(self, writing: Writing) -> None:
        self._allow_pickle = writing.allow_pickle

    def fit(self, tree: Tree) -> Fitted:
        if not isinstance(tree, dict) or not tree:
            raise StateError(f"the state is a {type(tree).__name__}, and DCP saves dictionaries", "choose with --only")
        self._body(tree)
        return Fitted(tree)

    def size(self, tree: Tree) -> int:
        items = _flattened(tree)[0]
        return sum(2048 + sum(tensor.size for tensor in tensors_of(item).values()) for item in items.values()) + (
            1 << 20
        )

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        storage.make_directory(path)
        writer = FileSystemWriter(path, single_file_per_rank=True, sync_files=True, thread_count=1)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*torch.distributed is.*")
                save({}, storage_writer=writer, planner=_Planner(tree), no_dist=True)
        except CheckpointException as error:
            raise next(iter(error.failures.values()))[0] from error  # what happened, and not where in DCP
        plan = digest((path / dcp_metadata.NAME).read_bytes())
        data = memoryview(trees.dumps({"metadata": plan, "state": self._body(tree)}))
        storage.write(path / BESIDE, lambda append: append(data))
        storage.sync_directory(path)

    def _body(self, tree: Tree) -> Any:
        """The tree as JSON, in which tensors go by their names in DCP."""
        names: dict[int, str] = {}
        for name, item in _flattened(tree)[0].items():
            for inside, tensor in tensors_of(item).items():
                names.setdefault(id(tensor), f"{name}{INSIDE}{inside}" if _is_value(item) else name)
        body, found = encoded(tree, allow_pickle=self._allow_pickle)
        return _renamed(body, {own: names[id(tensor)] for own, tensor in found.tensors.items()})


def _flattened(tree: Tree) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything by its name in DCP, and the keys that lead to each.

    :raises StateError: two things have one name there.
    """
    stand_ins: dict[int, tuple[torch.Tensor, LazyTensor]] = {}

    def stand_in(_path: str, value: Any) -> Any:
        if not isinstance(value, LazyTensor) or value.is_array:
            return value
        made = _without_elements(value)
        stand_ins[id(made)] = (made, value)
        return made

    def back(_path: str, value: Any) -> Any:
        return stand_ins[id(value)][1] if isinstance(value, torch.Tensor) else value

    try:
        flat, paths = flatten_state_dict(changed(tree, stand_in))
    except ValueError as error:
        raise StateError(f"DCP cannot hold the state: {error}", "rename one of the two") from error
    return {name: changed(item, back) for name, item in flat.items()}, dict(paths)


def _without_elements(tensor: LazyTensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")


def _is_value(item: Any) -> bool:
    """Whether DCP pickles it."""
    return not isinstance(item, LazyTensor) or item.is_array


def _renamed(body: Any, names: Mapping[str, str]) -> Any:
    if isinstance(body, list):
        return [_renamed(item, names) for item in body]
    if not isinstance(body, dict):
        return body
    if len(body) == 1:
        [(tag, payload)] = body.items()
        if tag == "$tensor":
            return {tag: names[payload]}
        if tag in {"$strided", "$array"}:
            return {tag: [names[payload[0]], *payload[1:]]}
    return {key: _renamed(item, names) for key, item in body.items()}


class _Planner(DefaultSavePlanner):
    """Plans with stand-ins, and reads what is to be written when it is."""

    def __init__(self, tree: Tree) -> None:
        super().__init__()
        self._items, self.mappings = _flattened(tree)
        self._given = torch.empty(0)

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:  # noqa: ARG002  as DCP calls it
        self.state_dict = {
            name: "pickled" if _is_value(item) else _without_elements(item) for name, item in self._items.items()
        }
        self.is_coordinator = is_coordinator

    def resolve_data(self, write_item: WriteItem) -> torch.Tensor | io.BytesIO:
        item = self._items[write_item.index.fqn]
        if write_item.type != WriteItemType.BYTE_IO:
            # torch.save leaves what it saved in a cycle of references, for the garbage collector to find one day; so
            # the memory is taken from the tensor before, which must be one that nobody else has looked into.
            self._given.untyped_storage().resize_(0)
            self._given = item.read().clone(memory_format=torch.contiguous_format)
            return self._given
        into = io.BytesIO()
        torch.save(changed(item, _read), into)
        return into


def _read(_path: str, value: Any) -> Any:
    if not isinstance(value, LazyTensor):
        return value
    return value.read().numpy() if value.is_array else value.read()


def _recognises(path: Path) -> bool:
    return (path / dcp_metadata.NAME).is_file()


FORMAT = Format("dcp", "a checkpoint of torch.distributed.checkpoint", _recognises, DcpSource, DcpTarget)
