"""Export: a snapshot out of its run, whole or one object of it, for whoever wants to load it elsewhere.

Every byte is verified on its way, whichever tier it comes from. The target appears whole or not at all.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resilient.errors import SnapshotCorrupt, SnapshotNotFound, StorageFull, TargetNotWritable
from resilient.snapshot import manifest as manifests
from resilient.snapshot.copies import Copy, read_chunks, read_range
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.image import ITEM_SIZE, Layout, Placed, TensorSpec, header_size, parse_state, state_place
from resilient.snapshot.manifest import ImageFile
from resilient.snapshot.storage import Storage

_SPARE_BYTES = 1 << 20
_TENSOR_TAGS = frozenset({"$tensor", "$strided", "$array"})
_PAIR_TAGS = frozenset({"$dict", "$ordered", "$counter"})
_SEQUENCE_TAGS = frozenset({"$tuple", "$set", "$frozenset"})


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
        storage.make_directory(fresh)
        for file in copy.manifest.files:
            storage.write(fresh / file.name, _writer(copy, file))
        encoded = memoryview(copy.manifest.to_bytes())
        storage.write(fresh / manifests.NAME, lambda append: append(encoded))
        storage.sync_directory(fresh)
        if target.exists():
            storage.exchange(fresh, target)
            storage.remove_tree(fresh)
        else:
            storage.rename(fresh, target)
    return copy.manifest.size


def _writer(copy: Copy, file: ImageFile) -> Callable[[Callable[[memoryview], None]], None]:
    def produce(append: Callable[[memoryview], None]) -> None:
        for _, chunk in read_chunks(copy, file):
            append(chunk)

    return produce


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

    Tensors that the object holds under several names come under each of them. What is no tensor is left out. The image
    is read once, chunk by chunk, and never held in memory.

    :raises SnapshotNotFound: the snapshot has no such object, or it holds no tensors.
    :raises TargetNotWritable: there is something already, or it cannot be written.
    :raises SnapshotCorrupt: the copy fails verification; nothing is left behind.
    """
    if (target.exists() or target.is_symlink()) and not (replace and target.is_file()):
        what = "is there already" if target.is_file() else "is no file, so it is not replaced"
        raise TargetNotWritable(f"{target} {what}", "choose another target, or replace a file with --force")
    file = min(copy.manifest.files, key=lambda image: image.rank)  # the first rank holds what all have
    layout = _layout(copy, file)
    names = dict(sorted(_named_tensors(copy, file, layout, name).items()))
    header, places = _plan(names, layout, copy, name)
    size = len(header) + sum(place.spec.size for place in places.values())
    storage = Storage()
    with _made_beside(target, size, storage) as fresh:
        _write_tensors(
            fresh, header, [(layout.tensors[source], places[key]) for key, source in names.items()], copy, file
        )
        storage.rename(fresh, target)
    return Exported(size, tuple(names))


def _layout(copy: Copy, file: ImageFile) -> Layout:
    size = file.checksum.size
    length = header_size(read_range(copy, file, 0, min(8, size)), size)
    return Layout.of_header(read_range(copy, file, 0, length), size)


def _named_tensors(copy: Copy, file: ImageFile, layout: Layout, name: str) -> Mapping[str, str]:
    """Names in the object's ``state_dict()``, and of the tensors in the image that they mean."""
    place = state_place(layout)
    state = parse_state(read_range(copy, file, place.offset, place.end))
    objects = state.get("objects") if isinstance(state, dict) else None
    if not isinstance(objects, dict):
        raise SnapshotCorrupt("the image's state has not the form that resilient writes")
    if name not in objects:
        raise SnapshotNotFound(f"the snapshot holds no object={name}", f"it holds {', '.join(sorted(objects))}")
    try:
        found = dict(_tensors(objects[name], ""))
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise SnapshotCorrupt(f"the state of {name} is malformed: {error!r}") from error
    if not found:
        raise SnapshotNotFound(f"object={name} holds no tensors", f"the objects are {', '.join(sorted(objects))}")
    if unknown := set(found.values()) - layout.tensors.keys():
        raise SnapshotCorrupt(f"the state names tensors that the image has not: {sorted(unknown)[:3]}")
    return found


def _tensors(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and name of every tensor in an encoded state tree."""
    tag, payload = _tagged(node)
    if tag in _TENSOR_TAGS:
        yield path, str(payload if tag == "$tensor" else payload[0])
        return
    children: Iterable[tuple[Any, Any]] = ()
    if tag in _PAIR_TAGS:
        children = payload
    elif tag in _SEQUENCE_TAGS:
        children = enumerate(payload)
    elif isinstance(node, list):
        children = enumerate(node)
    elif isinstance(node, dict) and not tag:
        children = node.items()
    for key, item in children:
        yield from _tensors(item, f"{path}.{key}" if path else str(key))


def _tagged(node: Any) -> tuple[str, Any]:
    """Tag and payload of what JSON has no form for; no tag for anything else."""
    if isinstance(node, dict) and len(node) == 1:
        tag, payload = next(iter(node.items()))
        if tag.startswith("$"):
            return tag, payload
    return "", None


def _plan(names: Mapping[str, str], layout: Layout, copy: Copy, name: str) -> tuple[bytes, Mapping[str, Placed]]:
    """The header of the new file, and where each tensor goes in it. Wide types come first, so all are aligned."""
    specs = [
        TensorSpec(key, layout.tensors[source].spec.dtype, layout.tensors[source].spec.shape)
        for key, source in names.items()
    ]
    specs.sort(key=lambda spec: (-ITEM_SIZE[spec.dtype], spec.name))
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


def _write_tensors(path: Path, header: bytes, pairs: list[tuple[Placed, Placed]], copy: Copy, file: ImageFile) -> None:
    """Go through the chunks that hold something wanted, and put each piece where it belongs."""
    wanted = {
        number
        for source, _ in pairs
        if source.spec.size
        for number in range(source.offset // CHUNK, (source.end - 1) // CHUNK + 1)
    }
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.pwrite(descriptor, header, 0)
        for number, chunk in read_chunks(copy, file, sorted(wanted)):
            begin, end = number * CHUNK, number * CHUNK + len(chunk)
            for source, target in pairs:
                first, last = max(source.offset, begin), min(source.end, end)
                if first < last:
                    _write_at(descriptor, chunk[first - begin : last - begin], target.offset + first - source.offset)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
