"""What came of a simulation, for a terminal."""

from __future__ import annotations

from typing import TextIO

from rich.console import Console
from rich.table import Table

from resilient.simulate.faults import LLAMA3_DAYS, LLAMA3_GPUS, LLAMA3_INTERRUPTIONS
from resilient.simulate.ledger import Bucket
from resilient.simulate.outcome import Outcome
from resilient.simulate.plan import HOUR
from resilient.simulate.sweep import Sweep

_MOST_CAUSES = 8


def render(outcome: Outcome, swept: Sweep | None, stream: TextIO) -> None:
    """Print it."""
    console = Console(file=stream, highlight=False, soft_wrap=True, width=None if stream.isatty() else 120)
    plan = outcome.plan
    console.print(
        f"{plan.gpus:,} GPUs on {plan.nodes:,} nodes for {plan.days:g} days, seed {plan.seed}: "
        f"goodput [bold]{outcome.goodput:.2%}[/bold], step {outcome.step:,}"
    )
    mean = plan.seconds / outcome.interruptions / HOUR if outcome.interruptions else None
    every = f", one in {mean:.2f} h" if mean else ""
    resumed = ", ".join(f"{count:,} from {tier}" for tier, count in outcome.resumed.items())
    console.print(
        f"{outcome.interruptions:,} interruptions{every}; {outcome.preemptions:,} preemptions; "
        f"{outcome.rounds:,} rounds: {resumed}"
    )
    console.print(_buckets(outcome))
    console.print(_causes(outcome))
    for tier, load in outcome.storage.items():
        rates = f"on average {_rate(load.average)}, at most {_rate(load.peak)}"
        console.print(f"storage, {tier}: {load.written / 1e12:,.1f} TB, {rates}")
    console.print(f"a snapshot is made durable every {outcome.interval:,.0f} s")
    if outcome.ended is not None:
        code, diagnosis, after = outcome.ended
        console.print(f"[bold]the run ended after {after / HOUR:,.1f} h, exit code {code}[/bold]: {diagnosis}")
    for line in published(outcome):
        console.print(line)
    if swept is not None:
        _render_sweep(console, swept)


def published(outcome: Outcome) -> list[str]:
    """How far it is from what is published of that cluster; nothing for any other."""
    plan = outcome.plan
    if (plan.cluster, plan.gpus, plan.days) != ("llama3", LLAMA3_GPUS, LLAMA3_DAYS) or outcome.ended is not None:
        return []
    error = outcome.interruptions / LLAMA3_INTERRUPTIONS - 1
    return [
        f"published: {LLAMA3_INTERRUPTIONS} interruptions (here {error:+.1%}; their rate is put in, the rest is luck)",
        f"published: more than 90% effective training time (here {outcome.goodput:.1%})",
    ]


def _buckets(outcome: Outcome) -> Table:
    table = Table("where the time went", "hours", "share", box=None, pad_edge=False)
    _right(table)
    for bucket, seconds in outcome.buckets.items():
        if seconds > 0 or bucket is Bucket.TRAINING:
            table.add_row(bucket.value, f"{seconds / HOUR:,.1f}", f"{seconds / outcome.plan.seconds:.2%}")
    return table


def _causes(outcome: Outcome) -> Table:
    table = Table("lost to", "GPU-hours", "times", box=None, pad_edge=False)
    _right(table)
    lost = list(outcome.gpu_hours_lost.items())
    for cause, hours in lost[:_MOST_CAUSES]:
        table.add_row(cause, f"{hours:,.0f}", f"{outcome.failures.get(cause, ''):}")
    if rest := lost[_MOST_CAUSES:]:
        table.add_row(f"{len(rest)} others", f"{sum(hours for _, hours in rest):,.0f}", "")
    return table


def _right(table: Table) -> None:
    for column in table.columns[1:]:
        column.justify = "right"


def _rate(per_second: float) -> str:
    return f"{per_second / 1e9:,.2f} GB/s"


def _render_sweep(console: Console, swept: Sweep) -> None:
    table = Table("durable every", "goodput", "", box=None, pad_edge=False)
    table.columns[0].justify = table.columns[1].justify = "right"
    for trial in swept.tried:
        told = ["best"] if trial == swept.best else []
        told += ["Young/Daly"] if abs(trial.seconds - swept.rule) < 1e-9 else []
        table.add_row(f"{trial.seconds:,.0f} s", f"{trial.goodput:.3%}", ", ".join(told))
    console.print(table)
    console.print(f"the rule says {swept.rule:,.0f} s, which gives away {swept.lost_by_rule:.3%} of goodput")
