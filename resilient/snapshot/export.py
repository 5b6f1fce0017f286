"""Export: a snapshot out of its run, whole or one object of it, for whoever wants to load it elsewhere.

Every byte is verified on its way, whichever tier it comes from. The target appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, SnapshotNotFound, StateError, StorageFull, TargetNotWritable
from resilient.snapshot import manifest as manifests
from resilient.snapshot.copies import Copy, read_chunks
from resilient.snapshot.fetch import write_copy
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.image import ITEM_SIZE, Placed, TensorSpec
from resilient.snapshot.lying import Images, OpenedImage
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.shards import Reference, references, runs
from resilient.snapshot.storage import Storage

_SPARE_BYTES = 1 << 20


def export_snapshot(copy: Copy, target: Path, *, replace: bool = False) -> int:
    """Copy a whole snapshot into the directory ``target``: its images and its manifest. Returns the bytes.

    :param replace: a snapshot that was exported there before may be replaced; nothing else is.
    :raises TargetNotWritable: there is something already, or it cannot be written.
    :raises SnapshotCorrupt: the copy fails verification; nothing is left behind.
    """
    if target.exists() or target.is_symlink():
        _require_replaceable(target, replace=replace)
    storage = Storage()
    with _made_beside(target, copy.manifest.size, storage) as fresh:
        write_copy(storage, fresh, copy)
        if target.exists():
            storage.exchange(fresh, target)
            storage.remove_tree(fresh)
        else:
            storage.rename(fresh, target)
    return copy.manifest.size


def _require_replaceable(target: Path, *, replace: bool) -> None:
    if not replace:
        raise TargetNotWritable(f"{target} is there already", "choose another target, or replace it with --force")
    found = {path.name for path in target.iterdir()} if target.is_dir() and not target.is_symlink() else set()
    foreign = {name for name in found if not (name.startswith("rank-") or name == manifests.NAME)}
    if manifests.NAME not in found or foreign:
        raise TargetNotWritable(f"{target} is no exported snapshot, so it is not replaced", "choose another target")


@dataclass(frozen=True)
class Exported:
    """What was written: bytes of the file, and the names of its tensors."""

    bytes: int
    tensors: tuple[str, ...]


def export_object(copy: Copy, name: str, target: Path, *, replace: bool = False) -> Exported:
    """Write the tensors of one registered object into a safetensors file, under the names of its ``state_dict()``.

    Tensors that the object holds under several names come under each of them; those that lie in parts in several images
    are put together. What is no tensor is left out. The images are read once, chunk by chunk, and never held in memory.

    :raises SnapshotNotFound: the snapshot has no such object, or it holds no tensors.
    :raises TargetNotWritable: there is something already, or it cannot be written.
    :raises SnapshotCorrupt: the copy fails verification; nothing is left behind.
    :raises StateError: a tensor lies in parts of which it is not known where they belong.
    """
    if (target.exists() or target.is_symlink()) and not (replace and target.is_file()):
        what = "is there already" if target.is_file() else "is no file, so it is not replaced"
        raise TargetNotWritable(f"{target} {what}", "choose another target, or replace a file with --force")
    found = dict(sorted(_find(copy, name).items()))
    header, places = _plan({key: tensor.spec(key) for key, tensor in found.items()}, copy, name)
    size = len(header) + sum(place.spec.size for place in places.values())
    storage = Storage()
    with _made_beside(target, size, storage) as fresh:
        _write_tensors(fresh, header, [(part, places[key]) for key, each in found.items() for part in each.parts], copy)
        storage.rename(fresh, target)
    return Exported(size, tuple(found))


@dataclass(frozen=True)
class _Part:
    """What one image has of a tensor of this shape, and where in the tensor it belongs."""

    file: ImageFile
    place: Placed
    shape: tuple[int, ...]
    offsets: tuple[int, ...]

    def runs(self) -> Iterator[tuple[int, int, int]]:
        """In bytes: where in the image, where in the tensor, and how long."""
        item = ITEM_SIZE[self.place.spec.dtype]
        for source, target, length in runs(self.shape, self.offsets, self.place.spec.shape):
            yield self.place.offset + source * item, target * item, length * item


@dataclass
class _Tensor:
    dtype: str
    shape: tuple[int, ...]
    parts: list[_Part] = field(default_factory=list)
    unplaced: bool = False

    def spec(self, name: str) -> TensorSpec:
        return TensorSpec(name, self.dtype, self.shape)

    def add(self, part: _Part) -> None:
        """Take a part, unless another image has it alike."""
        known = {(each.offsets, each.place.spec.shape) for each in self.parts}
        if part.place.spec.size and (part.offsets, part.place.spec.shape) not in known:
            self.parts.append(part)

    @property
    def whole(self) -> bool:
        return sum(prod(part.place.spec.shape) for part in self.parts) == prod(self.shape)


def _find(copy: Copy, name: str) -> dict[str, _Tensor]:
    """The object's tensors, by their names in its ``state_dict()``.

    The first rank holds what all have. What lies in parts is looked for in all images.
    """
    found: dict[str, _Tensor] = {}
    images = Images(copy)
    for file in sorted(copy.manifest.files, key=lambda image: image.rank):
        opened = images.open(file)
        for reference in _references(opened, name):
            place = opened.tensors[reference.tensor].place
            shape = reference.shape if reference.shape is not None else place.spec.shape
            offsets = reference.offsets if reference.shape is not None else (0,) * len(shape)
            if reference.path not in found:
                found[reference.path] = _Tensor(place.spec.dtype, shape)
            found[reference.path].unplaced |= offsets is None
            if offsets is not None and (reference.shape is not None or not found[reference.path].parts):
                found[reference.path].add(_Part(opened.tensors[reference.tensor].file, place, shape, offsets))
        if all(tensor.whole for tensor in found.values()):
            return found
    lacking, tensor = next((path, tensor) for path, tensor in found.items() if not tensor.whole)
    if tensor.unplaced:
        raise StateError(
            f"object={name} has {lacking} in parts of which nobody can say where they belong",
            "export the whole snapshot, without object=",
        )
    raise SnapshotCorrupt(f"the images do not have all parts of {lacking} of object={name}")


def _references(opened: OpenedImage, name: str) -> list[Reference]:
    """Names in the object's ``state_dict()``, and the tensors in the image that they mean."""
    state = opened.state
    objects = state.get("objects") if isinstance(state, dict) else None
    if not isinstance(objects, dict):
        raise SnapshotCorrupt("the image's state has not the form that resilient writes")
    if name not in objects:
        raise SnapshotNotFound(f"the snapshot holds no object={name}", f"it holds {', '.join(sorted(objects))}")
    try:
        found = list(references(objects[name]))
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise SnapshotCorrupt(f"the state of {name} is malformed: {error!r}") from error
    if not found:
        raise SnapshotNotFound(f"object={name} holds no tensors", f"the objects are {', '.join(sorted(objects))}")
    if unknown := {reference.tensor for reference in found} - opened.tensors.keys():
        raise SnapshotCorrupt(f"the state names tensors that the image has not: {sorted(unknown)[:3]}")
    return found


