"""What somebody wants converted, in the words of the command line, and how that is carried out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.convert.allocation import return_large_blocks
from resilient.convert.checkpoint import Tree, Writing
from resilient.convert.conversion import require_nothing_at, write
from resilient.convert.formats import format_for, format_to_write
from resilient.convert.opening import open_checkpoint
from resilient.convert.progress import progress
from resilient.convert.selection import dtype_named, selected, with_dtype
from resilient.errors import UsageError

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
_CONFIG = "config.json"


@dataclass(frozen=True)
class Request:
    """A conversion. Empty text is for what was not said.

    :param to: name of the format to write; it may follow from the target's name.
    :param form: name of the source's format; it is found by its structure.
    :param only: a branch of the state.
    :param dtype: of floating-point tensors.
    :param shard_size: most bytes of tensors in one file, such as ``5GB``.
    :param hf_config: a ``config.json``; one beside the source is taken by itself.
    """

    source: Path
    target: Path
    to: str = ""
    form: str = ""
    only: str = ""
    dtype: str = ""
    shard_size: str = ""
    hf_config: Path | None = None
    allow_pickle: bool = False


@dataclass(frozen=True)
class Done:
    """:ivar about: what the source is.
    :ivar form: name of the format that was written.
    :ivar size: bytes of all tensors, each counted once.
    :ivar tensors: how many there are, likewise.
    """

    about: str
    form: str
    step: int | None
    size: int
    tensors: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        body = {"format": self.form, "step": self.step, "bytes": self.size, "tensors": self.tensors}
        return {**body, "notes": list(self.notes)}


def carry_out(request: Request, *, quiet: bool = False) -> Done:
    """Convert, and show how far it is.

    :param quiet: show nothing.
    :raises ResilientError: as reading and writing raise it; nothing is left at the target then.
    """
    return_large_blocks()
    form = format_to_write(request.to) if request.to else format_for(request.target)
    dtype = dtype_named(request.dtype) if request.dtype else None
    shard_size = parse_size(request.shard_size) if request.shard_size else None
    require_nothing_at(request.target)
    found = open_checkpoint(request.source, request.form, allow_pickle=request.allow_pickle)
    found.verify()
    tree, kept = _chosen(request, found.tree, form.name), list[str]()
    if dtype is not None:
        tree, kept = with_dtype(tree, dtype)
    writing = Writing(
        allow_pickle=request.allow_pickle,
        shard_size=shard_size,
        hf_config=request.hf_config or _neighbour(request.source),
        step=found.step,
    )
    with progress(str(request.target), quiet=quiet) as tell:
        done = write(tree, form, request.target, writing, tell=tell)
    return Done(found.about, form.name, found.step, done.size, done.tensors, (*found.notes, *kept, *done.notes))


def _chosen(request: Request, tree: Tree, form: str) -> Tree:
    if not request.only:
        return tree
    branch = selected(tree, request.only)
    return {request.only: branch} if form == "resilient" else branch  # objects go by names there


def _neighbour(source: Path) -> Path | None:
    """The ``config.json`` of a model that lies beside it already."""
    place = (source if source.is_dir() else source.parent) / _CONFIG
    return place if place.is_file() else None


def parse_size(text: str) -> int:
    """``5GB`` or ``500MiB`` as bytes.

    :raises UsageError: it is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or int(float(match[1]) * unit) <= 0:
        raise UsageError(f"{text} is no size", "write one as 5GB, 500MB or 2GiB")
    return int(float(match[1]) * unit)
