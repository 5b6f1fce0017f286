"""The rounds as a table, folded away."""

from __future__ import annotations

from resilient.report.account import Account
from resilient.report.account_json import round_as_json
from resilient.report.buckets import GOOD
from resilient.report.page.markup import Markup, tag, together
from resilient.report.words import duration, share

_MOST = 200
_HEADS = ("round", "from step", "reached", "kept up to", "time", "productive", "began from", "on")


def round_list(account: Account) -> Markup:
    """The latest of them."""
    rounds = account.ledger.rounds
    columns = [tag("th", head, scope="col", class_="figure" if at < 6 else "") for at, head in enumerate(_HEADS)]
    rows = []
    for one in rounds[-_MOST:]:
        row = round_as_json(account, one)
        good = sum(row["lost_by_bucket"].get(bucket.value, 0.0) for bucket in GOOD)
        figures = [f"{row[key]:,}" for key in ("from", "reached", "kept")]
        figures += [duration(row["seconds"]), share(good, row["seconds"])]
        cells = [tag("td", cell, class_="figure") for cell in figures]
        rows.append(
            tag(
                "tr",
                tag("th", row["round"], scope="row", class_="figure"),
                *cells,
                tag("td", row["source"] or "the beginning"),
                tag("td", row["host"]),
            )
        )
    note = tag("p", f"The latest {_MOST} of {len(rounds):,}.", class_="note") if len(rounds) > _MOST else None
    table = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", together(*rows)), class_="plain")
    region = tag("div", table, class_="scroll", tabindex="0", role="region", aria_label="rounds")
    count = "one round" if len(rounds) == 1 else f"{len(rounds):,} rounds"
    return tag("details", tag("summary", count), note, region, class_="fold")
