"""One file with everything in it: it asks nobody for anything, and works from a mail or a memory stick."""

from __future__ import annotations

import time
from importlib.resources import files

from resilient import __version__
from resilient.report.account import Account
from resilient.report.page.incident_list import incident_list
from resilient.report.page.loss import loss
from resilient.report.page.markup import Markup, tag, together
from resilient.report.page.round_list import round_list
from resilient.report.page.snapshots import snapshots
from resilient.report.page.step_times import step_times
from resilient.report.page.timeline import timeline
from resilient.report.page.waterfall import waterfall
from resilient.report.tenures import SECOND
from resilient.report.words import duration, share

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"


def page(account: Account) -> str:
    """The report of a run, as HTML."""
    run = account.paths.run_id
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{run}: {share(account.ledger.goodput, 1)} goodput"),
        tag("style", _own("page.css")),
    )
    script = tag("script", _own("page.js"))
    body = tag("body", _header(account), tag("main", *_sections(account)), _footer(account), script)
    return "<!doctype html>\n" + tag("html", head, body, lang="en")


def _own(name: str) -> Markup:
    return Markup(files("resilient.report.page").joinpath(name).read_text(encoding="utf-8"))


def _sections(account: Account) -> list[Markup]:
    found = [
        _section("Where the time went", waterfall(account)),
        _section(account.metric or "Metrics", loss(account)),
        _section("What happened when", timeline(account), incident_list(account), round_list(account)),
        _section("Snapshots", snapshots(account)),
        _section("Step times", step_times(account.tracks)),
    ]
    return [section for section in found if section]


def _section(name: str, *parts: Markup) -> Markup:
    return tag("section", tag("h2", name), *parts)


def _header(account: Account) -> Markup:
    ledger, total = account.ledger, account.total
    lost = sum(sum(costs.values()) for costs in ledger.costs.values()) / SECOND
    step = f"{account.step:,}" + (f" of {total:,}" if total else "")
    figures = [
        ("goodput", share(ledger.goodput, 1)),
        ("wall time", duration(ledger.total / SECOND)),
        ("step", step),
        ("incidents", f"{len(ledger.incidents):,}"),
        ("cost of incidents", duration(lost)),
    ]
    items = (tag("div", tag("dt", name), tag("dd", value)) for name, value in figures)
    status = account.status
    diagnosis = status.diagnosis if status is not None and not account.live else ""
    return tag(
        "header",
        tag("p", "training run", class_="over"),
        tag("h1", account.paths.run_id),
        tag("p", f"{_when(account)} – {account.state}", class_="state"),
        tag("p", diagnosis, class_="diagnosis") if diagnosis else None,
        tag("dl", together(*items), class_="figures"),
    )


def _when(account: Account) -> str:
    began, ended = (
        time.strftime("%Y-%m-%d %H:%M", time.localtime(moment / SECOND))
        for moment in (account.ledger.began, account.ledger.ended)
    )
    return f"{began} to {'now' if account.live else ended}"


def _footer(account: Account) -> Markup:
    made = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(account.now / SECOND))
    return tag(
        "footer",
        tag("p", f"Made {made} by resilient {__version__} from {account.paths.root}, in the time of that machine."),
        tag("p", "Goodput is the share of the time in steps that the run still stands on, and in evaluations."),
    )
