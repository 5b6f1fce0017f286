"""The page on exit codes: what each means, what a person does next, and what a scheduler may do by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from generate.docstrings import Docstring
from generate.markup import code, front_matter, table
from resilient import errors
from resilient.errors import ExitCode, ResilientError
from resilient.policy.failure_class import FailureClass
from resilient.policy.treatments import TREATMENTS

_INTRODUCTION = """
The exit code of `resilient train` says how the run ended; the line before it on the terminal says what to do next,
with the names of this run. A batch file needs two of them: **0**, the run is finished, and **75**, start the same
command again. Everything else wants a person.

```bash
resilient train conf=mine
code=$?
if [ "$code" -eq 75 ]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
```

A worker's own exit 0 is not taken for "finished" unless the run said so: `run.steps` ran to its end, or
`run.finish()` was called. For scripts that do not attach, `worker.finished_by=exit_code` (set in `conf=script`) says
that 0 is enough.
"""

_ERRORS = """
All errors that are raised on purpose are of `resilient.errors.ResilientError`, and carry the exit code with which a
process ends that does not catch them.
"""

_NEXT: Mapping[ExitCode, str] = {
    ExitCode.FINISHED: "Nothing. The same command again says that the run is finished; with more steps it goes on.",
    ExitCode.DIFFERENT: "`replay`: look at the decisions it prints. `verify`: keep the run off this machine.",
    ExitCode.USAGE: "`resilient COMMAND --help`.",
    ExitCode.UNDECIDED: "Look at what differs: most often the script is not reproducible. "
    "See [what bit-exact means](../concepts/bit-exact.md).",
    ExitCode.UNREADABLE: "Check the path; the message names the file.",
    ExitCode.NO_ENTRY_POINT: "Check `worker.script` or `worker.module`, from the directory in which you start.",
    ExitCode.NO_SNAPSHOT: "`resilient snapshots verify run=…` says what is damaged. It never starts over silently: "
    "choose another `run.id` to do that.",
    ExitCode.NOT_FOUND: "Check the name, and `dir=`.",
    ExitCode.NOT_RUNNING: "Start the run, or go to the machine it is on.",
    ExitCode.INTERNAL: "Report it, with the lines above. The same command again resumes.",
    ExitCode.NOT_WRITABLE: "Check the permissions of `run.dir`, or of the target.",
    ExitCode.DISK_FULL: "Free space, then the same command again: what is in memory is still there on this machine.",
    ExitCode.REQUEUE: "Start the same command again; on SLURM the job is requeued by itself.",
    ExitCode.RUN_LOCKED: "The message names the process. Wait for it, or choose another `run.id`.",
    ExitCode.CONFIG: "Correct the key that the message names.",
    ExitCode.CONFIG_DRIFT: "Undo the change, choose another `run.id`, or `run.allow_drift=true`.",
    ExitCode.WORKER_ERROR: "Correct the script, then the same command again: it resumes.",
    ExitCode.CRASH_LOOP: "Look at `resilient incidents RUN`; correct it, then the same command again.",
    ExitCode.BUDGET_SPENT: "Look at the incidents: the machine may be bad. Raise the limits under "
    "[restarts](configuration.md#restarts) only if each failure is understood.",
    ExitCode.HUNG: "Look at the stacks in the incident; if it was only slow, raise `hang.min_seconds`, or "
    "`hang.startup_seconds` for a start-up.",
    ExitCode.DIVERGED: "Look at the evidence. `resilient rollback` takes it further back, with another learning rate "
    "or without some data.",
    ExitCode.REMOTE_UNAVAILABLE: "Check endpoint and credentials, then the same command again.",
    ExitCode.UNTRUSTED_NODE: "Start it on another machine; `run.trust_node=true` overrides.",
    ExitCode.SCHEDULER: "The message says what SLURM said; nothing was submitted unless it says otherwise.",
    ExitCode.WILL_NOT_WORK: "The doctor prints what to do beside each finding.",
    ExitCode.NO_CHECKPOINT: "Check the path; name the format with `--from`.",
    ExitCode.DRILL_FAILED: "The scratch runs are kept: look at the one it names.",
    ExitCode.NODES_MISSING: "Start the missing nodes, or allow fewer with `group.least`.",
    ExitCode.TIMED_OUT: "Try again with a larger `--timeout`; the run itself is not affected.",
    ExitCode.TERMINATED: "Start the same command again to carry on.",
}


def page() -> str:
    parts = [
        front_matter("Exit codes", "What each exit code means and what to do next."),
        _INTRODUCTION,
        "## All of them { #all }\n",
        _rows(),
        "\n## How failures of the training end { #failures }\n",
        "Each [class of failures](failures.md) that is given up has its code:\n",
        table(("code", "classes of failures"), _ends()),
        "\n## Errors of the Python API { #errors }\n",
        _ERRORS,
        table(("error", "code", "when"), _errors()),
    ]
    return "\n".join(parts) + "\n"


def _rows() -> str:
    rows = [(f'<span id="{code.value}">**{code.value}**</span>', code.description, _NEXT[code]) for code in ExitCode]
    return table(("code", "meaning", "what next"), rows)


def _ends() -> Iterator[tuple[str, str]]:
    by_code: dict[ExitCode, list[str]] = {}
    for failure_class in FailureClass:
        if failure_class in TREATMENTS:
            by_code.setdefault(TREATMENTS[failure_class].exit_code, []).append(failure_class.value)
    for exit_code in sorted(by_code):
        yield f"[{exit_code.value}](#{exit_code.value})", ", ".join(by_code[exit_code])


def _errors() -> Iterator[tuple[str, str, str]]:
    for kind in _descendants(ResilientError):
        yield code(kind.__name__), str(kind.exit_code.value), Docstring.of(kind).summary


def _descendants(kind: type[ResilientError]) -> Iterator[type[ResilientError]]:
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from _descendants(child)
