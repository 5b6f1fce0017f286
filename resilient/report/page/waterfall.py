"""From the whole time down to what was productive, one bucket after the other."""

from __future__ import annotations

from resilient.report.account import Account
from resilient.report.buckets import GOOD, Bucket
from resilient.report.page.groups import GROUPS
from resilient.report.page.markup import Markup, tag, together
from resilient.report.tenures import SECOND
from resilient.report.words import duration, share


def waterfall(account: Account) -> Markup:
    """A table whose bars begin where the one above has come to."""
    ledger = account.ledger
    taken = [(bucket, amount) for bucket, amount in ledger.buckets.items() if amount and bucket not in GOOD]
    taken.sort(key=lambda pair: -pair[1])
    good = [(bucket, amount) for bucket, amount in ledger.buckets.items() if amount and bucket in GOOD]
    rows = [_row("wall time", "from the first launch on", "whole", left=0, amount=ledger.total, total=ledger.total)]
    right = ledger.total
    for bucket, amount in taken:
        right -= amount
        rows.append(_bucket_row(bucket, right, amount, ledger.total))
    for bucket, amount in good:
        right -= amount
        rows.append(_bucket_row(bucket, right, amount, ledger.total))
    heads = (tag("th", text, scope="col", class_=kind) for text, kind in _HEADS)
    caption = tag("caption", "Every second is in one row, and the rows add up to the wall time.")
    return tag("table", caption, tag("thead", tag("tr", *heads)), tag("tbody", together(*rows)), class_="waterfall")


_HEADS = (("", ""), ("share", "bar"), ("time", "figure"), ("%", "figure"))


def _bucket_row(bucket: Bucket, left: int, amount: int, total: int) -> Markup:
    return _row(bucket.label, bucket.explains, GROUPS[bucket], left=left, amount=amount, total=total)


def _row(name: str, explains: str, kind: str, *, left: int, amount: int, total: int) -> Markup:
    whole = total or 1
    place = f"left:{100 * left / whole:.3f}%;width:{100 * amount / whole:.3f}%"
    return tag(
        "tr",
        tag("th", name, tag("small", explains), scope="row"),
        tag("td", tag("div", tag("i", class_=f"fill {kind}", style=place), class_="track"), class_="bar"),
        tag("td", duration(amount / SECOND), class_="figure"),
        tag("td", share(amount, total), class_="figure"),
    )
