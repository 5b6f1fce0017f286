"""Lazy tensors that formats are built of: a row of bytes in a file, and others seen in another shape or type."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, empty
from resilient.errors import CheckpointUnreadable


class FileTensor(LazyTensor):
    """A tensor whose memory lies in a file as it would lie in memory.

    :param name: for messages.
    :param mapped: the file, for those who want views of it.
    """

    def __init__(  # noqa: PLR0917  a place, a name, and what lies there
        self,
        path: Path,
        offset: int,
        name: str,
        dtype: torch.dtype,
        shape: Sequence[int],
        stride: Sequence[int] | None = None,
        *,
        mapped: MappedFile | None = None,
    ) -> None:
        super().__init__(dtype, shape, stride)
        self._path = path
        self._offset = offset
        self._name = name
        self._mapped = mapped

    def read(self) -> torch.Tensor:
        tensor = empty(self)
        into = memory_of(tensor)
        try:
            with self._path.open("rb", buffering=0) as stream:
                stream.seek(self._offset)
                while into:
                    count = stream.readinto(into)
                    if not count:
                        raise CheckpointUnreadable(
                            f"{self._path} ends within {self._name}", "it was cut short; use another copy"
                        )
                    into = into[count:]
        except OSError as error:
            problem = f"{self._path}: {self._name} cannot be read: {error.strerror or error}"
            raise CheckpointUnreadable(problem, "use another copy") from error
        return tensor

    def view(self) -> torch.Tensor:
        if self._mapped is None or not self.size or self._offset % self.dtype.itemsize:
            return self.read()
        storage = self._mapped.part(self._offset, self.size)
        return torch.empty(0, dtype=self.dtype, device="cpu").set_(storage, 0, self.shape, self.stride)


class MappedFile:
    """A file in memory, privately: what is written there stays in this process, as with ``torch.load(mmap=True)``."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def part(self, offset: int, size: int) -> Any:
        """These bytes, as a storage of their own."""
        return self._whole[offset : offset + size]

    @cached_property
    def _whole(self) -> Any:
        return torch.UntypedStorage.from_file(str(self._path), shared=False, nbytes=self._path.stat().st_size)


class Reshaped(LazyTensor):
    """Another tensor's elements in another shape or stride, or as an array."""

    def __init__(
        self, tensor: LazyTensor, shape: Sequence[int], stride: Sequence[int] | None = None, *, is_array: bool = False
    ) -> None:
        super().__init__(tensor.dtype, shape, stride, is_array=is_array)
        self._tensor = tensor

    def read(self) -> torch.Tensor:
        found = self._tensor.read().reshape(self.shape)
        return found if self.is_contiguous else empty(self).copy_(found)

    def view(self) -> torch.Tensor:
        return self._tensor.view().reshape(self.shape) if self.is_contiguous else self.read()


class Converted(LazyTensor):
    """Another tensor's elements in another type."""

    def __init__(self, tensor: LazyTensor, dtype: torch.dtype) -> None:
        super().__init__(dtype, tensor.shape, tensor.stride, is_array=tensor.is_array)
        self._tensor = tensor

    def read(self) -> torch.Tensor:
        return self._tensor.read().to(self.dtype)


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a dense tensor, in the order in which they lie."""
    if not tensor.numel():
        return memoryview(b"")
    row = tensor.as_strided((tensor.numel(),), (1,))
    data: Any = row.view(torch.uint8).numpy()
    return memoryview(data)


def elements_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor's elements in order, copied where they do not lie so."""
    return memory_of(tensor.detach().contiguous())
