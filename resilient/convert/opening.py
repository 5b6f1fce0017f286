"""From a path to a checkpoint, and to its state in memory: what ``resilient.load`` and the commands begin with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from resilient.convert.checkpoint import LazyTensor, Reading, Source, changed
from resilient.convert.formats import detect, format_named
from resilient.convert.selection import selected
from resilient.errors import CheckpointUnreadable


def open_checkpoint(path: Path, form: str = "", *, allow_pickle: bool = False) -> Source:
    """The checkpoint at a path.

    :param form: name of its format; found by its structure where none is given.
    :raises CheckpointUnreadable: there is none, it is of no known format, damaged, or lacks a part; or SnapshotCorrupt.
    """
    if not path.exists():
        raise CheckpointUnreadable(f"there is no {path}", "check the path")
    found = format_named(form) if form else detect(path)
    return found.source(path, Reading(allow_pickle))


def load(path: str | os.PathLike[str], *, only: str = "", allow_pickle: bool = False) -> Any:
    """The state in a checkpoint of any format, in one process, as dictionaries, lists and tensors on the CPU.

    >>> state = resilient.load("runs/demo/snapshots/latest", only="model")
    >>> model.load_state_dict(state)

    Formats: a snapshot, or a run, whose latest is meant; files of ``torch.save`` and safetensors; directories of
    ``torch.distributed.checkpoint``, and of Hugging Face. Where the format allows it, the tensors are views of the
    file, which is read as they are used; what is written into them stays in this process. Snapshots are read and
    verified at once.

    :param only: a branch of the state, by its path with dots, such as ``model``.
    :param allow_pickle: state that has no other form may be unpickled, which can run code.
    :raises CheckpointUnreadable: it cannot be read.
    :raises UsageError: there is no branch of that name.
    """
    tree = open_checkpoint(Path(path), allow_pickle=allow_pickle).tree
    known: dict[int, Any] = {}

    def give(_path: str, value: Any) -> Any:
        if not isinstance(value, LazyTensor):
            return value
        if id(value) not in known:
            known[id(value)] = value.read().numpy() if value.is_array else value.view()
        return known[id(value)]

    return changed(selected(tree, only) if only else tree, give)
