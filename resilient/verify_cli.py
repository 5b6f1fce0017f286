"""``resilient verify``: steps of a run again from a snapshot, and whether they give what they gave."""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from resilient.errors import ExitCode, TargetNotWritable, UsageError
from resilient.policy.comparison import Case, Replay
from resilient.policy.verdict import VerdictKind
from resilient.protocol.interruption import stopped_by_signals
from resilient.protocol.paths import RunPaths
from resilient.runs import find_run
from resilient.verify.examination import Examination, examine_window
from resilient.verify.places import elsewhere
from resilient.verify.replaying import Replayer
from resilient.verify.window import Window, choose

_HELP = """\
Run steps of a run again from a snapshot, and compare every reported loss, gradient norm and hash with what it had
reported, bit for bit. What is not the same again, and the same twice, the hardware computed wrong. The run itself is
not touched; start it in the directory that the run was started in. The script itself runs again up to the end of its
loop, and what comes after that is not done: if it writes files of its own in the loop, have it look at run.is_replay.

  resilient verify run=demo                       the newest snapshot after which 20 steps are reported
  resilient verify run=demo from=150 steps=50     the 50 steps after the snapshot of step 150
  resilient verify run=runs/demo --json           by its directory; print JSON

With two GPUs or more a replay on other ones follows, and without any one on other cores, if OMP_NUM_THREADS is set. A
run that is up needs its devices for itself: choose free ones with CUDA_VISIBLE_DEVICES.
The exit code is 0 where everything was the same again, 1 where the hardware computed wrong, and 3 where replays differ
among themselves or nothing can be said.
"""
_KEYS = ("run", "dir", "steps", "from")
_STEPS = 20
_EXIT_CODES: Mapping[VerdictKind, ExitCode] = {
    VerdictKind.REPRODUCED: ExitCode.FINISHED,
    VerdictKind.TRANSIENT_HARDWARE: ExitCode.DIFFERENT,
    VerdictKind.PERSISTENT_HARDWARE: ExitCode.DIFFERENT,
    VerdictKind.NOT_REPRODUCIBLE: ExitCode.UNDECIDED,
    VerdictKind.INCONCLUSIVE: ExitCode.UNDECIDED,
}


def add_parser(commands: Any) -> None:
    """Add ``verify`` to the subparsers of the command line."""
    parser = commands.add_parser(
        "verify",
        help="run steps of a run again, and see if the hardware computed them wrong",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="run=NAME steps=20 from=STEP dir=runs")
    parser.add_argument("--into", type=Path, help="directory for the replays (default: beside the run)")
    parser.add_argument("--timeout", type=float, default=3600.0, metavar="SECONDS", help="for all replays together")
    parser.add_argument("--keep", action="store_true", help="keep logs and metrics of the replays in any case")
    parser.add_argument("--json", action="store_true", help="print JSON with stable keys")


def run(options: argparse.Namespace) -> ExitCode:
    """Carry it out.

    :raises UsageError: the command line cannot be understood.
    :raises RunNotFound: there is no such run, or it has no configuration.
    :raises SnapshotNotFound: it has no snapshot that would do.
    :raises TargetNotWritable: there is no place for the replays.
    """
    given = _given(options.overrides)
    paths = find_run(given["run"], Path(given.get("dir", "runs")))
    begin = _whole("from", given["from"]) if "from" in given else None
    found = choose(paths, _whole("steps", given.get("steps", str(_STEPS))), begin)
    into = _directory(options.into, paths)
    replayer = Replayer(found, into, time.monotonic() + options.timeout)
    console = Console(stderr=True, highlight=False, soft_wrap=True)

    def say(text: str) -> None:
        console.print(f"verify │ {text}", markup=False)

    try:
        with stopped_by_signals():
            done = examine_window(replayer, elsewhere(found.tree), None, say)
    except KeyboardInterrupt:
        shutil.rmtree(into, ignore_errors=True)
        say("stopped by request; nothing is left of it")
        return ExitCode.TERMINATED
    kept = options.keep or done.verdict.kind is not VerdictKind.REPRODUCED
    if not kept:
        shutil.rmtree(into, ignore_errors=True)
    _print(done, found, into if kept else None, as_json=options.json)
    return _EXIT_CODES[done.verdict.kind]


