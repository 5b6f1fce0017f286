"""Reads checkpoints of ``torch.distributed.checkpoint`` (DCP), of FSDP and others, in one process.

What lies in parts in the files of several ranks is put together, one tensor at a time.
"""

from __future__ import annotations

import gc
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex, TensorStorageMetadata

from resilient.convert import dcp_metadata, unpickling
from resilient.convert.checkpoint import LazyTensor, Reading, Tree, empty, tensors_of
from resilient.convert.held import lazy_tree
from resilient.convert.nesting import nested
from resilient.convert.typed import decoded
from resilient.errors import CheckpointUnreadable
from resilient.protocol.names import snapshot_step
from resilient.snapshot.hashing import digest

BESIDE = "resilient.json"
"""What DCP has no form for: keys that are no text, empty dictionaries, and which tensors are one."""

_COLLECTION = 96 << 20
"""Bytes."""

INSIDE = "\n"
"""Between the name of a value and the place of a tensor in it."""


class DcpSource:
    """:param path: of the directory."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._reading = reading
        self._loaded = 0  # bytes, since the last collection

    @property
    def about(self) -> str:
        files = {info.relative_path for info in self._metadata.storage_data.values()}
        return f"a checkpoint of torch.distributed.checkpoint in {len(files)} files"

    @property
    def step(self) -> int | None:
        return snapshot_step(self.path.name)

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @cached_property
    def tree(self) -> Tree:
        beside = self._beside()
        if beside is not None:
            return decoded(beside, _Stored(self, self._tensors), allow_pickle=self._reading.allow_pickle)
        values: dict[str, Any] = {}
        for name in self._metadata.state_dict_metadata:
            values[name] = self._tensors[name] if name in self._tensors else self.value(name)
        return nested(values, self._metadata.planner_data or {})

    def verify(self) -> None:
        """Look for all files, and whether they are as long as they must be."""
        ends: dict[str, tuple[int, str]] = {}
        for index, info in self._metadata.storage_data.items():
            ends[info.relative_path] = max(
                ends.get(info.relative_path, (0, "")), (info.offset + info.length, index.fqn)
            )
        for name, (end, tensor) in sorted(ends.items()):
            path = self._file(name)
            if not path.is_file():
                raise CheckpointUnreadable(f"{path} is missing, which has {tensor}", f"copy it to {self.path}")
            if path.stat().st_size < end:
                raise CheckpointUnreadable(f"{path} ends before {tensor} does", "it was cut short; use another copy")
        self._tensors  # noqa: B018  says whether their parts are all there

    @cached_property
    def _metadata(self) -> Any:
        return dcp_metadata.read_metadata(self.path, allow_pickle=self._reading.allow_pickle)

    @cached_property
    def _tensors(self) -> Mapping[str, LazyTensor]:
        return {
            name: self._tensor(name, entry)
            for name, entry in self._metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }

    def _tensor(self, name: str, entry: TensorStorageMetadata) -> LazyTensor:
        shape: tuple[int, ...] = tuple(entry.size)
        parts: list[Any] = []
        elements = 0
        for chunk in {(tuple(chunk.offsets), tuple(chunk.sizes)): chunk for chunk in entry.chunks}.values():
            offsets: tuple[int, ...] = tuple(chunk.offsets)
            sizes: tuple[int, ...] = tuple(chunk.sizes)
            if any(first + length > whole for first, length, whole in zip(offsets, sizes, shape, strict=True)):
                raise CheckpointUnreadable(
                    f"{self.path}: a part of {name} at {offsets} of shape {sizes} lies outside of its shape {shape}",
                    "the checkpoint is damaged; use another copy",
                )
            info = self._metadata.storage_data.get(MetadataIndex(name, chunk.offsets))
            if info is None and 0 not in sizes:
                raise CheckpointUnreadable(f"{self.path}: nothing says where the part of {name} at {offsets} lies")
            if info is not None:
                elements += torch.Size(sizes).numel()
                parts.append((offsets, sizes, info))
        if elements != entry.size.numel():
            raise CheckpointUnreadable(
                f"{self.path}: the parts of {name} have {elements} of its {entry.size.numel()} elements",
                "not all ranks have saved; use another checkpoint",
            )
        return _DcpTensor(self, name, entry.properties.dtype, shape, parts)

    def value(self, name: str) -> Any:
        """What is stored under a name and is no tensor by itself."""
        index = MetadataIndex(name)
        if index not in self._metadata.storage_data:
            raise CheckpointUnreadable(f"{self.path}: nothing says where {name} lies", "use another copy")
        loaded = self.load(self._metadata.storage_data[index], name, allow_pickle=self._reading.allow_pickle)
        return lazy_tree(loaded, self.path)

    def load(self, info: Any, name: str, *, allow_pickle: bool) -> Any:
        """What ``torch.save`` wrote for one part of one name."""
        path = self._file(info.relative_path)
        if getattr(info, "transform_descriptors", None):
            raise CheckpointUnreadable(
                f"{path}: {name} is compressed ({', '.join(info.transform_descriptors)})",
                "load it with torch and save it without transforms",
            )
        self._collect(info.length)
        try:
            with path.open("rb", buffering=0) as stream:
                window: Any = _Window(stream, info.offset, info.length)
                return unpickling.load(window, Path(f"{path}: {name}"), allow_pickle=allow_pickle)
        except OSError as error:
            raise CheckpointUnreadable(f"{path} cannot be read: {error.strerror}", f"copy it to {self.path}") from error

    def _collect(self, size: int) -> None:
        """Let go of what was loaded before: ``torch.load`` leaves it in a cycle of references, and the collector goes
        by the number of objects, not by their sizes.
        """
        if self._loaded > _COLLECTION:
            gc.collect()
            self._loaded = 0
        self._loaded += size

    def _file(self, name: str) -> Path:
        if Path(name).name != name:
            raise CheckpointUnreadable(f"{self.path}: the metadata names a file elsewhere: {name}")
        return self.path / name

    def _beside(self) -> Any:
        """The tree as JSON, if whoever wrote the checkpoint has left it there."""
        try:
            body = json.loads((self.path / BESIDE).read_bytes())
            if body["metadata"] == digest((self.path / dcp_metadata.NAME).read_bytes()):
                return body["state"]
        except FileNotFoundError:
            pass
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointUnreadable(
                f"{self.path / BESIDE} is damaged: {error!r}", "delete it, or restore it"
            ) from error
        return None


class _DcpTensor(LazyTensor):
    """:param parts: offsets, lengths, and where each of them lies."""

    def __init__(
        self, source: DcpSource, name: str, dtype: torch.dtype, shape: tuple[int, ...], parts: Sequence[Any]
    ) -> None:
        super().__init__(dtype, shape)
        self._source = source
        self._name = name
        self._parts = parts

    def read(self) -> torch.Tensor:
        if len(self._parts) == 1 and tuple(self._parts[0][1]) == self.shape:
            return self._part(self.shape, self._parts[0][2]).contiguous()  # no room for it twice
        whole = empty(self)
        for offsets, sizes, info in self._parts:
            places = tuple(slice(first, first + length) for first, length in zip(offsets, sizes, strict=True))
            whole[places] = self._part(sizes, info)
        return whole

    def _part(self, sizes: tuple[int, ...], info: Any) -> torch.Tensor:
        found = self._source.load(info, self._name, allow_pickle=False)
        if not isinstance(found, torch.Tensor) or tuple(found.shape) != sizes or found.dtype != self.dtype:
            what = f"{found.dtype} of {list(found.shape)}" if isinstance(found, torch.Tensor) else type(found).__name__
            raise CheckpointUnreadable(
                f"{self._source.path / info.relative_path}: a part of {self._name} is {what}, and not {self.dtype} of "
                f"{list(sizes)}",
                "the files are of different checkpoints; copy all files of one",
            )
        return found.detach()


class _Stored(Mapping[str, LazyTensor]):
    """The tensors by the names that the JSON beside has for them: DCP's, and for one that is inside a value, the
    value's and its place there.
    """

    def __init__(self, source: DcpSource, tensors: Mapping[str, LazyTensor]) -> None:
        self._source = source
        self._tensors = tensors
        self._values: dict[str, Mapping[str, LazyTensor]] = {}

    def __getitem__(self, name: str) -> LazyTensor:
        if name in self._tensors:
            return self._tensors[name]
        outside, _, inside = name.partition(INSIDE)
        if outside not in self._values:
            self._values[outside] = tensors_of(self._source.value(outside))
        return self._values[outside][inside]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class _Window(io.RawIOBase):
    """A part of a file as a file, so that torch reads a tensor from it straight into its memory."""

    def __init__(self, stream: io.RawIOBase | io.FileIO, offset: int, length: int) -> None:
        super().__init__()
        self._stream = stream
        self._offset = offset
        self._length = length
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        begin = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = max(begin + offset, 0)
        return self._at

    def readinto(self, into: Any) -> int:
        view = memoryview(into).cast("B")[: max(self._length - self._at, 0)]
        self._stream.seek(self._offset + self._at)
        count = self._stream.readinto(view) or 0
        self._at += count
        return count
