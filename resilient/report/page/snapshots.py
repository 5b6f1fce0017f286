"""What snapshots weigh, how long they take in the background, and what they cost the training."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

from resilient.report.account import Account, Saved
from resilient.report.buckets import Bucket
from resilient.report.page.markup import Markup, tag, together
from resilient.report.page.plots import bar, legend, plot
from resilient.report.page.scales import FULL, Scale, span_of
from resilient.report.tenures import SECOND
from resilient.report.words import duration, share, size

_COLUMNS = 300
_KINDS = {"local": "fill overhead", "remote": "fill away"}
_HEADS = ("tier", "durable", "newest step", "size", "median time", "longest")


def snapshots(account: Account) -> Markup:
    """A line on their cost, a table of the tiers, and two pictures over the steps."""
    if not account.saved:
        return together(_stall(account), tag("p", "None has become durable.", class_="empty"))
    tiers = list(dict.fromkeys(saved.tier for saved in account.saved))
    rows = [_row(tier, [saved for saved in account.saved if saved.tier == tier]) for tier in tiers]
    columns = [tag("th", head, scope="col", class_="figure" if at else "") for at, head in enumerate(_HEADS)]
    table = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *rows), class_="plain")
    region = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="tiers")
    return together(_stall(account), region, _pictures(account.saved))


def _stall(account: Account) -> Markup:
    ledger = account.ledger
    stalled, steps = ledger.buckets[Bucket.STALL], ledger.buckets[Bucket.STEPS] + ledger.buckets[Bucket.STALL]
    told = f"Snapshots held the training up for {duration(stalled / SECOND)}"
    return tag("p", f"{told}, {share(stalled, steps)} of the time in steps that count.")


def _row(tier: str, saved: Sequence[Saved]) -> Markup:
    seconds = [one.seconds for one in saved]
    cells = (
        f"{len(saved):,}",
        f"{saved[-1].step:,}",
        size(saved[-1].bytes),
        duration(statistics.median(seconds)),
        duration(max(seconds)),
    )
    return tag("tr", tag("th", tier, scope="row"), *(tag("td", cell, class_="figure") for cell in cells))


def _pictures(saved: Sequence[Saved]) -> Markup:
    slow = [(one, one.seconds, f"step {one.step}, {one.tier}: {duration(one.seconds)}") for one in saved]
    heavy = [(one, float(one.bytes), f"step {one.step}, {one.tier}: {size(one.bytes)}") for one in saved]
    pictures = _picture(slow, "seconds until durable", duration), _picture(heavy, "size", size)
    tiers = [tier for tier in _KINDS if any(one.tier == tier for one in saved)]
    keys = legend(*((_KINDS[tier].removeprefix("fill "), tier) for tier in tiers)) if len(tiers) > 1 else None
    return together(keys, tag("div", *pictures, class_="pair"))


def _picture(found: Sequence[tuple[Saved, float, str]], name: str, words: Callable[[float], str]) -> Markup:
    x = Scale(*span_of([one.step for one, _, _ in found], 0.03))
    y = Scale(0, max(value for _, value, _ in found) * 1.15 or 1.0)
    highest: dict[tuple[int, str], tuple[float, str]] = {}
    for one, value, told in found:
        column = (int(x(one.step) * _COLUMNS / (FULL + 1)), one.tier)
        highest[column] = max(highest.get(column, (-1.0, "")), (value, told))
    bars = [
        bar(place - 2, place + 2, _KINDS[tier], top=FULL - y(value), title=told)
        for (column, tier), (value, told) in sorted(highest.items())
        for place in [FULL * (column + 0.5) / _COLUMNS]
    ]
    label = f"{name} of {len(found)} snapshots, by step"
    picture = plot(*bars, label=label, x=x, y=y, x_words=lambda at: f"{at:,.0f}", y_words=words, height="low")
    return tag("figure", tag("figcaption", name), picture)
