"""What ``resilient simulate`` does once it has been understood."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from resilient.errors import ExitCode
from resilient.simulate.engine import simulate
from resilient.simulate.overrides import planned
from resilient.simulate.plot import plot, require_plot
from resilient.simulate.sweep import Sweep, sweep
from resilient.simulate.table import render


def answer(options: argparse.Namespace) -> ExitCode:
    """Simulate what the command line asks for, and print it."""
    plan = planned(options.overrides)
    if options.keys:
        print(json.dumps(asdict(plan), indent=1))
        return ExitCode.FINISHED
    if options.plot is not None:
        require_plot(options.plot)
    outcome = simulate(plan)
    swept = sweep(plan, max(1, options.seeds)) if options.sweep else None
    if options.plot is not None:
        plot(outcome, swept, options.plot)
    if options.json:
        body = {**outcome.to_json(), "sweep": None if swept is None else _sweep_json(swept), "plan": asdict(plan)}
        print(json.dumps(body, indent=1, allow_nan=False))
    else:
        render(outcome, swept, sys.stdout)
    return ExitCode.FINISHED


def _sweep_json(swept: Sweep) -> dict[str, Any]:
    return {
        "rule": swept.rule,
        "best": swept.best.seconds,
        "lost_by_rule": swept.lost_by_rule,
        "tried": [{"seconds": trial.seconds, "goodput": trial.goodput} for trial in swept.tried],
    }
