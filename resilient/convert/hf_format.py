"""Models as ``transformers`` keeps them: ``model.safetensors``, or several files and an index, beside ``config.json``.

Only weights have a place there. They are the tree itself, or the one branch of it that is a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from resilient.convert import shards
from resilient.convert.checkpoint import Fitted, Format, LazyTensor, Reading, Tree, Writing, tensors_of
from resilient.convert.lazy import Reshaped
from resilient.convert.safetensors_file import header_of
from resilient.errors import CheckpointUnreadable, StateError, UsageError
from resilient.snapshot.storage import Storage
from resilient.worker.leaves import DTYPES

CONFIG = "config.json"
_NEIGHBOURS = ("generation_config.json",)
_BIN = "pytorch_model.bin"
_SHARD_BYTES = 5_000_000_000
_MODELS = ("model", "module", "state_dict", "model_state_dict", "net", "network")
_WRAPPERS = ("module.", "_orig_mod.")
"""What DistributedDataParallel and ``torch.compile`` put before every name."""


class HfSource:
    """:param path: of the directory."""

    def __init__(self, path: Path, reading: Reading) -> None:
        self.path = path
        self._reading = reading

    @property
    def about(self) -> str:
        return f"a model in Hugging Face's form ({len(self.tree)} tensors)"

    @property
    def step(self) -> int | None:
        return None

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @cached_property
    def tree(self) -> Tree:
        if shards.find_index(self.path) is not None:
            return shards.read_index(shards.index_in(self.path), self._reading)[0]
        return shards.read_shard(_only_file(self.path), self._reading)

    def verify(self) -> None:
        self.tree  # noqa: B018  is looked for, and says what is missing


class HfTarget:
    """A directory that ``from_pretrained`` loads, where a ``config.json`` is known."""

    def __init__(self, writing: Writing) -> None:
        self._most = writing.shard_size or _SHARD_BYTES
        self._config = None if writing.hf_config is None else _config_in(writing.hf_config)

    def fit(self, tree: Tree) -> Fitted:
        branch, model = _model_in(tree)
        notes = [f"the model is {branch}; everything else is left out"] if branch else []
        bare, wrapper = _bare(model)
        notes += [f"the names lose the {wrapper} that they all begin with"] if wrapper else []
        unfit = next(((name, tensor) for name, tensor in bare.items() if tensor.dtype not in DTYPES), None)
        if unfit is not None:
            raise StateError(
                f"{unfit[0]} is of type {unfit[1].dtype}, which safetensors cannot hold", "convert it with --dtype"
            )
        if self._config is None:
            notes.append(
                f"there is no {CONFIG}, without which transformers does not load the model; "
                "name the one of the model with --hf-config PATH"
            )
        plain = {
            name: tensor if tensor.is_contiguous else Reshaped(tensor, tensor.shape) for name, tensor in bare.items()
        }
        return Fitted(plain, notes)

    def size(self, tree: Tree) -> int:
        tensors: Mapping[str, LazyTensor] = tree
        return sum(tensor.size for tensor in tensors.values()) + 2 * len(header_of(tree, {})[0]) + (1 << 20)

    def write(self, path: Path, tree: Tree, storage: Storage) -> None:
        def finish(directory: Path) -> None:
            for file in _beside(self._config):
                _copy(file, directory / file.name, storage)

        shards.write_shards(path, tree, {}, self._most, storage, finish=finish)


def _config_in(path: Path) -> Path:
    file = path / CONFIG if path.is_dir() else path
    try:
        if not isinstance(json.loads(file.read_bytes()), dict):
            raise TypeError("it is no object")
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"--hf-config: {file} is no {CONFIG}: {error}", f"name a {CONFIG} or its directory") from error
    return file


def _copy(file: Path, to: Path, storage: Storage) -> None:
    data = memoryview(file.read_bytes())
    storage.write(to, lambda append: append(data))


def _beside(config: Path | None) -> list[Path]:
    if config is None:
        return []
    return [config, *(other for name in _NEIGHBOURS if (other := config.with_name(name)).is_file())]


def _model_in(tree: Tree) -> tuple[str, Mapping[str, LazyTensor]]:
    """Where the weights are, and they by name."""
    if _is_model(tree):
        return "", tree
    found = [name for name in _MODELS if isinstance(tree, dict) and _is_model(tree.get(name))]
    if len(found) == 1:
        return found[0], tree[found[0]]
    if not tensors_of(tree):
        raise StateError("there are no tensors in it", "convert something that has a model")
    there = ", ".join(map(str, tree)) if isinstance(tree, dict) else f"a {type(tree).__name__}"
    raise StateError(
        f"it is not clear what in it is the model: there are {there}",
        "say it with --only NAME; a model has nothing but tensors by name",
    )


def _is_model(tree: Any) -> bool:
    return (
        isinstance(tree, dict)
        and bool(tree)
        and all(isinstance(name, str) and isinstance(item, LazyTensor) for name, item in tree.items())
    )


def _bare(model: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], str]:
    removed, found = "", dict(model)
    while wrapper := next((each for each in _WRAPPERS if all(name.startswith(each) for name in found)), ""):
        found = {name.removeprefix(wrapper): tensor for name, tensor in found.items()}
        removed += wrapper
    return found, removed


def _only_file(directory: Path) -> Path:
    """:raises CheckpointUnreadable: it is not clear which file is the model."""
    for name in (shards.SINGLE, _BIN):
        if (directory / name).is_file():
            return directory / name
    found = sorted(directory.glob("*.safetensors"))
    if len(found) != 1:
        raise CheckpointUnreadable(
            f"{directory} has {len(found)} files of safetensors and no index that says which belong together",
            f"name one of the files, or copy {shards.INDEX} to it",
        )
    return found[0]


def _recognises(path: Path) -> bool:
    if not path.is_dir():
        return False
    if shards.find_index(path) is not None or any((path / name).is_file() for name in (shards.SINGLE, _BIN)):
        return True
    return (path / CONFIG).is_file() and any(path.glob("*.safetensors"))


FORMAT = Format("hf", "a model in Hugging Face's form", _recognises, HfSource, HfTarget)
