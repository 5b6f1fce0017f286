"""Which snapshot ``from=`` means, and what the run that it comes from knows of it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from resilient.errors import ConfigurationError, LineageUnreadable, SnapshotNotFound, UsageError
from resilient.policy.divergence.known_good import Grade, Graded, KnownGood
from resilient.policy.lineage import Fork, Lineage
from resilient.protocol import names
from resilient.protocol.paths import RunPaths
from resilient.runs import SNAPSHOTS, find_run
from resilient.snapshot import catalog
from resilient.snapshot import manifest as manifests
from resilient.snapshot.inventory import Item, State
from resilient.snapshot.manifest import Manifest
from resilient.snapshot.standing import Standing
from resilient.snapshots_cli.target import Target, find_target

_WORDS = ("latest", "best", "good")


@dataclass(frozen=True)
class Origin:
    """What was written, with the run that is meant; whether there is such a snapshot is another question.

    :param run: where it is said or implied; None for a snapshot directory that lies in no run.
    :param step: a number, ``latest``, ``best`` or ``good``.
    :param path: of the snapshot, where a path was written.
    """

    run: RunPaths | None
    step: str
    path: Path | None = None

    def may_mean(self, fork: Fork) -> bool:
        """Whether a run that began with that snapshot may be the one that is wanted. A word such as ``latest`` may mean
        another snapshot by now.
        """
        if self.run is not None and self.run.run_id != fork.run:
            return False
        if self.step.isdecimal():
            return int(self.step) == fork.step
        return self.path is None or not self.path.exists() or catalog.read_manifest(self.path).identity == fork.identity


@dataclass(frozen=True)
class Source:
    """A snapshot, verified.

    :param run: name of the run that it comes from.
    :param lineage: what of that run's lineage led to it, as the lineage of a fork.
    """

    run: str
    path: Path
    manifest: Manifest
    lineage: Lineage


def read_origin(text: str, directory: Path, own: Callable[[], str]) -> Origin:
    """What ``from=`` says: ``RUN:STEP``, ``STEP`` of the run that the configuration names by itself, or a path.

    :param own: that run's name.
    :raises UsageError: it makes no sense.
    """
    if not text:
        raise UsageError("from= names no snapshot", "write from=RUN:120, from=RUN:good, or the path of a snapshot")
    path = Path(text)
    if path.is_dir() or ("/" in text and ":" not in text):
        step, run = names.snapshot_step(path.name.partition(".")[0]), path.absolute().parent.parent
        inside = path.absolute().parent.name == SNAPSHOTS
        return Origin(RunPaths(run) if inside else None, "" if step is None else str(step), path)
    name, _, step_text = text.rpartition(":")
    run_paths = RunPaths.of(directory, name or own()) if "/" not in name else RunPaths(Path(name).absolute())
    return Origin(run_paths, _step(text, step_text))


def _step(text: str, word: str) -> str:
    word = word.removeprefix("step=")
    step = names.snapshot_step(word)
    if step is not None:
        return str(step)
    if word in _WORDS or re.fullmatch(r"\d{1,18}", word):
        return word
    raise UsageError(
        f"from={text} names no snapshot", f"write from=RUN:120, from=RUN:{'|'.join(_WORDS)}, or the path of a snapshot"
    )


def find(origin: Origin) -> Source:
    """The snapshot, with every byte read.

    :raises RunNotFound: there is no such run.
    :raises SnapshotNotFound: it has no such snapshot on this machine.
    :raises SnapshotCorrupt: the snapshot fails verification.
    :raises LineageUnreadable: the lineage of its run does.
    """
    path = origin.path if origin.path is not None else _chosen(origin)
    if not path.is_dir():
        raise SnapshotNotFound(f"there is no snapshot {path}", "see: resilient snapshots list run=…")
    if not (path / manifests.NAME).is_file():
        raise SnapshotNotFound(f"{path} is no snapshot", "name the directory that has a manifest.json")
    manifest = catalog.verify(path)
    name = origin.run.run_id if origin.run is not None else manifest.run_id
    return Source(name, path, manifest, _lineage_of(origin, name, manifest))


def _chosen(origin: Origin) -> Path:
    assert origin.run is not None  # noqa: S101  without a path there is a run
    run = find_run(origin.run.run_id, origin.run.root.parent)
    target = find_target([f"run={run.run_id}", f"dir={run.root.parent}", f"step={origin.step}"])
    try:
        item = target.chosen()
    except SnapshotNotFound as error:
        raise SnapshotNotFound(error.problem, _elsewhere(target) or error.remedy) from error
    return _sound(target, item).path


def _sound(target: Target, item: Item) -> Item:
    if item.state is not State.COMMITTED:
        raise SnapshotNotFound(f"step {item.step} of {target.paths.run_id} cannot be loaded: {item.problem}")
    return item


def _elsewhere(target: Target) -> str:
    """What to do about a snapshot that may lie in the remote tier."""
    if not target.remote.enabled:
        return ""
    where = f"run={target.paths.run_id} step={target.step}"
    return f"if it is in the remote tier: resilient snapshots export {where} to=DIR, then from=DIR"


def _lineage_of(origin: Origin, name: str, manifest: Manifest) -> Lineage:
    """What the snapshot's state knows of rollbacks: of those after which it was taken, and no later ones.

    The run's file is preferred to what the manifest says, for a worker may have found out since which data was left
    out.
    """
    lineage = _told(manifest)
    if origin.run is not None and origin.run.lineage.exists():
        standing = Standing.read(origin.run.snapshots)
        if standing.problem:
            raise LineageUnreadable(
                f"{origin.run.lineage}: {standing.problem}",
                "restore the file, or export the snapshot and fork from that",
            )
        lineage = standing.lineage
    before = tuple(rollback for rollback in lineage.rollbacks if rollback.round < manifest.round)
    past = replace(lineage, rollbacks=before)
    return Lineage(
        known=KnownGood((_graded(lineage, manifest.step),)),
        forked_from=Fork(name, manifest.step, manifest.identity),
        inherited=past.skips,
        inherited_lr_factor=past.lr_factor,
    )


def _told(manifest: Manifest) -> Lineage:
    try:
        return Lineage.from_json(manifest.divergence["lineage"])
    except (ValueError, KeyError):
        return Lineage()


def _graded(lineage: Lineage, step: int) -> Graded:
    """What is thought of it goes on being thought; but a fork from a suspect one is somebody's decision to try it."""
    found = {item.step: item for item in lineage.known.snapshots}.get(step)
    return found if found is not None and found.grade is Grade.GOOD else Graded(step, Grade.TAKEN, step)


def require_another_run(origin: Origin, paths: RunPaths) -> None:
    """Raises :class:`ConfigurationError` where a run would be forked from itself."""
    if origin.run is not None and origin.run.root == paths.root:
        step = f"step={origin.step}" if origin.step else "to=good"
        raise ConfigurationError(
            f"a run cannot begin with a snapshot of its own: both are {paths.run_id}",
            f"choose another run.id; or go back in this one: resilient rollback run={paths.run_id} {step}",
        )
