"""The steps that are run again: from which snapshot, what the run had reported of them, and under which conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from resilient.errors import ConfigurationError, RunNotFound, SnapshotNotFound
from resilient.policy.comparison import Records
from resilient.policy.divergence import DivergenceSettings
from resilient.policy.lineage import Lineage
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.metrics_log import BATCH_HASH, GRADIENT_HASH, PARAMETER_HASH, read_metrics
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog


@dataclass(frozen=True)
class Window:
    """Steps of a run.

    :param paths: the run's.
    :param tree: its configuration.
    :param names: the metrics that are compared, in the order in which a step makes them.
    :param snapshot: the step after which it begins; 0 for the beginning of the run, which needs no snapshot.
    :param last: its last step.
    :param records: what the run had reported; of what was done again, what came of it the last time.
    :param lineage: the data that was left out then, and the factor of the learning rate.
    :param problem: why it cannot be run again; empty if it can.
    """

    paths: RunPaths
    tree: Mapping[str, Any]
    names: tuple[str, ...]
    snapshot: int
    last: int
    records: Records
    lineage: Lineage
    problem: str = ""

    @property
    def ranks(self) -> int:
        return int((self.tree.get("worker") or {}).get("ranks", 1))


def read_configuration(paths: RunPaths) -> Mapping[str, Any]:
    """What the run was configured with.

    :raises RunNotFound: it has none: it is not there, or was trained without a supervisor.
    :raises ConfigurationError: it cannot be read.
    """
    try:
        tree = yaml.safe_load(paths.config.read_text())
    except FileNotFoundError:
        raise RunNotFound(
            f"{paths.config} is not there", "only steps of a run that was started with resilient train can be run again"
        ) from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{paths.config} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(tree, Mapping):
        raise ConfigurationError(f"{paths.config} is no configuration")
    return tree


def compared_names(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """What is the same whenever a step is done again: hashes, and the metrics that are watched for divergence. Others
    may be times.
    """
    watched = DivergenceSettings.from_mapping(tree.get("divergence") or {})
    norm = [watched.grad_norm.metric] if watched.grad_norm.metric else []
    return (BATCH_HASH, *watched.metrics, *norm, GRADIENT_HASH, PARAMETER_HASH)


@dataclass(frozen=True)
class Reported:
    """What a run has reported, with the rounds that did.

    :param rounds: by step, the round that did it last.
    """

    records: Records
    rounds: Mapping[int, int]


def read_records(logs: Sequence[Path], names: Sequence[str]) -> Reported:
    """What all these logs have of ``names``. A step that was done again counts as it was done last."""
    found: dict[int, dict[tuple[int, str], float]] = {}
    rounds: dict[int, int] = {}
    wanted = set(names)
    for log in logs:
        for entry in read_metrics(log):
            step, values = entry.metrics.step, entry.metrics.values
            if wanted.isdisjoint(values) or entry.round < rounds.get(step, -1):
                continue
            if entry.round > rounds.get(step, -1):
                found[step], rounds[step] = {}, entry.round
            found[step].update({(entry.rank, name): values[name] for name in wanted & values.keys()})
    reached = -1
    for step in sorted(found):
        reached = max(reached, rounds[step])
        if rounds[step] < reached:  # an earlier step was done again since, and this one was not yet
            del found[step], rounds[step]
    return Reported(found, rounds)


def read_run(paths: RunPaths, names: Sequence[str]) -> Reported:
    """What the run has reported on any machine."""
    return read_records(sorted(paths.metrics.parent.glob("*.jsonl")), names)


def window(paths: RunPaths, snapshot: int, last: int) -> Window:
    """The steps from ``snapshot`` to ``last``, or as many of them as were reported.

    :raises SnapshotNotFound: it is not on this machine's disk.
    :raises RunNotFound: the run has no configuration.
    :raises ConfigurationError: it cannot be read, or the run's lineage cannot.
    """
    if snapshot and snapshot not in catalog.committed_steps(paths.snapshots):
        raise SnapshotNotFound(f"the run {paths.run_id} has no snapshot of step {snapshot} on disk")
    tree = read_configuration(paths)
    names = compared_names(tree)
    reported = read_run(paths, names)
    records = {step: record for step, record in reported.records.items() if snapshot < step <= last}
    lineage, problem = _conditions(_lineage(paths), snapshot, {step: reported.rounds[step] for step in records})
    return Window(paths, tree, names, snapshot, max(records, default=last), records, lineage, problem)


def choose(paths: RunPaths, steps: int, begin: int | None = None) -> Window:
    """The newest snapshot after which ``steps`` steps were reported, and these.

    :param begin: the snapshot of this step instead; and as many steps as were reported, if there are fewer.
    :raises SnapshotNotFound: there is none.
    :raises ConfigurationError: configuration or lineage cannot be read.
    """
    if begin is not None:
        return window(paths, begin, begin + steps)
    reached = read_run(paths, compared_names(read_configuration(paths))).records.keys()
    known = catalog.committed_steps(paths.snapshots)
    for snapshot in reversed(known):
        if reached >= set(range(snapshot + 1, snapshot + steps + 1)):
            found = window(paths, snapshot, snapshot + steps)
            if not found.problem:
                return found
    there = f"there are snapshots of {', '.join(map(str, known[-10:]))}" if known else "there is none"
    furthest = f", and the last step reported is {max(reached)}" if reached else ", and nothing is reported"
    raise SnapshotNotFound(
        f"the run {paths.run_id} has no snapshot after which {steps} steps are reported: {there}{furthest}",
        "take fewer with steps=…, or begin with one of them by from=…",
    )


def _lineage(paths: RunPaths) -> Lineage:
    try:
        return read_lineage(paths)
    except ValueError as error:
        raise ConfigurationError(f"{paths.lineage} cannot be read: {error}") from error


def _conditions(lineage: Lineage, snapshot: int, rounds: Mapping[int, int]) -> tuple[Lineage, str]:
    """The conditions of all these steps, as those of a run that has never been rolled back; and what is in the way."""
    last = max(rounds, default=snapshot)
    done = [rollback for rollback in lineage.rollbacks if rollback.round < max(rounds.values(), default=0)]
    if any(snapshot < rollback.target < last for rollback in done):
        return Lineage(), "the run was rolled back between these steps, and went on under other conditions"
    if any(rollback.skip is not None and rollback.skipped is None for rollback in done):
        return Lineage(), "it is not known which data was left out"
    skips = tuple(rollback.skipped for rollback in done if rollback.skipped is not None)
    factor = done[-1].lr_factor if done else lineage.inherited_lr_factor
    return Lineage(inherited=(*lineage.inherited, *skips), inherited_lr_factor=factor), ""
