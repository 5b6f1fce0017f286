"""What the lines of the journal and of the log of metrics mean to trackers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from resilient.policy.events import StopKind
from resilient.policy.lineage import Rollback
from resilient.protocol.metrics_log import OURS, RESERVED
from resilient.supervisor.tracking import ENDED
from resilient.trackers.details import Details, Kind
from resilient.trackers.tail import Line


class Narrator:
    """Makes details of lines.

    A line's meaning depends on what came before: how many rollbacks there were before its round, and whether its step
    is a new one. That is in :meth:`known`, which goes through JSON.
    """

    def __init__(self, run: str, known: Mapping[str, Any] | None = None) -> None:
        known = known or {}
        self._run = run
        self._round = int(known.get("round", 0))
        self._step = int(known.get("step", 0))
        self._preempted = bool(known.get("preempted", False))
        self._furthest = int(known.get("furthest", 0))
        self._last: list[float] = list(known.get("last", [-1, 0, 0.0]))  # round, step and time of the last metrics
        self._rolled_back: list[int] = list(known.get("rolled_back", []))  # the last round before each rollback
        self._makers: dict[tuple[str, str], Callable[[Line, Mapping[str, Any]], Iterator[Details]]] = {
            ("event", "RunOpened"): self._opened,
            ("event", "StopRequested"): self._stop_requested,
            ("decision", "LaunchRound"): self._launched,
            ("decision", "RecordIncident"): self._incident,
            ("decision", "SaveLineage"): lambda line, data: self._lineage(line, data["lineage"]),
            ("note", "Persisted"): lambda line, data: self._snapshot(line, data, "local"),
            ("note", "Uploaded"): lambda line, data: self._snapshot(line, data, "remote"),
        }

    def known(self) -> dict[str, Any]:
        """What a successor has to know."""
        return {
            "round": self._round,
            "step": self._step,
            "preempted": self._preempted,
            "furthest": self._furthest,
            "last": self._last,
            "rolled_back": self._rolled_back,
        }

    def tell(self, line: Line) -> Iterator[Details]:
        """What ``line`` says; nothing if it does not matter, or is of a release that writes otherwise."""
        try:
            if not line.of_journal:
                yield from self._metrics(line)
            elif line.body["name"] == ENDED and line.body["kind"] == "note":
                facts = {"exit_code": int(line.body["exit_code"])}
                yield self._details(Kind.ENDED, line, str(line.body["diagnosis"]), facts)
            elif (maker := self._makers.get((line.body["kind"], line.body["name"]))) is not None:
                yield from maker(line, line.body["data"])
        except (KeyError, TypeError, ValueError, AttributeError):
            return

    def _details(
        self, kind: Kind, line: Line, words: str = "", facts: Mapping[str, Any] | None = None, step: int | None = None
    ) -> Details:
        step = self._step if step is None else step
        return Details(kind, self._run, self._round, len(self._rolled_back), step, line.time, words, facts=facts or {})

    def _metrics(self, line: Line) -> Iterator[Details]:
        """Those of rank 0, which are the run's."""
        body = line.body
        round_number, step = int(body["round"]), int(body["step"])
        if body["rank"] != 0:
            return
        values = {
            name: float(value) for name, value in body.items() if name not in RESERVED and not name.startswith(OURS)
        }
        lineage = sum(last < round_number for last in self._rolled_back)
        current = lineage == len(self._rolled_back)
        follows = [round_number, step - 1] == self._last[:2]
        seconds = line.time - self._last[2] if follows else None
        facts = {"seconds": seconds, "repeated": not current or step <= self._furthest}
        self._last = [round_number, step, line.time]
        if current:
            self._step, self._furthest = step, max(step, self._furthest)
        yield Details(Kind.METRICS, self._run, round_number, lineage, step, line.time, values=values, facts=facts)

    def _opened(self, line: Line, data: Mapping[str, Any]) -> Iterator[Details]:
        self._preempted, first = False, data["last_round"] < 0
        self._step = max(self._step, int(data["step"]))
        words = f"Run {self._run} {'begins' if first else f'goes on, with step {self._step} or before'}."
        facts = {"first": first, "host": line.file.rpartition("/")[2].removesuffix(".jsonl")}
        yield self._details(Kind.STARTED, line, words, facts)
        yield from self._lineage(line, data["lineage"])

    def _launched(self, line: Line, data: Mapping[str, Any]) -> Iterator[Details]:
        self._round = int(data["round"])
        step = data["step"] or 0
        if not step and not self._round:
            return
        self._step = step
        source = data["source"]
        how = f"goes on from step {step} in {source}" if step else "begins without a snapshot"
        yield self._details(Kind.RESUMED, line, f"Round {self._round} {how}.", {"source": source})

    def _snapshot(self, line: Line, data: Mapping[str, Any], tier: str) -> Iterator[Details]:
        facts = {"tier": tier, "bytes": int(data["bytes"]), "seconds": float(data["seconds"])}
        words = f"The {tier} snapshot of step {data['step']} is durable."
        yield self._details(Kind.SNAPSHOT, line, words, facts, step=int(data["step"]))

    def _incident(self, line: Line, data: Mapping[str, Any]) -> Iterator[Details]:
        incident = data["incident"]
        failure, rank = incident["failure"], incident["rank"]
        facts = {
            "number": incident["number"],
            "class": failure["failure_class"],
            "rank": rank,
            "remedy": incident["remedy"],
            "message": failure.get("message", ""),
        }
        who = "the run" if rank is None else f"rank {rank}"
        told = f" ({facts['message']})" if facts["message"] else ""
        where = f"{who} after step {incident['step']}"
        words = f"Incident {facts['number']}: {where}: {facts['class']}{told}; {facts['remedy']}."
        yield self._details(Kind.INCIDENT, line, words, facts, step=int(incident["step"]))

    def _lineage(self, line: Line, lineage: Mapping[str, Any]) -> Iterator[Details]:
        """Those rollbacks in it that were not known yet."""
        for saved in lineage["rollbacks"][len(self._rolled_back) :]:
            rollback = Rollback.from_json(saved)
            self._rolled_back.append(rollback.round)
            self._step = self._furthest = rollback.target
            facts = {
                "target": rollback.target,
                "reached": rollback.reached,
                "cause": rollback.cause.value,
                "lr_factor": rollback.lr_factor,
            }
            words = f"Rollback {rollback.told}; {rollback.reached - rollback.target} steps are discarded."
            yield self._details(Kind.ROLLBACK, line, words, facts)

    def _stop_requested(self, line: Line, data: Mapping[str, Any]) -> Iterator[Details]:
        if data["kind"] == StopKind.PREEMPTION.value and not self._preempted:  # a signal may come more than once
            self._preempted = True
            yield self._details(Kind.PREEMPTING, line, "The run is preempted.", {"grace": float(data["grace"])})
