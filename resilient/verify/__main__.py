"""``python -m resilient.verify``: a verdict for the supervisor of a run, as one line of JSON.

It is the supervisor's child, dies with it, and all that it has started dies with it. Nothing of the run is touched but
the directory that it is told to work in.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from resilient.errors import ExitCode, ResilientError
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.interruption import stopped_by_signals
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths
from resilient.verify.examination import examine_window
from resilient.verify.places import elsewhere
from resilient.verify.replaying import Replayer
from resilient.verify.window import window


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdict; 0 whatever it is, 143 if it was stopped before there was one."""
    parent = os.getppid()
    options = _parser().parse_args(arguments)
    die_with_parent(parent)
    try:
        with stopped_by_signals():
            verdict = _verdict(options)
    except KeyboardInterrupt:
        return int(ExitCode.TERMINATED)
    except ResilientError as error:
        verdict = Verdict(VerdictKind.INCONCLUSIVE, error.problem)
    except (OSError, ValueError) as error:
        verdict = Verdict(VerdictKind.INCONCLUSIVE, f"the steps could not be run again: {error}")
    print(json.dumps(verdict.to_json(), allow_nan=False) if options.json else f"{verdict.kind.value}: {verdict.reason}")
    return 0


def _verdict(options: argparse.Namespace) -> Verdict:
    found = window(RunPaths(options.run.absolute()), options.snapshot, options.last)
    options.into.mkdir(parents=True, exist_ok=True)
    replayer = Replayer(found, options.into.absolute(), time.monotonic() + options.seconds)
    other = elsewhere(found.tree)
    return examine_window(replayer, other, options.first, lambda text: print(text, file=sys.stderr, flush=True)).verdict


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m resilient.verify", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="the run's directory")
    parser.add_argument("--snapshot", type=int, required=True, help="the step to begin after")
    parser.add_argument("--first", type=int, required=True, help="the first step that looked wrong")
    parser.add_argument("--last", type=int, required=True, help="the last step to run again")
    parser.add_argument("--into", type=Path, required=True, help="directory to work in")
    parser.add_argument("--seconds", type=float, default=3600.0, help="what all of it may take")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main())
