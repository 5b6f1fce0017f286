"""``resilient simulate key=value …``: months of a cluster on paper, decided by the rules of real runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from resilient.errors import ExitCode

_HELP = """\
Drive the decision core of real runs through the failures of a cluster that exists on paper, and say what would come
of it: goodput, where the time goes, what the storage has to take, how often to save.

  resilient simulate cluster=llama3                               16,384 GPUs for 54 days, as published
  resilient simulate cluster=llama3 gpus=100000 spares=200        and a larger one
  resilient simulate cluster=dense70b remote_gbs=20 --sweep       with slower storage; which interval is best
  resilient simulate gpus=256 hang.min_seconds=60 seed=7 --plot plan.svg
  resilient simulate cluster=spot --json                          machines that are taken away

Clusters: llama3, dense70b, spot. Keys are those of resilient.simulate.plan.Plan, and of the sections restarts, hang and
stop; --keys shows them with their values. The same seed gives the same result.
"""


def add_parser(commands: Any) -> None:
    """Add ``simulate`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "simulate",
        help="plan a run: drive the decision core through the failures of a cluster on paper",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="cluster=NAME and what is changed in it")
    parser.add_argument("--sweep", action="store_true", help="try intervals between durable snapshots")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="how often each interval is tried (3)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw it; .svg, .png or .pdf")
    parser.add_argument("--keys", action="store_true", help="show all keys and their values, and stop")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out.

    :raises UsageError: something is no ``key=value``, or a plot cannot be drawn.
    :raises ConfigurationError: there is no such preset or key, or a value is impossible.
    """
    from resilient.simulate.answer import answer  # noqa: PLC0415  a run that starts need not load a simulator

    return answer(options)
