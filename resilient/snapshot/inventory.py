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
from resilient.snapshot.standing import Standing


class State(str, Enum):
    """What can be said of a snapshot without reading its images."""

    COMMITTED = "committed"
    CORRUPT = "corrupt"  # its manifest cannot be read, an image has not its size, or it has been set aside
    DISCARDED = "discarded"  # by a rollback, or its leader was none any more; it is kept as evidence for a while


_STATES = {catalog.CORRUPT: State.CORRUPT, catalog.DISCARDED: State.DISCARDED}


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
        return catalog.CORRUPT in self.path.name

    @property
    def bytes(self) -> int:
        return self.manifest.size if self.manifest is not None else 0


def inventory(directory: Path, standing: Standing | None = None) -> tuple[Item, ...]:
    """All snapshots in ``directory``, oldest first. What disappears while this looks is left out.

    :param standing: what the run's lineage says; read from the run directory if it is not given.
    """
    if not directory.is_dir():
        return ()
    standing = standing if standing is not None else Standing.read(directory)
    found = (_item(directory, path, standing) for path in sorted(directory.iterdir()))
    return tuple(sorted((item for item in found if item is not None), key=lambda item: (item.step, item.path.name)))


def candidates(items: Sequence[Item]) -> tuple[Candidate, ...]:
    """What retention may judge: the committed ones that seem whole."""
    return tuple(
        Candidate(item.step, item.manifest.created, item.manifest.metrics, item.pinned)
        for item in items
        if item.manifest is not None and item.state is State.COMMITTED
    )


def _item(directory: Path, path: Path, standing: Standing) -> Item | None:
    name, mark = _parted(path.name)
    step = names.snapshot_step(name)
    if step is None or path.is_symlink() or not path.is_dir():
        return None
    pinned = pins.is_pinned(directory, step)
    try:
        manifest = catalog.read_manifest(path)
    except SnapshotCorrupt as error:
        if not path.exists():
            return None
        return Item(step, path, _STATES.get(mark, State.CORRUPT), None, pinned, error.problem)
    problem = _set_aside(path, mark) or _size_problem(path, manifest)
    if problem and not path.exists():
        return None
    if not mark and not standing.counts(manifest):
        return Item(step, path, State.DISCARDED, manifest, pinned, why_discarded(manifest, standing))
    state = _STATES.get(mark, State.CORRUPT) if problem else State.COMMITTED
    return Item(step, path, state, manifest, pinned, problem)


def _parted(name: str) -> tuple[str, str]:
    """The name of a snapshot directory without what it was set aside with, and that mark."""
    for mark in _STATES:
        if mark in name:
            return name.partition(mark)[0], mark
    return name, ""


def _set_aside(path: Path, mark: str) -> str:
    """Why a snapshot was set aside, in words."""
    if mark == catalog.DISCARDED:
        number = path.name.partition(mark)[2].partition("-")[0]
        if number.startswith(catalog.OF_TERM):
            return _late(number.removeprefix(catalog.OF_TERM))
        return f"discarded by rollback {number}"
    return "set aside after a failed verification" if mark else ""


def why_discarded(manifest: Manifest, standing: Standing) -> str:
    """Why a snapshot that does not count does not, in words."""
    late = not standing.terms.count(manifest.step, manifest.term)
    return _late(manifest.term) if late else "discarded by a rollback"


def _late(term: int | str) -> str:
    return f"committed by the leader of term {term} after its time"


def _size_problem(path: Path, manifest: Manifest) -> str:
    try:
        for file in manifest.files:
            catalog.require_size(path, file)
    except SnapshotCorrupt as error:
        return error.problem
    return ""
