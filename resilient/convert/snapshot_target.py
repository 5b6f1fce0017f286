"""Writes snapshots, as one rank's: the image goes to the disk chunk by chunk, and is never in memory."""

from __future__ import annotations

import mmap
import platform
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from resilient.convert.checkpoint import Fitted, Format, LazyTensor, Tree, Writing
from resilient.convert.lazy import elements_of
from resilient.convert.snapshot_source import SnapshotSource, snapshot_in
from resilient.convert.typed import encoded
from resilient.errors import StateError
from resilient.protocol import names
from resilient.snapshot import manifest as manifests
from resilient.snapshot import tree as trees
from resilient.snapshot.ends import ends_of
from resilient.snapshot.hashing import CHUNK, Checksum, checksum
from resilient.snapshot.image import Layout, TensorSpec
from resilient.snapshot.manifest import ImageFile, Manifest
from resilient.snapshot.storage import Storage, Writer
from resilient.worker.leaves import DTYPES

RUN = "converted"
"""Name of the run that the manifest says."""

_MODEL = "model"


class SnapshotTarget:
    """A snapshot directory. What the tree has under its outermost names are the objects.

    Where the directory's name is that of a snapshot, such as ``step-000000100``, it says the step.
    """

    def __init__(self, writing: Writing) -> None:
        self._allow_pickle = writing.allow_pickle
        self._step = writing.step or 0

    def fit(self, tree: Tree) -> Fitted:
        if not isinstance(tree, dict):
            raise StateError(f"the state is a {type(tree).__name__}, and a snapshot holds objects by name")
        notes, fitted = list[str](), dict(tree)
        if tree and all(isinstance(item, LazyTensor) for item in tree.values()):
            fitted = {_MODEL: tree}
            notes.append(f"the tensors become the object {_MODEL}")
        elif not all(isinstance(key, str) for key in tree):
            raise StateError("objects need names, and the state has some that are no text", "choose with --only")
        self._plan(fitted)
        return Fitted(fitted, notes)

    def size(self, tree: Tree) -> int:
        return self._plan(tree)[0].size + CHUNK

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        storage.make_directory(path)
        named = names.snapshot_step(path.name)
        self._step = self._step if named is None else named
        layout, state, tensors = self._plan(tree)
        name, sums = names.image_name(0), list[Checksum]()

        def produce(append: Writer) -> None:
            sums.append(checksum(_in_chunks(_pieces(layout, state, tensors)), append))

        storage.write(path / name, produce)
        manifest = Manifest(
            run_id=RUN,
            step=self._step,
            round=0,
            world_size=1,
            identity=uuid.uuid4().hex,
            parent=None,
            created=time.time(),
            files=(ImageFile(name, 0, sums[0], ends=ends_of(layout.header, [_padded(layout, state)])),),
            versions={"python": platform.python_version(), "torch": torch.__version__},
        )
        data = memoryview(manifest.to_bytes())
        storage.write(path / manifests.NAME, lambda append: append(data))
        storage.sync_directory(path)

    def _plan(self, tree: Mapping[str, Any]) -> tuple[Layout, bytes, Mapping[str, LazyTensor]]:
        objects, found = encoded(tree, allow_pickle=self._allow_pickle, dtypes=DTYPES)
        if "$dict" in objects:
            raise StateError("an object has a name that begins with $", "rename it, or choose with --only")
        state = trees.dumps({"step": self._step, "objects": objects})
        specs = [TensorSpec(name, DTYPES[tensor.dtype], tensor.shape) for name, tensor in found.tensors.items()]
        return Layout.plan(specs, len(state)), state, found.tensors


def _pieces(layout: Layout, state: bytes, tensors: Mapping[str, LazyTensor]) -> Iterator[memoryview]:
    yield memoryview(layout.header)
    for name in layout.tensors:
        if name in tensors:
            yield elements_of(tensors[name].read())
    yield memoryview(_padded(layout, state))


def _padded(layout: Layout, state: bytes) -> bytes:
    return state.ljust(layout.state.spec.size)


def _in_chunks(pieces: Iterator[memoryview]) -> Iterator[memoryview]:
    """The same bytes in chunks of memory that is aligned to pages; each is valid until the next."""
    buffer, used = memoryview(mmap.mmap(-1, CHUNK)), 0
    for rest in pieces:
        while rest:
            count = min(len(rest), CHUNK - used)
            buffer[used : used + count] = rest[:count]
            rest, used = rest[count:], used + count  # noqa: PLW2901  what is left of it
            if used == CHUNK:
                yield buffer
                used = 0
        rest = memoryview(b"")  # noqa: PLW2901  lets go of a tensor before the next one is read
    if used:
        yield buffer[:used]


FORMAT = Format(
    "resilient",
    "a snapshot",
    lambda path: snapshot_in(path) is not None,
    SnapshotSource,
    SnapshotTarget,
)
