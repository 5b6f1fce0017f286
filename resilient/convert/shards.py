"""Tensors in several files with an index that says which is in which, as Hugging Face has them.

The files are ``model-00001-of-00003.safetensors`` or, older, ``pytorch_model-00001-of-00003.bin``.
https://huggingface.co/docs/transformers/big_models
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from resilient.convert.checkpoint import LazyTensor, Reading
from resilient.convert.safetensors_file import read_header, write_file
from resilient.convert.torch_source import TorchSource
from resilient.errors import CheckpointUnreadable
from resilient.snapshot.storage import Storage

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_INDICES = (INDEX, "pytorch_model.bin.index.json")
_LONGEST_INDEX = 256 << 20


def find_index(directory: Path) -> Path | None:
    """The index in a directory; safetensors' rather than that of pickles, otherwise any that is the only one."""
    for name in _INDICES:
        if (directory / name).is_file():
            return directory / name
    found = sorted(directory.glob("*.safetensors.index.json"))
    return found[0] if len(found) == 1 else None


def index_in(directory: Path) -> Path:
    """:raises CheckpointUnreadable: there is none."""
    found = find_index(directory)
    if found is None:
        raise CheckpointUnreadable(f"{directory} has no {INDEX}", "check the path")
    return found


def metadata_of(index: Path) -> Mapping[str, str]:
    return {key: value for key, value in (_read(index).get("metadata") or {}).items() if isinstance(value, str)}


def read_index(index: Path, reading: Reading | None = None) -> tuple[dict[str, LazyTensor], Mapping[str, str]]:
    """All tensors by name, and the metadata that are text.

    :raises CheckpointUnreadable: a file is missing or damaged, or has not the tensors that the index says.
    """
    placed: dict[str, list[str]] = defaultdict(list)
    for name, file in _read(index)["weight_map"].items():
        placed[file].append(name)
    lacking = [file for file in placed if not (index.parent / file).is_file() or Path(file).name != file]
    if lacking:
        raise CheckpointUnreadable(
            f"{index} names {len(placed)} files, and {', '.join(sorted(lacking)[:3])} is not there",
            f"copy it to {index.parent}",
        )
    tensors: dict[str, LazyTensor] = {}
    for file, names in placed.items():
        inside = read_shard(index.parent / file, reading or Reading())
        missing = [name for name in names if name not in inside]
        if missing:
            raise CheckpointUnreadable(
                f"{index} says that {missing[0]} is in {file}, which has no such tensor",
                "they are of different checkpoints; copy all files of one",
            )
        tensors |= {name: inside[name] for name in names}
    return tensors, metadata_of(index)


def read_shard(path: Path, reading: Reading) -> dict[str, LazyTensor]:
    """The tensors of one file, of either kind."""
    if path.suffix == ".safetensors":
        return read_header(path)[0]
    tree = TorchSource(path, reading).tree
    if not isinstance(tree, dict) or not all(isinstance(tensor, LazyTensor) for tensor in tree.values()):
        raise CheckpointUnreadable(f"{path} holds something else than tensors by name", "convert the file by itself")
    return tree


def _read(index: Path) -> dict[str, Any]:
    try:
        if index.stat().st_size > _LONGEST_INDEX:
            raise ValueError("too long")
        body = json.loads(index.read_bytes())
        if not isinstance(body["weight_map"], dict):
            raise TypeError("weight_map is no object")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointUnreadable(f"{index} is no index of tensors: {error!r}", "use another copy") from error
    return dict(body)


def write_shards(
    directory: Path,
    tensors: Mapping[str, LazyTensor],
    metadata: Mapping[str, str],
    most: int,
    storage: Storage,
    *,
    finish: Callable[[Path], None] = lambda _: None,
) -> None:
    """Make a directory of files with at most so many bytes of tensors each, and their index where there are several
    or where there is something to say in it.

    A tensor that is larger has a file of its own.
    """
    storage.make_directory(directory)
    groups = list(_groups(tensors, most))
    if len(groups) == 1 and not metadata:
        write_file(directory / SINGLE, tensors, {}, storage)
    else:
        _write_several(directory, groups, metadata, storage)
    finish(directory)
    storage.sync_directory(directory)


def _write_several(
    directory: Path, groups: list[dict[str, LazyTensor]], metadata: Mapping[str, str], storage: Storage
) -> None:
    weight_map: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        name = f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        write_file(directory / name, group, {}, storage)
        weight_map |= dict.fromkeys(group, name)
    total = sum(tensor.size for group in groups for tensor in group.values())
    index = {"metadata": {"total_size": total, **metadata}, "weight_map": dict(sorted(weight_map.items()))}
    encoded = memoryview(json.dumps(index, indent=2).encode() + b"\n")
    storage.write(directory / INDEX, lambda append: append(encoded))


def _groups(tensors: Mapping[str, LazyTensor], most: int) -> Iterator[dict[str, LazyTensor]]:
    group: dict[str, LazyTensor] = {}
    used = 0
    for name, tensor in tensors.items():
        if group and used + tensor.size > most:
            yield group
            group, used = {}, 0
        group[name], used = tensor, used + tensor.size
    yield group
