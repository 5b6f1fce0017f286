"""What the run was at, when, with its incidents."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from resilient.report.account import Account
from resilient.report.ledger import Ledger, Span
from resilient.report.page.groups import AWAY, GOOD, GROUPS, LOST, OVERHEAD, WORDS
from resilient.report.page.markup import Markup, tag, together
from resilient.report.page.plots import bar, legend
from resilient.report.page.scales import FULL, Scale
from resilient.report.tenures import SECOND
from resilient.report.words import duration

_MOST_SPANS = 500
_BINS = 400
_MOST_MARKS = 40
_ORDER = (GOOD, OVERHEAD, LOST, AWAY)


def timeline(account: Account) -> Markup:
    """A strip of the whole time; below it the rounds, above it the incidents, each of which leads to its evidence."""
    ledger = account.ledger
    if not ledger.total:
        return Markup("")
    place = Scale(ledger.began, ledger.ended)
    strip = _exact(ledger.spans, place) if len(ledger.spans) <= _MOST_SPANS else _binned(ledger)
    rounds = list(_rounds(ledger, place))
    label = f"{duration(ledger.total / SECOND)} with {len(ledger.incidents)} incidents and {len(ledger.rounds)} rounds"
    drawing = tag(
        "svg",
        *strip,
        *rounds,
        viewBox=f"0 0 {FULL:g} 100",
        preserveAspectRatio="none",
        role="img",
        aria_label=label,
    )
    ticks = [
        tag("span", text, class_=f"tick x{edge}", style=f"left:{at / 10:.2f}%") for at, text, edge in _ticks(ledger)
    ]
    marks, rows = _marks(account, place)
    area = tag("div", drawing, marks, *ticks, class_="area strip", style=f"--rows:{rows}")
    used = {GROUPS[bucket] for bucket, amount in ledger.buckets.items() if amount}
    keys = legend(*((kind, WORDS[kind]) for kind in _ORDER if kind in used))
    return tag("figure", keys, tag("div", area, class_="plot"))


def _exact(spans: Sequence[Span], place: Scale) -> Iterator[Markup]:
    for span in spans:
        told = f"{span.bucket.label}, {duration((span.end - span.begin) / SECOND)}"
        told += f", round {span.round}" if span.round is not None else ""
        yield bar(place(span.begin), place(span.end), f"fill {GROUPS[span.bucket]}", top=0, bottom=78, title=told)


def _binned(ledger: Ledger) -> Iterator[Markup]:
    """So many spans cannot be told apart: each column shows the shares of its time."""
    width = ledger.total / _BINS
    bins: list[Counter[str]] = [Counter() for _ in range(_BINS)]
    for span in ledger.spans:
        first = int((span.begin - ledger.began) / width)
        last = min(_BINS - 1, int((span.end - 1 - ledger.began) / width))
        for index in range(first, last + 1):
            begin, end = ledger.began + index * width, ledger.began + (index + 1) * width
            bins[index][GROUPS[span.bucket]] += round(max(0.0, min(span.end, end) - max(span.begin, begin)))
    for index, shares in enumerate(bins):
        bottom, whole = 78.0, sum(shares.values()) or 1
        for kind in _ORDER:
            height = 78 * shares[kind] / whole
            if height > 0.2:
                left = FULL * index / _BINS
                yield bar(left, left + FULL / _BINS + 0.1, f"fill {kind}", top=bottom - height, bottom=bottom)
            bottom -= height


def _rounds(ledger: Ledger, place: Scale) -> Iterator[Markup]:
    """One line each, in turns lighter and darker; where there are too many, none."""
    if len(ledger.rounds) > _MOST_SPANS:
        return
    ends = {span.round: span.end for span in ledger.spans if span.round is not None}
    for index, one in enumerate(ledger.rounds):
        kind = "round odd" if index % 2 else "round even"
        told = f"round {one.number}: steps {one.step} to {one.reached}"
        end = ends.get(one.number, one.launched)
        yield bar(place(one.launched), place(end), kind, top=86, bottom=100, title=told)


def _marks(account: Account, place: Scale) -> tuple[Markup, int]:
    """The incidents, the costliest where there are too many; those that would lie on each other in rows, of which
    there are so many.
    """
    ledger = account.ledger
    costs = {number: sum(parts.values()) for number, parts in ledger.costs.items()}
    chosen = sorted(ledger.incidents, key=lambda incident: -costs.get(incident.number, 0))[:_MOST_MARKS]
    free, found = [-FULL] * 4, []
    for incident in sorted(chosen, key=lambda incident: incident.at):
        at = place(incident.at)
        wide = 16 + 9 * len(str(incident.number))
        row = next((row for row, taken in enumerate(free) if at - taken > wide), None)
        if row is None:
            continue  # there are so many that it is in the list, at best
        free[row] = at
        name = f"incident {incident.number}: {incident.failure.get('failure_class', '')}"
        found.append(
            tag(
                "a",
                str(incident.number),
                href=f"#incident-{incident.number}",
                class_="flag",
                title=name,
                aria_label=name,
                style=f"left:{at / 10:.2f}%;--row:{row}",
            )
        )
    return together(*found), sum(taken > -FULL for taken in free)


def _ticks(ledger: Ledger) -> list[tuple[float, str, str]]:
    format_ = "%H:%M:%S" if ledger.total < 600 * SECOND else "%H:%M" if ledger.total < 86400 * SECOND else "%d %b %H:%M"
    edges = {0: " left", 2: " right"}
    return [
        (
            FULL * index / 2,
            time.strftime(format_, time.localtime((ledger.began + ledger.total * index / 2) / SECOND)),
            edges.get(index, ""),
        )
        for index in range(3)
    ]
