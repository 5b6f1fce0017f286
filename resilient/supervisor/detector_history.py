"""The state of the divergence detectors after a step that no supervisor of now has seen: from the nearest durable
snapshot, and what the logs of metrics say since.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from resilient.errors import SnapshotCorrupt
from resilient.policy.divergence import DivergenceSettings, MonitorState
from resilient.policy.lineage import Lineage
from resilient.protocol import names
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, last_entries
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.supervisor.divergence_sensor import folded, state_from


def detector_at(paths: RunPaths, settings: DivergenceSettings, lineage: Lineage, step: int) -> MonitorState:
    """The state after ``step``, as far as it can be known."""
    if not settings.enabled or step <= 0:
        return MonitorState()
    base, state = _nearest(paths.snapshots, lineage, step)
    entries = (entry for log in sorted(paths.metrics.parent.glob("*.jsonl")) for entry in last_entries(log))
    return folded(settings, state, (item for item in of_lineage(entries, lineage.holds) if base < item.step <= step))


def _nearest(snapshots: Path, lineage: Lineage, step: int) -> tuple[int, MonitorState]:
    """The step of the newest durable snapshot not after ``step`` that says what the state was, and the state."""
    for durable in reversed(catalog.steps_on(snapshots, lineage)):
        if durable > step:
            continue
        try:
            manifest = catalog.read_manifest(snapshots / names.snapshot_name(durable))
        except SnapshotCorrupt:
            continue
        state = state_from(manifest.divergence)
        if state is not None:
            return durable, state
    return 0, MonitorState()


def of_lineage(entries: Iterable[Entry], holds: Callable[[int, int], bool]) -> list[Metrics]:
    """The records of rank 0 in the order of steps: for each, those of the last round that did it.

    :param holds: whether a step of a round is on the lineage.
    """
    steps: dict[int, tuple[int, list[Metrics]]] = {}
    for entry in entries:
        step = entry.metrics.step
        if entry.rank != 0 or not holds(step, entry.round):
            continue
        known = steps.get(step)
        if known is None or entry.round > known[0]:
            steps[step] = (entry.round, [entry.metrics])
        elif entry.round == known[0]:
            known[1].append(entry.metrics)
    return [record for _, (_, records) in sorted(steps.items()) for record in records]
