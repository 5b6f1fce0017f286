"""The curve of the run's metric: what it stands on, what failures made it do again, what rollbacks discarded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from resilient.report.account import Account
from resilient.report.buckets import Bucket
from resilient.report.page.markup import Markup, data_block, tag, together
from resilient.report.page.plots import legend, line, mark, plot
from resilient.report.page.scales import Scale, span_of, thinned
from resilient.report.words import number

_COLUMNS = 700
_MOST_BRANCHES = 150
_BROKEN = 40  # marks of values that are not finite
_WORDS = {"discarded": "discarded by a rollback", "redone": "done again after a failure"}

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class _Branch:
    """Steps of one round that do not count any more."""

    kind: str
    points: Points


def loss(account: Account) -> Markup:
    """A linear and, where it can be, a logarithmic picture, and a choice between them."""
    name = account.metric
    if name is None:
        return tag("p", "The script has reported no metrics; run.report(loss=…) does.", class_="empty")
    trunk, branches = _curves(account, name)
    values = [value for _, value in trunk] + [value for branch in branches for _, value in branch.points]
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return tag("p", f"No value of {name} is finite.", class_="empty")
    steps = [step for step, _ in trunk] + [step for branch in branches for step, _ in branch.points]
    x = Scale(min(steps), max(steps))
    trunk = thinned(trunk, x, _COLUMNS)
    linear = Scale(*span_of(finite))
    pictures = [_picture(account, name, (trunk, branches), (x, linear), hidden=False)]
    choice = Markup("")
    if min(finite) > 0 and max(finite) / min(finite) > 3:
        log = Scale(min(finite) * 0.95, max(finite) * 1.05, log=True)
        pictures.append(_picture(account, name, (trunk, branches), (x, log), hidden=True))
        choice = _choice()
    kinds = {branch.kind for branch in branches}
    entries = [("kept", f"{name}, as it counts")] + [(kind, text) for kind, text in _WORDS.items() if kind in kinds]
    read = tag("output", "by step", class_="readout", id="loss-readout", aria_live="polite")
    known = [[step, value] for step, value in trunk if math.isfinite(value)]
    block = data_block("loss-data", {"name": name, "low": x.low, "high": x.high, "points": known})
    return tag("figure", tag("div", legend(*entries), choice, class_="bar-above"), *pictures, read, block)


def _choice() -> Markup:
    boxes = [
        tag(
            "label",
            tag("input", type="radio", name="loss-scale", value=str(index), checked=True if not index else None),
            text,
        )
        for index, text in enumerate(("linear", "logarithmic"))
    ]
    return tag("fieldset", tag("legend", "scale"), *boxes, class_="choice", data_choice="loss")


def _picture(
    account: Account, name: str, lines: tuple[Points, list[_Branch]], axes: tuple[Scale, Scale], *, hidden: bool
) -> Markup:
    (trunk, branches), (x, y) = lines, axes
    shapes = [line(branch.points, x, y, branch.kind) for branch in branches if branch.kind == "discarded"]
    shapes.append(line(trunk, x, y, "kept"))  # what was done again gave the same, and would not be seen below it
    shapes += [line(branch.points, x, y, branch.kind) for branch in branches if branch.kind != "discarded"]
    marks = [
        mark(x(back.target), "↶", "back", 1000 - y(_value_at(trunk, back.target)))
        for back in account.lineage.rollbacks
        if x.low <= back.target <= x.high
    ]
    broken = [step for step, value in _all(trunk, branches) if not math.isfinite(value)]
    marks += [mark(x(step), "×", "broken", 0) for step in broken[:_BROKEN]]
    last = next((value for _, value in reversed(trunk) if math.isfinite(value)), math.nan)
    label = (
        f"{name} by step, from step {x.low:g} to step {x.high:g}; {number(last)} at the end; "
        f"{len(account.lineage.rollbacks)} rollbacks"
    )
    cross = tag("i", class_="cross", hidden=True)
    return plot(
        together(*shapes),
        label=label,
        x=x,
        y=y,
        x_words=lambda at: f"{at:,.0f}",
        above=[*marks, cross],
        hidden=hidden,
        name="loss",
        height="tall",
    )


def _all(trunk: Points, branches: list[_Branch]) -> Iterator[tuple[float, float]]:
    yield from trunk
    for branch in branches:
        yield from branch.points


def _value_at(points: Points, step: float) -> float:
    found = [value for at, value in points if at <= step and math.isfinite(value)]
    return found[-1] if found else next((value for _, value in points if math.isfinite(value)), 0.0)


def _curves(account: Account, name: str) -> tuple[Points, list[_Branch]]:
    """The line that counts, and what branches off it."""
    counting: dict[int, float] = {}
    branches: list[_Branch] = []
    for number_, track in sorted(account.tracks.items()):
        pieces = account.ledger.undone.get(number_, ())
        upto = pieces[0].above if pieces else math.inf
        points = list(zip(track.steps, track.series(name), strict=True))
        counting.update(point for point in points if point[0] <= upto)
        for piece in pieces:
            own = [(float(step), value) for step, value in points if piece.above <= step <= piece.upto]
            if own:
                branches.append(_Branch("discarded" if piece.bucket is Bucket.DISCARDED else "redone", own))
    trunk = [(float(step), value) for step, value in sorted(counting.items())]
    branches.sort(key=lambda branch: (branch.kind != "discarded", -len(branch.points)))
    share = max(8, _COLUMNS // max(1, min(len(branches), _MOST_BRANCHES)))
    chosen = branches[:_MOST_BRANCHES]
    return trunk, [_Branch(one.kind, _few(one.points, share)) for one in chosen]


def _few(points: Points, columns: int) -> Points:
    return thinned(points, Scale(points[0][0], points[-1][0]), columns)
