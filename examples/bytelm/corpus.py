"""Real text that every machine already has: the sources of Python's own standard library, as bytes.

Walking seven hundred files takes about a second, which a relaunch after a crash must not pay. So the walk happens
once: its result stands as `train.bin` and `val.bin` in a cache directory named after the interpreter, and
`corpus.json`, written last, marks them complete. With a valid mark, `load` maps two files and no more.
"""

import hashlib
import json
import os
import platform
import sys
import sysconfig
import tempfile
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

Bytes: TypeAlias = npt.NDArray[np.uint8]

SKIPPED = frozenset({"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"})
VALIDATION_SHARE = 20  # one file in twenty, chosen by its name


@dataclass(frozen=True)
class Mark:
    """What `corpus.json` says: a digest of the sources' names and sizes, and the length of either file."""

    digest: str
    train_bytes: int
    val_bytes: int


class ByteWindows(Dataset[tuple[Tensor, Tensor]]):
    """Map-style dataset of non-overlapping windows: item i starts at byte `i * block_size`.

    An item is `(x, y)`, both int64 of shape (block_size,); `y` is `x` shifted by one byte.
    """

    def __init__(self, data: Bytes, block_size: int) -> None:
        self.data = data
        self.block_size = block_size

    def __len__(self) -> int:
        return max(0, len(self.data) - 1) // self.block_size

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        start = index * self.block_size
        window = torch.from_numpy(self.data[start : start + self.block_size + 1].astype(np.int64))
        return window[:-1], window[1:]


class Damaged(Dataset[tuple[Tensor, Tensor]]):
    """Another dataset, in which some samples have random bytes for targets, as a file with lost blocks has."""

    def __init__(self, inner: Dataset[tuple[Tensor, Tensor]], samples: frozenset[int]) -> None:
        self.inner = inner
        self.samples = samples

    def __len__(self) -> int:
        return len(self.inner)  # type: ignore[arg-type]  # torch does not say that map-style datasets have a length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        x, y = self.inner[index]
        if index in self.samples:
            y = torch.randint(0, 256, y.shape, generator=torch.Generator().manual_seed(index))
        return x, y


def load(cache: Path | None = None, max_bytes: int | None = None) -> tuple[Bytes, Bytes]:
    """The training and the validation bytes, mapped read-only; a missing or damaged cache is built first.

    `max_bytes` limits the training bytes only, and only in what is returned, so one cache serves every limit.
    """
    folder = (cache or default_cache()) / interpreter_key()
    mark = read_mark(folder) or build(folder)
    train = np.memmap(folder / "train.bin", dtype=np.uint8, mode="r", shape=(mark.train_bytes,))
    val = np.memmap(folder / "val.bin", dtype=np.uint8, mode="r", shape=(mark.val_bytes,))
    return train[:max_bytes], val


def default_cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "resilient" / "bytelm"


def interpreter_key() -> str:
    """A directory name that changes with the interpreter's exact build and with where its library lies."""
    identity = f"{stdlib()}\n{sys.version}".encode()
    return f"{platform.python_version()}-{hashlib.sha256(identity).hexdigest()[:12]}"


def stdlib() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def read_mark(folder: Path) -> Mark | None:
    """The mark of a complete cache, or None where it is missing, unreadable or contradicted by the files."""
    try:
        mark = Mark(**json.loads((folder / "corpus.json").read_text()))
        found = ((folder / "train.bin").stat().st_size, (folder / "val.bin").stat().st_size)
    except (OSError, ValueError, TypeError):
        return None
    return mark if found == (mark.train_bytes, mark.val_bytes) else None


def build(folder: Path) -> Mark:
    """Walk the library and write the cache; raises FileNotFoundError where the library has no sources.

    Two builders at once write the same bytes to files of their own, and the last rename wins. A reader that finds the
    file of one beside the mark of another sees either equal bytes or a wrong size, and rebuilds.
    """
    digest = hashlib.sha256()
    parts: dict[str, list[bytes]] = {"train": [], "val": []}
    for name, content in sources(stdlib()):
        digest.update(f"{name}\0{len(content)}\n".encode())
        validation = zlib.crc32(name.encode()) % VALIDATION_SHARE == 0
        parts["val" if validation else "train"].append(content)
    if not (parts["train"] and parts["val"]):
        message = f"no Python sources below {stdlib()}: install the full standard library of this Python"
        raise FileNotFoundError(message)
    train, val = b"\n".join(parts["train"]), b"\n".join(parts["val"])
    mark = Mark(digest.hexdigest(), len(train), len(val))
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "train.bin", train)
    replace(folder / "val.bin", val)
    replace(folder / "corpus.json", json.dumps(asdict(mark), indent=2).encode())
    return mark


def sources(root: Path) -> Iterator[tuple[str, bytes]]:
    """Every source file below `root` as (relative posix path, content), sorted by that path."""
    paths: list[Path] = []
    for here, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in SKIPPED]  # prune: site-packages can be huge
        paths += [Path(here, name) for name in files if name.endswith(".py")]
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in paths):
        yield name, path.read_bytes()


def replace(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step. The directory is not synced: a lost cache is only built again."""
    with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
        draft = Path(scratch, path.name)
        with draft.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # else a power cut can leave the right size full of zeros
        draft.replace(path)
