"""The incidents, each with its evidence behind one click."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from resilient.protocol.small_file import read_bounded
from resilient.report.account import Account
from resilient.report.buckets import Bucket
from resilient.report.page.markup import Markup, tag, together
from resilient.report.rounds import Incident
from resilient.report.tenures import SECOND
from resilient.report.words import duration

_MOST = 300
_MOST_WITH_FILES = 60
_MOST_BYTES = 6000  # of one file of the evidence
_MOST_FILES = 4
_READABLE = 8 << 20
_PAIR = ("dt", "dd")


def incident_list(account: Account) -> Markup:
    """All of them, or of very many the costliest."""
    costs = account.ledger.costs
    ranked = sorted(account.ledger.incidents, key=lambda one: -sum(costs.get(one.number, {}).values()))
    if not ranked:
        return tag("p", "There has been no incident.", class_="empty")
    with_files = {one.number for one in ranked[:_MOST_WITH_FILES]}
    shown = sorted(ranked[:_MOST], key=lambda one: one.number)
    items = [_incident(account, one, costs.get(one.number, {}), files=one.number in with_files) for one in shown]
    left = len(ranked) - len(shown)
    note = tag("p", f"{left} that cost less are not listed; resilient incidents has all.", class_="note")
    return together(*items, note if left else None)


def _incident(account: Account, one: Incident, costs: dict[Bucket, int], *, files: bool) -> Markup:
    failure = one.failure
    told = str(failure.get("message") or failure.get("signature") or "").splitlines() or [""]
    cost = duration(sum(costs.values()) / SECOND) if costs else "–"
    head = tag(
        "summary",
        tag("b", one.number, class_="count"),
        tag("span", failure.get("failure_class", ""), class_="kind"),
        tag("span", told[0][:300], class_="told"),
        tag("span", cost, class_="cost"),
    )
    facts = [tag(kind, text) for pair in _facts(account, one, costs) for kind, text in zip(_PAIR, pair, strict=True)]
    evidence = together(*_files(account.paths.incident(one.number), one)) if files else Markup("")
    return tag("details", head, tag("dl", *facts), evidence, class_="incident", id=f"incident-{one.number}")


def _facts(account: Account, one: Incident, costs: dict[Bucket, int]) -> Iterator[tuple[str, str]]:
    body, failure, resumed = account.evidence.get(one.number, {}), one.failure, account.after(one)
    rank = one.data.get("rank")
    yield "when", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(one.at / SECOND))
    who = "the group" if rank is None else f"rank {rank}"
    yield "where", f"{who}, round {one.data.get('round')}, after step {one.data.get('step')}"
    yield "what", str(failure.get("message") or failure.get("signature") or "")[:2000]
    yield "remedy", str(one.data.get("remedy") or "–")
    if resumed is not None:
        yield "went on", f"from step {resumed.step}, {resumed.source or 'the beginning'}"
    parts = sorted(costs.items(), key=lambda pair: -pair[1])
    if parts:
        yield "cost", ", ".join(f"{bucket.label} {duration(amount / SECOND)}" for bucket, amount in parts if amount)
    for line in [*body.get("evidence", ()), *one.data.get("others", ())][:12]:
        yield "evidence", str(line)[:1000]
    place = account.paths.incident(one.number)
    yield "files", str(place) if place.is_dir() else "none are kept"


def _files(place: Path, one: Incident) -> Iterator[Markup]:
    """The stacks and the end of the log: of the rank that failed first, where that is known."""
    rank = one.data.get("rank")
    wanted = f"rank-{rank:05d}" if isinstance(rank, int) else "rank-"
    found = [path for pattern in ("stacks/*.txt", "*.log") for path in sorted(place.glob(pattern))]
    found.sort(key=lambda path: not path.name.startswith(wanted))
    for path in found[:_MOST_FILES]:
        text = _end(path)
        if text.strip():
            yield tag("h4", path.relative_to(place))
            yield tag("pre", text, tabindex="0", aria_label=f"{path.name} of incident {one.number}")


def _end(path: Path) -> str:
    try:
        data = read_bounded(path, _READABLE) or b""
    except (OSError, ValueError):
        return ""
    text = data[-_MOST_BYTES:].decode(errors="replace")
    return f"…{text}" if len(data) > _MOST_BYTES else text
