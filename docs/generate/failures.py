"""The failure catalogue: the policy's own tables, class by class."""

from __future__ import annotations

import re
from collections.abc import Iterable

from generate.markup import code, fenced, front_matter, table
from resilient.errors import ExitCode
from resilient.policy.failure_class import FailureClass
from resilient.policy.failure_table import BY_TYPE, BY_TYPE_ALONE, EXCEPTION, KERNEL, LOG, ROWS, Row
from resilient.policy.failures import _CRASH_SIGNALS
from resilient.policy.restart_settings import RestartSettings
from resilient.policy.treatments import CRASH_LOOP_EXITS, TREATMENTS, Treatment

_INTRODUCTION = """
Every failure gets one of these names. Evidence is looked at in this order: what the supervisor itself saw (a hang, a
node that is gone), the exception that ended the script, the signal it died of, the end of its log. The kernel's log
and the memory cgroup are asked whether what was seen is only a consequence: a SIGKILL by the out-of-memory killer is
"host out of memory". Of several ranks the **root** is named. A rank whose collective fails because another rank died
is an *echo*, and never the name of an incident unless no other rank failed before.

What is done depends on the name, and on the history: a failure counts until the run has made a new step
([`restarts.success_steps`](configuration.md#restarts.success_steps)). [Failures and
restarts](../concepts/failures.md) explains how the budgets work together.
"""

_SEEN: dict[FailureClass, str] = {
    FailureClass.KILLED: "a signal that is no crash, such as SIGKILL, and that neither kernel nor cgroup explains",
    FailureClass.CRASH: "death by " + ", ".join(sorted(signal.name for signal in _CRASH_SIGNALS)),
    FailureClass.APPLICATION: "any other exception, or an exit code that means nothing else",
    FailureClass.HANG: "a step, a start-up, a phase or a restore over its [limit](configuration.md#hang)",
    FailureClass.UNFINISHED: "exit 0 before the run said that it is finished",
    FailureClass.PREEMPTION: "SIGTERM to a worker that was not asked to leave",
    FailureClass.DECLARED: "an exit code that [`worker.exit_codes`](configuration.md#worker.exit_codes) says `stop` of",
    FailureClass.SUPERVISOR_LOST: "a run that is started again, and whose last supervisor did not close it",
    FailureClass.NODE_LOST: "a node's supervisor that has been silent for "
    "[`group.silent_seconds`](configuration.md#group.silent_seconds), or whose connection is gone",
    FailureClass.HOST_OOM: "SIGKILL, or a DataLoader worker that died, while the kernel killed for lack of memory",
    FailureClass.NETWORK: "a collective that fails though no other rank has failed before: an [echo](#echo) of nothing",
    FailureClass.BAD_SNAPSHOT: "a snapshot that does not verify",
}

_PLACES = {EXCEPTION: "the exception", LOG: "the rank's log", KERNEL: "the kernel's log"}


def page() -> str:
    parts = [
        front_matter("Failure catalogue", "Every class of failures: how it is recognised and what is done."),
        _INTRODUCTION,
        "## At a glance { #all }\n",
        table(("class", "done", "given up", "exit code"), _overview()),
        "",
    ]
    for failure_class in FailureClass:
        parts += [_section(failure_class)]
    return "\n".join(parts)


def anchor(failure_class: FailureClass) -> str:
    return failure_class.name.lower()


def _overview() -> Iterable[tuple[str, str, str, str]]:
    for failure_class in FailureClass:
        cure = TREATMENTS[failure_class]
        exit_code = f"[{cure.exit_code.value}](exit-codes.md#{cure.exit_code.value})"
        yield f"[{failure_class.value}](#{anchor(failure_class)})", cure.remedy, given_up(cure), exit_code


def given_up(cure: Treatment) -> str:
    """After how many failures a run is stopped for this class."""
    if cure.failures is None:
        return "by the general budgets"
    times = {1: "at the first", 2: "at the second", 3: "at the third"}[cure.failures]
    text = f"{times}{' at the same step' if cure.same_step else ''}"
    return text if cure.after_progress else f"{text} without progress"


def _section(failure_class: FailureClass) -> str:
    cure = TREATMENTS[failure_class]
    loop = CRASH_LOOP_EXITS.get(failure_class, ExitCode.CRASH_LOOP)
    parts = [f"## {failure_class.value.capitalize()} {{ #{anchor(failure_class)} }}\n"]
    if failure_class in _SEEN:
        parts.append(f"**Seen as** {_SEEN[failure_class]}.\n")
    types = sorted(name for names, found in (*BY_TYPE_ALONE, *BY_TYPE) if found is failure_class for name in names)
    if types:
        parts.append(f"**Exceptions**: {', '.join(map(code, types))}.\n")
    parts.append(f"**Done**: {cure.remedy}. Given up {given_up(cure)}{_because(cure)}")
    exit_code = f"[{cure.exit_code.value}](exit-codes.md#{cure.exit_code.value})"
    parts.append(f"with exit code {exit_code}; in a crash loop with {loop.value}.")
    if cure.least_wait:
        parts.append(f"Before a relaunch there are at least {cure.least_wait:g} s.")
    parts.append(f"\n**What to do when it ends the run**: {_as_code(cure.advice)}\n")
    parts.append(f"Its name in `restarts.per_class` and `restarts.class_waits` is `{anchor(failure_class)}`.\n")
    rows = [row for row in ROWS if row.failure_class is failure_class]
    if rows:
        parts.append(_patterns(rows))
    return "\n".join(parts)


def _because(cure: Treatment) -> str:
    return (
        f" ({cure.why}),"
        if cure.failures is not None
        else f", such as `max_failures={RestartSettings().max_failures}`,"
    )


def _patterns(rows: Iterable[Row]) -> str:
    lines = []
    for row in rows:
        places = ", ".join(text for place, text in _PLACES.items() if place in row.where)
        alone = f"; alone it is *{row.alone.value}*" if row.alone else ""
        lines.append(f"In {places}{alone}:\n\n{fenced(row.seen.pattern)}\n")
    body = "\n".join(lines)
    indented = "\n".join(f"    {line}" if line else "" for line in body.splitlines())
    return f'??? note "Messages that are recognised"\n\n{indented}\n'


def _as_code(text: str) -> str:
    """Settings in a sentence as code."""
    return re.sub(r"(?<![`\w])((?:[a-z_]+\.)*[A-Za-z_]+=[\w:.…]+)", r"`\1`", text)
