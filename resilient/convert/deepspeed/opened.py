"""One file of a DeepSpeed checkpoint, of which nothing but the tensors has yet to be read."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import HeldTensor, LazyTensor, Tree, is_dense
from resilient.convert.deepspeed.partitions import Piece
from resilient.convert.deepspeed.pickles import load
from resilient.convert.held import lazy_tree
from resilient.convert.lazy import FileTensor, MappedFile
from resilient.convert.torch_source import _Mapping
from resilient.errors import CheckpointUnreadable


class Opened:
    """:ivar content: its tensors are views of the file."""

    def __init__(self, path: Path, *, allow_pickle: bool) -> None:
        self.path = path
        self.content = load(path, allow_pickle=allow_pickle)

    def lazy(self, part: Any, name: str) -> Tree:
        """A part of it with lazy tensors in place of the tensors."""
        return lazy_tree(part, self.path, lambda path, tensor: self._lazy(f"{name}.{path}", tensor))

    def piece(self, row: torch.Tensor, piece: Piece, name: str) -> LazyTensor:
        """A piece of a parameter in one of the file's rows.

        :raises CheckpointUnreadable: the row is shorter.
        """
        if row.dim() != 1 or piece.start < 0 or piece.start + piece.length > row.numel():
            raise CheckpointUnreadable(
                f"{self.path} has {row.numel()} elements where {name} should be at {piece.start} to "
                f"{piece.start + piece.length}",
                "the files are not all of one checkpoint; copy it again from where it was saved",
            )
        return self._lazy(name, row[piece.start : piece.start + piece.length])

    @cached_property
    def _mapping(self) -> _Mapping:
        return _Mapping.of(self.path)

    @cached_property
    def _file(self) -> MappedFile:
        return MappedFile(self.path)

    def _lazy(self, name: str, tensor: torch.Tensor) -> LazyTensor:
        offset = self._mapping.offset_of(tensor)
        if offset is None or not is_dense(tensor.shape, tensor.stride()):
            return HeldTensor(tensor)
        return FileTensor(self.path, offset, name, tensor.dtype, tensor.shape, tensor.stride(), mapped=self._file)
