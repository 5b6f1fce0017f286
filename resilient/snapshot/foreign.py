"""Checkpoints that a script wrote itself: whether one is complete, without loading it.

Nothing is unpickled, ever: a file is judged by its structure alone. What the known formats show, each in its own way,
is that the end of the file was written; damage in the middle is for the script to find. A format that does not show it
counts as complete when it was left alone for some seconds before the writer died.
"""

from __future__ import annotations

import json
import os
import pickletools
import struct
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_UNTOUCHED_SECONDS = 2.0
_MOST_FILES = 10_000
_LONGEST_HEADER = 100 << 20  # safetensors' own limit
_LONGEST_METADATA = 64 << 20
_LEGACY_TORCH = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_ZIP, _ZIP_EMPTY = b"PK\x03\x04", b"PK\x05\x06"
_TEMPORARY_ENDS = (".tmp", ".temp", ".part", ".partial", ".incomplete", ".lock", "~")
_TEMPORARY_BEGINNINGS = ("tmp-", "tmp_", ".tmp")
_MODEL_FILES = (
    "model*.safetensors",
    "pytorch_model*.bin",
    "adapter_model.*",
    "model*.index.json",
    "pytorch_model*.json",
)


def is_temporary(path: Path) -> bool:
    """Whether the name says that it is still being written."""
    return path.name.endswith(_TEMPORARY_ENDS) or path.name.startswith(_TEMPORARY_BEGINNINGS)


def find_defect(path: Path, *, ended: float) -> str | None:
    """Why the checkpoint is not complete, or None where it is.

    :param ended: when its writer ended, or now; seconds since the epoch.
    """
    try:
        if is_temporary(path):
            return "its name says that it is temporary"
        return _defect_of_directory(path, ended) if path.is_dir() else _defect_of_file(path, ended)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


# --- files


def _defect_of_file(path: Path, ended: float) -> str | None:
    stats = path.stat()
    if stats.st_size == 0:
        return "it is empty"
    with path.open("rb") as stream:
        head = stream.read(16)
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)
    if path.suffix == ".safetensors":
        return _defect_of_safetensors(path, stats.st_size)
    if head.startswith((_ZIP, _ZIP_EMPTY)):
        return _defect_of_zip(path)
    if head.startswith(b"\x80") and not head.startswith(_LEGACY_TORCH[:15]):
        return None if last == b"." else "the pickle in it has no end"
    if path.suffix in {".pt", ".pth", ".ckpt"} and not any(head):
        return "it begins with zeros"
    if path.suffix == ".json":
        return _defect_of_json(path)
    return None if _was_left_alone(stats.st_mtime, ended) else "it was still being written when the script ended"


def _was_left_alone(modified: float, ended: float) -> bool:
    return ended - modified >= _UNTOUCHED_SECONDS or modified > ended + 60.0  # another machine's clock


def _defect_of_zip(path: Path) -> str | None:
    """Torch's format since 1.6, and numpy's ``.npz``: the directory is written last."""
    size = path.stat().st_size
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error):
        return "the directory at its end is missing"
    if not entries:
        return "it holds nothing"
    if any(entry.header_offset + entry.compress_size > size for entry in entries):
        return "it is shorter than its directory says"
    names = {entry.filename.rpartition("/")[2] for entry in entries}
    if "version" in names and "data.pkl" not in names and "constants.pkl" not in names:
        return "it holds no data.pkl"
    return None


def _defect_of_safetensors(path: Path, size: int) -> str | None:
    with path.open("rb") as stream:
        prefix = stream.read(8)
        if len(prefix) < 8:
            return "it is shorter than a header"
        length = int.from_bytes(prefix, "little")
        if length > min(_LONGEST_HEADER, size - 8):
            return "it is shorter than its header"
        try:
            header = json.loads(stream.read(length))
            ends = [body["data_offsets"][1] for name, body in header.items() if name != "__metadata__"]
            expected = 8 + length + max(ends, default=0)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "its header cannot be read"
    return None if size == expected else f"it has {size} bytes, and its header says {expected}"


def _defect_of_json(path: Path) -> str | None:
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return "it is no JSON"
    return None


# --- directories


def _defect_of_directory(path: Path, ended: float) -> str | None:
    files = list(_files_below(path))
    if not files:
        return "it is empty"
    if (path / ".metadata").exists():
        return _defect_of_distributed(path)
    if (path / ".snapshot_metadata").exists():
        return _defect_of_torchsnapshot(path)
    if path.name.startswith("checkpoint-") or (path / "trainer_state.json").exists():
        defect = _defect_of_transformers(path)
        if defect is not None:
            return defect
    for file in files:
        defect = _defect_of_file(file, ended)
        if defect is not None and not (file.stat().st_size == 0 and file.suffix not in {".pt", ".pth", ".safetensors"}):
            return f"{file.relative_to(path)}: {defect}"
    return None


def _files_below(path: Path) -> Iterator[Path]:
    found = 0
    for directory, _, names in os.walk(path):
        for name in names:
            found += 1
            if found > _MOST_FILES:
                return
            yield Path(directory, name)


def _defect_of_transformers(path: Path) -> str | None:
    """``checkpoint-500`` of Hugging Face's Trainer, which writes ``trainer_state.json`` after the model."""
    if not (path / "trainer_state.json").exists():
        return "it has no trainer_state.json"
    if not any(found for pattern in _MODEL_FILES for found in path.glob(pattern)):
        return "it has no model"
    for index in path.glob("*.index.json"):
        with suppress(ValueError, AttributeError):
            shards = set(json.loads(index.read_bytes()).get("weight_map", {}).values())
            missing = sorted(shard for shard in shards if not (path / str(shard)).is_file())
            if missing:
                return f"{missing[0]} is missing"
    return None


def _defect_of_distributed(path: Path) -> str | None:
    """A directory of ``torch.distributed.checkpoint``, whose ``.metadata`` is written last and names the files."""
    metadata = path / ".metadata"
    if metadata.stat().st_size > _LONGEST_METADATA:
        return None
    try:
        # The strings in a pickle can be read without building what it describes.
        strings = [value for _, value, _ in pickletools.genops(metadata.read_bytes()) if isinstance(value, str)]
    except Exception:  # noqa: BLE001  a pickle that is cut short can fail in any way
        return ".metadata is cut short"
    for name in sorted({text for text in strings if text.endswith(".distcp") and "/" not in text}):
        file = path / name
        if not file.is_file() or not file.stat().st_size:
            return f"{name} is missing"
    return None


def _defect_of_torchsnapshot(path: Path) -> str | None:
    """A directory of torchsnapshot, whose ``.snapshot_metadata`` is written when all ranks have written the rest."""
    return "its .snapshot_metadata is cut short" if _defect_of_json(path / ".snapshot_metadata") else None
