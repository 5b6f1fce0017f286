"""Reads files of ``torch.save``: torch maps the file, and the elements are then read from it without the mapping.

So memory holds no more than the tensor that is being read. Files from before torch 1.6 cannot be mapped, and are read
whole.
"""

from __future__ import annotations

import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from resilient.convert import unpickling
from resilient.convert.checkpoint import HeldTensor, LazyTensor, Reading, Tree, is_dense
from resilient.convert.held import lazy_tree
from resilient.convert.lazy import FileTensor, MappedFile
from resilient.errors import CheckpointUnreadable
from resilient.protocol.names import snapshot_step

ZIP = b"PK\x03\x04"
LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_PIECE = 16 << 20


class TorchSource:
    """:param path: of the file."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._reading = reading
        self._is_zip = first_bytes(path).startswith(ZIP)

    @property
    def about(self) -> str:
        return "a file of torch.save" + ("" if self._is_zip else ", in the format from before torch 1.6")

    @property
    def step(self) -> int | None:
        return snapshot_step(self.path.stem)

    @property
    def notes(self) -> Sequence[str]:
        return () if self._is_zip else (f"{self.path} is of before torch 1.6, and was read into memory as a whole",)

    @cached_property
    def tree(self) -> Tree:
        loaded = unpickling.load(self.path, self.path, allow_pickle=self._reading.allow_pickle, mapped=self._is_zip)
        file = MappedFile(self.path)
        mapping = _Mapping.of(self.path) if self._is_zip else _Mapping([])

        def lazy(path: str, tensor: torch.Tensor) -> LazyTensor:
            offset = mapping.offset_of(tensor)
            if offset is None or not is_dense(tensor.shape, tensor.stride()):
                return HeldTensor(tensor)
            return FileTensor(self.path, offset, path, tensor.dtype, tensor.shape, tensor.stride(), mapped=file)

        return lazy_tree(loaded, self.path, lazy)

    def verify(self) -> None:
        """Compare every record with its checksum. An archive that was written without any has none that fits."""
        if not self._is_zip:
            return
        try:
            with zipfile.ZipFile(self.path) as archive:
                records = [entry for entry in archive.infolist() if entry.file_size]
                wrong = [entry.filename for entry in records if not _fits(archive, entry)]
        except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError, zlib.error, EOFError) as error:
            raise CheckpointUnreadable(
                f"{self.path} cannot be read: {error}", "it is damaged or cut short; use another copy"
            ) from error
        if wrong and len(wrong) < len(records):
            raise CheckpointUnreadable(
                f"{self.path}: {wrong[0]} does not match its checksum", "it is damaged; use another copy"
            )


def first_bytes(path: Path, count: int = 16) -> bytes:
    """:raises CheckpointUnreadable: the file cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(count)
    except OSError as error:
        raise CheckpointUnreadable(f"{path} cannot be read: {error.strerror}", "check the path") from error


def _fits(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    """Read through one record, past zipfile's own check, which would end at the first one that differs."""
    crc, expected, entry.CRC = 0, entry.CRC, None  # type: ignore[assignment]  # zipfile's word for: do not check
    with archive.open(entry) as stream:
        while data := stream.read(_PIECE):
            crc = zlib.crc32(data, crc)
    return crc == expected


@dataclass(frozen=True)
class _Range:
    begin: int
    end: int
    offset: int


class _Mapping:
    """Where in this process's memory a file lies, as the kernel says."""

    def __init__(self, ranges: Sequence[_Range]) -> None:
        self._ranges = sorted(ranges, key=lambda each: each.begin)
        self._begins = [each.begin for each in self._ranges]

    @classmethod
    def of(cls, path: Path) -> _Mapping:
        wanted, found = str(path.resolve()), []
        for line in Path("/proc/self/maps").read_text().splitlines():
            fields = line.split(maxsplit=5)
            if len(fields) == 6 and fields[5] == wanted:
                begin, end = (int(number, 16) for number in fields[0].split("-"))
                found.append(_Range(begin, end, int(fields[2], 16)))
        return cls(found)

    def offset_of(self, tensor: torch.Tensor) -> int | None:
        """Where in the file the tensor begins; None where it lies elsewhere."""
        address = tensor.data_ptr()
        index = bisect_right(self._begins, address) - 1
        if not address or index < 0:
            return None
        place = self._ranges[index]
        size = tensor.numel() * tensor.element_size()
        return place.offset + address - place.begin if address + size <= place.end else None
