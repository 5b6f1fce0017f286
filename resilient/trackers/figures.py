"""The standard figures of a run, counted from its details."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from resilient.policy.state import Phase
from resilient.supervisor.status import Status
from resilient.trackers.details import Details
from resilient.trackers.exposition import Family, Sample

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_MOST_METRICS = 100  # names that a script makes up as it goes would be more than Prometheus likes

_COUNTERS: Mapping[str, str] = {
    "steps": "Steps done for the first time on their lineage.",
    "repeated_steps": "Steps done again after a failure.",
    "discarded_steps": "Steps discarded by rollbacks.",
    "rounds": "Rounds launched.",
    "rollbacks": "Rollbacks.",
    "preemptions": "Preemptions.",
    "productive_seconds": "Seconds in steps done for the first time; those discarded later are counted too.",
    "repeated_seconds": "Seconds in steps done again.",
}


class Figures:
    """Counts.

    :ivar state: all counts as plain values; what is put there goes on from it.
    """

    def __init__(self, run: str, state: dict[str, Any]) -> None:
        self._run = run
        self.state = state
        for name in ("counters", "gauges", "incidents", "snapshots", "metrics"):
            state.setdefault(name, {})
        state.setdefault("buckets", [0] * (len(_BUCKETS) + 1))

    def count(self, details: Details) -> None:
        getattr(self, f"_{details.kind.value}", lambda _: None)(details)

    def _add(self, name: str, amount: float = 1.0) -> None:
        counters = self.state["counters"]
        counters[name] = counters.get(name, 0.0) + amount

    def _metrics(self, details: Details) -> None:
        repeated, seconds = details.facts["repeated"], details.facts["seconds"]
        self._add("repeated_steps" if repeated else "steps")
        self.state["gauges"].update(
            step=details.step, lineage=details.lineage, last_step_timestamp_seconds=details.time
        )
        if seconds is not None:
            self._add("repeated_seconds" if repeated else "productive_seconds", seconds)
            index = next((index for index, most in enumerate(_BUCKETS) if seconds <= most), len(_BUCKETS))
            self.state["buckets"][index] += 1
            self.state["bucket_sum"] = self.state.get("bucket_sum", 0.0) + seconds
        known = self.state["metrics"]
        known.update(
            {name: value for name, value in details.values.items() if name in known or len(known) < _MOST_METRICS}
        )

    def _started(self, details: Details) -> None:
        gauges = self.state["gauges"]
        gauges.setdefault("first_start_timestamp_seconds", details.time)
        gauges.update(start_timestamp_seconds=details.time, up=1)
        gauges.pop("exit_code", None)
        if details.facts["first"]:
            self._add("rounds")

    def _resumed(self, details: Details) -> None:
        self._add("rounds")
        self.state["gauges"]["step"] = details.step

    def _snapshot(self, details: Details) -> None:
        facts, tiers = details.facts, self.state["snapshots"]
        tier = tiers.setdefault(facts["tier"], {"snapshots": 0})
        tier.update(
            snapshots=tier["snapshots"] + 1,
            snapshot_step=details.step,
            snapshot_bytes=facts["bytes"],
            snapshot_duration_seconds=facts["seconds"],
            snapshot_timestamp_seconds=details.time,
        )

    def _incident(self, details: Details) -> None:
        incidents = self.state["incidents"]
        incidents[details.facts["class"]] = incidents.get(details.facts["class"], 0) + 1

    def _rollback(self, details: Details) -> None:
        self._add("rollbacks")
        self._add("discarded_steps", max(0, details.facts["reached"] - details.facts["target"]))
        self.state["gauges"].update(lineage=details.lineage, step=details.step)

    def _preempting(self, details: Details) -> None:  # noqa: ARG002
        self._add("preemptions")

    def _ended(self, details: Details) -> None:
        self.state["gauges"].update(up=0, exit_code=details.facts["exit_code"])

    # --- as families

    def families(self, status: Status | None) -> Iterator[Family]:
        """All figures.

        :param status: of the run, as its supervisor has written it.
        """
        gauges = {"up": 0, **self.state["gauges"]}
        for name, told in _COUNTERS.items():
            yield self._family(f"{name}_total", "counter", told, [self._sample(self.state["counters"].get(name, 0))])
        for name, told in _GAUGES.items():
            yield self._family(name, "gauge", told, [self._sample(gauges[name])] if name in gauges else [])
        if status is not None:
            yield self._family("target_steps", "gauge", "Steps that the run is to have.", [self._sample(status.total)])
            now = Phase.ENDED.value if status.finished else status.state
            phases = [self._sample(phase.value == now, phase=phase.value) for phase in Phase]
            yield self._family("phase", "gauge", "1 for the phase that the supervisor is in.", phases)
        counts = [self._sample(count, **{"class": kind}) for kind, count in self.state["incidents"].items()]
        yield self._family("incidents_total", "counter", "Incidents by class.", counts)
        for name, (kind, told) in _OF_TIERS.items():
            key = name.removesuffix("_total")
            samples = [self._sample(known[key], tier=tier) for tier, known in self.state["snapshots"].items()]
            yield self._family(name, kind, told, samples)
        values = [self._sample(value, metric=name) for name, value in self.state["metrics"].items()]
        yield self._family("metric", "gauge", "What rank 0 has reported last.", values)
        yield self._step_seconds()

    def _step_seconds(self) -> Family:
        samples, below = [], 0
        for most, count in zip([*map(str, _BUCKETS), "+Inf"], self.state["buckets"], strict=True):
            below += count
            samples.append(Sample(below, {"run": self._run, "le": most}, "_bucket"))
        samples.append(Sample(self.state.get("bucket_sum", 0.0), {"run": self._run}, "_sum"))
        samples.append(Sample(below, {"run": self._run}, "_count"))
        return self._family("step_duration_seconds", "histogram", "From one step to the next.", samples)

    def _family(self, name: str, kind: str, told: str, samples: list[Sample]) -> Family:
        return Family(f"resilient_{name}", kind, told, tuple(samples))

    def _sample(self, value: float, **labels: str) -> Sample:
        return Sample(float(value), {"run": self._run, **labels})


_GAUGES: Mapping[str, str] = {
    "up": "Whether a supervisor has the run.",
    "step": "The last completed step.",
    "lineage": "How many rollbacks came before.",
    "exit_code": "With which the supervisor has left.",
    "first_start_timestamp_seconds": "When the run was started first.",
    "start_timestamp_seconds": "When it was started last.",
    "last_step_timestamp_seconds": "When the last step was reported.",
}
_OF_TIERS: Mapping[str, tuple[str, str]] = {
    "snapshots_total": ("counter", "Durable snapshots."),
    "snapshot_step": ("gauge", "The step of the newest durable snapshot."),
    "snapshot_bytes": ("gauge", "Its size."),
    "snapshot_duration_seconds": ("gauge", "What it took to make it durable."),
    "snapshot_timestamp_seconds": ("gauge", "When it became durable."),
}
