"""The account of a run as JSON, with stable keys; times are seconds."""

from __future__ import annotations

from typing import Any

from resilient.report.account import Account
from resilient.report.buckets import Bucket
from resilient.report.rounds import Incident, Round
from resilient.report.tenures import SECOND


def as_json(account: Account) -> dict[str, Any]:
    """Everything that the report says, but the curves."""
    ledger = account.ledger
    return {
        "run": account.paths.run_id,
        "state": account.state,
        "live": account.live,
        "began": ledger.began / SECOND,
        "ended": ledger.ended / SECOND,
        "seconds": ledger.total / SECOND,
        "goodput": round(ledger.goodput, 6),
        "buckets": {bucket.value: amount / SECOND for bucket, amount in ledger.buckets.items()},
        "diagnosis": account.status.diagnosis if account.status is not None else "",
        "step": account.step,
        "total": account.total,
        "incidents": [_incident(account, incident) for incident in ledger.incidents],
        "rounds": [round_as_json(account, one) for one in ledger.rounds],
        "rollbacks": [
            {"target": back.target, "reached": back.reached, "cause": back.cause.value, "reason": back.reason}
            for back in account.lineage.rollbacks
        ],
        "snapshots": [
            {"step": one.step, "time": one.at / SECOND, "bytes": one.bytes, "seconds": one.seconds, "tier": one.tier}
            for one in account.saved
        ],
    }


def _incident(account: Account, incident: Incident) -> dict[str, Any]:
    costs = account.ledger.costs.get(incident.number, {})
    failure, resumed = incident.failure, account.after(incident)
    place = account.paths.incident(incident.number)
    return {
        "number": incident.number,
        "time": incident.at / SECOND,
        "class": failure.get("failure_class", ""),
        "signature": failure.get("signature", ""),
        "message": failure.get("message", ""),
        "step": incident.data.get("step", 0),
        "round": incident.data.get("round", 0),
        "rank": incident.data.get("rank"),
        "remedy": incident.data.get("remedy", ""),
        "resumed_from": resumed.step if resumed is not None else None,
        "source": resumed.source if resumed is not None else "",
        "seconds_lost": sum(costs.values()) / SECOND,
        "lost_by_bucket": {bucket.value: costs[bucket] / SECOND for bucket in Bucket if costs.get(bucket)},
        "evidence": str(place) if place.is_dir() else None,
    }


def round_as_json(account: Account, one: Round) -> dict[str, Any]:
    """One round, and what of its time counted."""
    spans = account.ledger.by_round[one.number]
    amounts = [span.amounts for span in spans]
    sums = {bucket: sum(found.get(bucket, 0) for found in amounts) for bucket in Bucket}
    end = max((span.end for span in spans), default=one.launched)
    return {
        "round": one.number,
        "host": one.tenure.host,
        "launched": one.launched / SECOND,
        "seconds": (end - one.launched) / SECOND,
        "from": one.step,
        "source": one.source,
        "reached": one.reached,
        "kept": account.ledger.kept[one.number],
        "lost_by_bucket": {bucket.value: amount / SECOND for bucket, amount in sums.items() if amount},
    }
