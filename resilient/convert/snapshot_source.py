"""Reads snapshots, and every byte of them verified: what lies in parts in several images is put together.

Of what each rank has by itself, such as the generators, rank 0's is in the tree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import LazyTensor, Reading, Tree, empty
from resilient.convert.held import lazy_tree
from resilient.convert.lazy import memory_of
from resilient.convert.nesting import nested
from resilient.convert.typed import Tensors
from resilient.errors import CheckpointUnreadable, SnapshotCorrupt, StateError
from resilient.snapshot import manifest as manifests
from resilient.snapshot import tree as trees
from resilient.snapshot.copies import LocalCopy, read_chunk
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.lying import Images, Lying
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.shards import DISTRIBUTED, references
from resilient.worker.contents import Contents, contents_of, open_image
from resilient.worker.filling import Box
from resilient.worker.leaves import TORCH_DTYPES


class SnapshotSource:
    """:param path: of a snapshot, of the directory of all of a run's, or of the run: then the latest is meant."""

    def __init__(self, path: Path, reading: Reading) -> None:
        found = snapshot_in(path)
        if found is None:
            raise CheckpointUnreadable(f"{path} has no {manifests.NAME}, so it is no snapshot", "check the path")
        self.path = found
        self._reading = reading
        self._copy = LocalCopy(found.resolve())

    @property
    def about(self) -> str:
        manifest = self._copy.manifest
        return f"the snapshot of step {manifest.step} of run {manifest.run_id}, by {manifest.world_size} ranks"

    @property
    def step(self) -> int | None:
        return self._copy.manifest.step

    @property
    def notes(self) -> Sequence[str]:
        if self._copy.manifest.world_size == 1:
            return ()
        return ("of what each rank has by itself, such as the state of its generators, rank 0's is taken",)

    def verify(self) -> None:
        """Chunks are verified as they are read; that all images are there shows when the tree is made."""
        self.tree  # noqa: B018  see above

    @cached_property
    def tree(self) -> Tree:
        images = _Images(self._copy, self.path.resolve())
        contents = contents_of(self._copy, allow_pickle=self._reading.allow_pickle)
        opening = Images(self._copy)
        opened = [
            open_image(opening, file, self._copy.place)
            for file in sorted(self._copy.manifest.files, key=lambda each: each.rank)
        ]
        if "paths" not in opened[0].state:
            return self._decoded(opened[0].state["objects"], opened[0].tensors, contents, images)
        values: dict[str, Any] = {}
        paths: dict[str, Any] = {}
        for image in opened:  # each rank has what it wrote, see convert.dcp_writer
            body = image.state
            for owner, state in body["objects"].items():
                parts = (
                    {f"{owner}.{key}": item for key, item in state.items()}
                    if owner not in body["paths"]
                    else {owner: state}
                )
                parts = {name: item for name, item in parts.items() if name not in values}
                values |= self._decoded(parts, image.tensors, contents, images)
            paths |= body["paths"]
        return nested(values, paths)

    def _decoded(
        self, body: Mapping[str, Any], tensors: Mapping[str, Lying], contents: Contents, images: _Images
    ) -> Any:
        specs = {name: lying.place.spec for name, lying in tensors.items()}
        own = {
            name: _Stored(images, TORCH_DTYPES[spec.dtype], spec.shape, {_all(spec.shape): tensors[name]})
            for name, spec in specs.items()
        }
        plain, distributed = Tensors(own), dict[str, LazyTensor]()

        def leaf(tag: str, payload: Any) -> Any:
            if tag != DISTRIBUTED:
                return plain(tag, payload)
            [reference] = references({tag: payload})
            if reference.tensor not in distributed:
                stored = contents.tensors.get(reference.tensor)
                if stored is None:
                    raise SnapshotCorrupt(f"{reference.tensor} lies in parts, hidden in a tuple or the like")
                distributed[reference.tensor] = _Stored(images, stored.dtype, stored.shape, stored.parts)
            return distributed[reference.tensor]

        try:
            found = trees.decode(body, leaf, allow_pickle=self._reading.allow_pickle)
        except StateError as error:
            raise CheckpointUnreadable(
                f"{self.path}: {error.problem}", "if you trust whoever wrote it, add --allow-pickle"
            ) from error
        return lazy_tree(found, self.path) if self._reading.allow_pickle else found


def snapshot_in(path: Path) -> Path | None:
    """The snapshot that is meant by the path of one, of a run's directory of them, or of a run."""
    for place in (path, path / "latest", path / "snapshots" / "latest"):
        if (place / manifests.NAME).is_file():
            return place
    return None


def _all(shape: Sequence[int]) -> Box:
    return Box((0,) * len(shape), tuple(shape))


class _Stored(LazyTensor):
    """A tensor of a snapshot, in one part or several."""

    def __init__(self, images: _Images, dtype: torch.dtype, shape: Sequence[int], parts: Mapping[Box, Lying]) -> None:
        super().__init__(dtype, shape)
        self._images = images
        self._parts = parts

    def read(self) -> torch.Tensor:
        whole = empty(self)
        for box, lying in self._parts.items():
            part = whole if box.shape == self.shape else torch.empty(box.shape, dtype=self.dtype, device="cpu")
            self._images.read(lying.file, lying.place.offset, memory_of(part))
            if part is not whole:
                places = tuple(
                    slice(first, first + length) for first, length in zip(box.offsets, box.shape, strict=True)
                )
                whole[places] = part
        return whole


class _Images:
    """The bytes of images. A chunk is read whole and verified when something of it is wanted for the first time."""

    def __init__(self, copy: LocalCopy, directory: Path) -> None:
        self._copy = copy
        self._directory = directory
        self._verified: set[tuple[str, int]] = set()
        self._chunk = memoryview(bytearray())

    def read(self, file: ImageFile, offset: int, into: memoryview) -> None:
        """:raises SnapshotCorrupt: a chunk fails its checksum, or cannot be read."""
        while into:
            number, inside = divmod(offset, CHUNK)
            length = min(len(into), CHUNK - inside)
            self._read(file, number, inside, into[:length])
            into, offset = into[length:], offset + length

    def _read(self, file: ImageFile, number: int, inside: int, into: memoryview) -> None:
        if (file.name, number) in self._verified:
            self._read_again(file, number * CHUNK + inside, into)
            return
        size = min(CHUNK, file.checksum.size - number * CHUNK)
        if len(into) == size:  # all of it, which needs no memory beside the tensor's
            read_chunk(self._copy, file, number, into)
        else:
            if not len(self._chunk):
                self._chunk = memoryview(bytearray(CHUNK))
            read_chunk(self._copy, file, number, self._chunk[:size])
            into[:] = self._chunk[inside : inside + len(into)]
        self._verified.add((file.name, number))

    def _read_again(self, file: ImageFile, offset: int, into: memoryview) -> None:
        try:
            descriptor = os.open(self._directory / file.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while into:
                    count = os.preadv(descriptor, [into], offset)
                    if not count:
                        raise SnapshotCorrupt(f"{self._directory.name}/{file.name} ended early")
                    into, offset = into[count:], offset + count
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SnapshotCorrupt(f"{self._directory.name}/{file.name} cannot be read: {error}") from error
