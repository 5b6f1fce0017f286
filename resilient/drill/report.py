"""What a drill prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from resilient.drill.faults import Fault
from resilient.drill.registry import FAULTS, parameters
from resilient.drill.verdict import Outcome, judge

_COLUMNS = (
    ("fault", False),
    ("what happened", False),
    ("noticed as", False),
    ("noticed", True),
    ("workers up", True),
    ("new step", True),
    ("resumed from", False),
    ("steps repeated", True),
    ("bit-equal", False),
    ("verdict", False),
)


def outcome_table(outcomes: Sequence[Outcome]) -> Table:
    """One line for each drill; times are seconds since the fault."""
    table = Table(title="Drills (times are since the fault)", title_justify="left", show_lines=True)
    for name, right in _COLUMNS:
        table.add_column(name, justify="right" if right else "left")
    for outcome in outcomes:
        table.add_row(*_row(outcome))
    return table


def _row(outcome: Outcome) -> list[str]:
    verdict, timeline = judge(outcome), outcome.timeline
    color = "green" if verdict.passed else "red"
    fault = f"{outcome.fault}\nat {outcome.at}"
    if not outcome.injected:
        return [fault, "nothing", *["–"] * (len(_COLUMNS) - 3), f"[bold {color}]{_plain(str(verdict))}[/]"]
    return [
        fault,
        _plain(outcome.injected),
        _plain(timeline.noticed_as) or "not noticed",
        _seconds(timeline.noticed),
        _seconds(timeline.launched),
        _seconds(timeline.recovered),
        timeline.resumed_from or "–",
        str(timeline.repeated),
        outcome.equality.same.value if outcome.keeps_state and outcome.finished else "–",
        f"[bold {color}]{_plain(str(verdict))}[/]",
    ]


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} s"


def _plain(text: str) -> str:
    """Brackets in it are no markup."""
    return text.replace("[", r"\[")


def fault_table() -> Table:
    """All faults with what they are, and what each of them takes."""
    table = Table(title="Faults", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("fault", "what it is", "takes"):
        table.add_column(name)
    for name, fault in FAULTS.items():
        table.add_row(name, fault.explains, _takes(fault))
    return table


def _takes(fault: type[Fault]) -> str:
    return " ".join(["at", *(f"{name}={default}" for name, default in parameters(fault).items())])