def _given(pairs: Sequence[str]) -> dict[str, str]:
    given = {}
    for text in pairs:
        key, equals, value = text.partition("=")
        if not equals or not value or key not in _KEYS:
            raise UsageError(f"{text} is not understood", f"verify knows {', '.join(f'{key}=…' for key in _KEYS)}")
        given[key] = value
    if "run" not in given:
        raise UsageError("which run?", "add run=NAME, or run=PATH of its directory")
    return given


def _whole(key: str, text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise UsageError(f"{key}={text} must be a whole number above 0")
    return int(text)


def _directory(wanted: Path | None, paths: RunPaths) -> Path:
    """A directory of our own: on the run's filesystem, unless another is wanted, so that the snapshot can be linked."""
    place = wanted or paths.root.with_name(f"verify-{paths.run_id}-{time.strftime('%Y%m%d-%H%M%S')}")
    try:
        place.mkdir(parents=True, exist_ok=wanted is not None)
        if any(place.iterdir()):
            raise TargetNotWritable(f"{place} is not empty", "choose another with --into")
    except OSError as error:
        raise TargetNotWritable(f"{place} cannot be used: {error.strerror}", "choose another with --into") from error
    return place.absolute()


def _print(done: Examination, found: Window, kept: Path | None, *, as_json: bool) -> None:
    if as_json:
        body = {
            "run": found.paths.run_id,
            "snapshot": found.snapshot,
            "last": found.last,
            **done.verdict.to_json(),
            "replays": [_replay_json(done.case, replay) for replay in done.case.replays],
            "directory": str(kept) if kept is not None else None,
        }
        print(json.dumps(body, indent=1, allow_nan=False))
        return
    console = Console(highlight=False)
    if done.verdict.step is not None:
        console.print(difference_table(done.case, done.verdict.step))
    console.print(f"{done.verdict.kind.value}: {done.verdict.reason}", markup=False, soft_wrap=True)
    for sentence in done.verdict.evidence:
        console.print(f"  {sentence}", markup=False, soft_wrap=True)
    if kept is not None:
        console.print(f"logs and metrics of the replays are in {kept}", markup=False, soft_wrap=True)


def _replay_json(case: Case, replay: Replay) -> dict[str, Any]:
    difference = case.difference(replay)
    return {
        "place": replay.place.value,
        "deterministic": replay.deterministic,
        "reached": max(replay.records, default=None),
        "problem": replay.problem,
        "step": None if difference is None else difference.step,
        "field": None if difference is None else difference.name,
        "original": None if difference is None else repr(difference.original),
        "replay": None if difference is None else repr(difference.replay),
    }


def difference_table(case: Case, step: int) -> Table:
    """What the run and each replay have of one step; what is not the same as in the run stands out."""
    table = Table(title=f"Step {step}", title_justify="left")
    for name in ("field", "run"):
        table.add_column(name)
    for number, replay in enumerate(case.replays, 1):
        table.add_column(f"replay {number}, {'deterministic' if replay.deterministic else replay.place.value}")
    original = case.original.get(step, {})
    for rank, name in sorted(original, key=lambda place: (case.names.index(place[1]), place[0])):
        values = [replay.records.get(step, {}).get((rank, name)) for replay in case.replays]
        told = repr(original[rank, name])
        label = name if not rank else f"{name} of rank {rank}"
        table.add_row(escape(label), told, *(_cell(value, told) for value in values))
    return table


def _cell(value: float | None, original: str) -> str:
    if value is None:
        return "–"
    return repr(value) if repr(value) == original else f"[bold red]{value!r}[/]"
