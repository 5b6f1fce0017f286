"""The inventory: all snapshots in a directory, the damaged and the quarantined too, without reading their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from resilient.errors import SnapshotCorrupt
from resilient.protocol import names
from resilient.snapshot import catalog, pins
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.retention import Candidate


class State(str, Enum):
    """What can be said of a snapshot without reading its images."""

    COMMITTED = "committed"
    CORRUPT = "corrupt"  # its manifest cannot be read, an image has not its size, or it has been set aside


@dataclass(frozen=True)
class Item:
    """One snapshot in the directory.

    :param manifest: None if it cannot be read.
    :param problem: what is wrong with it, in words.
    """

    step: int
    path: Path
    state: State
    manifest: Manifest | None = None
    pinned: bool = False
    problem: str = ""

    @property
    def quarantined(self) -> bool:
        return names.snapshot_step(self.path.name) is None

    @property
    def bytes(self) -> int:
        return self.manifest.size if self.manifest is not None else 0


def inventory(directory: Path) -> tuple[Item, ...]:
    """All snapshots in ``directory``, oldest first. What disappears while this looks is left out."""
    if not directory.is_dir():
        return ()
    found = (_item(directory, path) for path in sorted(directory.iterdir()))
    return tuple(sorted((item for item in found if item is not None), key=lambda item: (item.step, item.path.name)))


def candidates(items: Sequence[Item]) -> tuple[Candidate, ...]:
    """What retention may judge: the committed ones that seem whole."""
    return tuple(
        Candidate(item.step, item.manifest.created, item.manifest.metrics, item.pinned)
        for item in items
        if item.manifest is not None and item.state is State.COMMITTED
    )


def _item(directory: Path, path: Path) -> Item | None:
    step = names.snapshot_step(path.name.split(catalog.CORRUPT)[0])
    if step is None or path.is_symlink() or not path.is_dir():
        return None
    pinned, quarantined = pins.is_pinned(directory, step), catalog.CORRUPT in path.name
    try:
        manifest = catalog.read_manifest(path)
    except SnapshotCorrupt as error:
        if not path.exists():
            return None
        return Item(step, path, State.CORRUPT, None, pinned, error.problem)
    problem = "set aside after a failed verification" if quarantined else _size_problem(path, manifest)
    if problem and not path.exists():
        return None
    return Item(step, path, State.CORRUPT if problem else State.COMMITTED, manifest, pinned, problem)


def _size_problem(path: Path, manifest: Manifest) -> str:
    try:
        for file in manifest.files:
            catalog.require_size(path, file)
    except SnapshotCorrupt as error:
        return error.problem
    return ""