def _plan(specs_by_name: Mapping[str, TensorSpec], copy: Copy, name: str) -> tuple[bytes, Mapping[str, Placed]]:
    """The header of the new file, and where each tensor goes in it. Wide types come first, so all are aligned."""
    specs = sorted(specs_by_name.values(), key=lambda spec: (-ITEM_SIZE[spec.dtype], spec.name))
    manifest = copy.manifest
    about = {"run_id": manifest.run_id, "step": str(manifest.step), "identity": manifest.identity, "object": name}
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "writer": "resilient", **about}}
    offset = 0
    for spec in specs:
        place = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [offset, offset + spec.size]}
        entries[spec.name], offset = place, offset + spec.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text = text.ljust(-(-len(text) // 8) * 8)
    header, places = struct.pack("<Q", len(text)) + text, {}
    offset = len(header)
    for spec in specs:
        places[spec.name], offset = Placed(spec, offset), offset + spec.size
    return header, places


def _write_tensors(path: Path, header: bytes, pairs: list[tuple[_Part, Placed]], copy: Copy) -> None:
    """Go through the chunks that hold something wanted, and put each piece where it belongs."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(descriptor, header, 0)
        for file in copy.manifest.files:
            here = [(part, target) for part, target in pairs if part.file == file]
            chunks = {
                number
                for part, _ in here
                for number in range(part.place.offset // CHUNK, (part.place.end - 1) // CHUNK + 1)
            }
            for number, chunk in read_chunks(copy, file, sorted(chunks)):
                for part, target in here:
                    _write_part(descriptor, part, target, chunk, number * CHUNK)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_part(descriptor: int, part: _Part, target: Placed, chunk: memoryview, begin: int) -> None:
    """What the chunk, which begins at this byte of the image, has of a part."""
    if part.place.end <= begin or part.place.offset >= begin + len(chunk):
        return
    for source, place, length in part.runs():
        first, last = max(source, begin), min(source + length, begin + len(chunk))
        if first < last:
            _write_at(descriptor, chunk[first - begin : last - begin], target.offset + place + first - source)


def _write_at(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count


@contextmanager
def _made_beside(target: Path, size: int, storage: Storage) -> Iterator[Path]:
    """A path beside ``target`` for what becomes it; whatever is left there goes when that fails."""
    fresh = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if storage.free_bytes(target.parent) < size + _SPARE_BYTES:
            raise StorageFull(f"{size} bytes are needed in {target.parent}, which has less", "free space there")
        yield fresh
        storage.sync_directory(target.parent)
    except BaseException as error:
        with suppress(OSError):
            storage.remove_tree(fresh) if fresh.is_dir() else fresh.unlink(missing_ok=True)
        if isinstance(error, OSError):
            problem = f"{target} cannot be written: {error.strerror or error}"
            raise TargetNotWritable(problem, "check the path and its permissions") from error
        raise
