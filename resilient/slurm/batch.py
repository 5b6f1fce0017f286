"""The batch file of a run, as text: what SLURM is asked for, and how the supervisor is started.

Two parsers read it. ``sbatch`` reads the lines ``#SBATCH`` with a small one of its own, up to the first command; in
the path of a log it takes ``%`` for the beginning of a pattern, and a backslash for a sign that there is none. The
shell reads the rest. What comes from a user is quoted for the one that reads it, and what neither could be given is
refused.

The supervisor is started by ``srun``, as a step. SLURM sends SIGTERM to steps: at a preemption, at the time limit, and
``--signal`` (without ``B:``) before it. The shell of the batch file gets none of these, and would pass none on.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import ConfigurationError, ExitCode

_PLAIN = re.compile(r"[A-Za-z0-9_./:,=+@%^~*\[\]-]+")
_NAME = re.compile(r"[a-z][a-z0-9-]*")
_COMMENT_WIDTH = 100


@dataclass(frozen=True)
class Option:
    """One option of ``sbatch``.

    :param name: without its dashes.
    :param value: nothing for an option that takes none.
    :param setting: where the user has it from, for the message when it is refused.
    :param why: a comment that stands above it.
    """

    name: str
    value: str = ""
    setting: str = ""
    why: str = ""


@dataclass(frozen=True)
class Task:
    """One run.

    :param index: its number in a job array; None outside one.
    :param configuration: the checked configuration, as a file.
    """

    run_id: str
    configuration: Path
    index: int | None = None


@dataclass(frozen=True)
class Batch:
    """All that a batch file says.

    :param options: what is asked for, without the log.
    :param log: the job's log; a pattern of ``sbatch`` where it says so, see :func:`path_pattern`.
    :param program: the words that start the command line of resilient.
    :param tasks: one, or those of an array.
    :param steps: options of ``srun``.
    :param requeues: the job may be requeued.
    :param nodes: on so many a supervisor is started.
    """

    path: Path
    options: tuple[Option, ...]
    log: str
    program: tuple[str, ...]
    tasks: tuple[Task, ...]
    steps: tuple[str, ...] = ()
    requeues: bool = True
    nodes: int = 1

    @property
    def is_array(self) -> bool:
        return self.tasks[0].index is not None


def directive(option: Option) -> str:
    """The line ``#SBATCH`` of an option.

    :raises ConfigurationError: no such line can be written.
    """
    where = option.setting or f"--{option.name}"
    if not _NAME.fullmatch(option.name):
        raise ConfigurationError(f"{where}: {option.name!r} cannot be an option of sbatch", "see man sbatch")
    if not option.value.isprintable():  # a newline would end the line, and the rest would be a command
        raise ConfigurationError(
            f"{where}={option.value!r} holds a line break or another character that cannot be printed", "remove it"
        )
    if not option.value:
        return f"#SBATCH --{option.name}"
    return f"#SBATCH --{option.name}={option.value if _PLAIN.fullmatch(option.value) else _quoted(option.value)}"


def _quoted(value: str) -> str:
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'


def path_pattern(path: Path) -> str:
    """A path in which ``sbatch`` finds no pattern, and to which one may be appended.

    :raises ConfigurationError: ``sbatch`` cannot be given this path.
    """
    if "\\" in str(path) or not str(path).isprintable():
        raise ConfigurationError(
            f"SLURM cannot write a log in {str(path)!r}: its name holds a backslash, or what cannot be printed",
            "choose another place with run.dir=…",
        )
    return str(path).replace("%", "%%")


def render(batch: Batch) -> str:
    """The batch file.

    :raises ConfigurationError: something in it cannot be written so that SLURM reads it as it is.
    """
    return "\n".join([*_head(batch), "", *_asked_for(batch), "", *_commands(batch), ""])


def _head(batch: Batch) -> Iterator[str]:
    yield "#!/bin/bash"
    runs = ", ".join(task.run_id for task in batch.tasks)
    what = f"the run {runs}" if len(batch.tasks) == 1 else f"{len(batch.tasks)} runs, one for each task of the array"
    yield f"# A job of SLURM that trains {what}, under supervision."
    yield "# Written by `resilient submit`, which is also the way to submit it again: it checks more, and refuses a run"
    yield "# that is queued already. By hand:"
    yield f"#   sbatch {_printable(shlex.quote(str(batch.path)))}"


def _asked_for(batch: Batch) -> Iterator[str]:
    for option in batch.options:
        if option.why:
            yield from _comment(option.why)
        yield directive(option)
    yield "# A job that was requeued goes on in the same log."
    yield directive(Option("output", batch.log, "run.dir"))
    yield directive(Option("open-mode", "append"))


def _commands(batch: Batch) -> Iterator[str]:
    if batch.is_array:
        yield "# Each task of the array has its own run; this is its configuration, as it was checked."
        yield 'case "$SLURM_ARRAY_TASK_ID" in'
        for task in batch.tasks:
            yield f"    {task.index}) configuration={shlex.quote(str(task.configuration))} ;;"
        yield f'    *) echo "task $SLURM_ARRAY_TASK_ID has no run" >&2; exit {ExitCode.CONFIG:d} ;;'
        yield "esac"
    else:
        yield "# The configuration, as it was checked; later changes of the file that it was made from do not count."
        yield f"configuration={shlex.quote(str(batch.tasks[0].configuration))}"
    yield ""
    if batch.nodes > 1:
        yield "# A supervisor on each node, as one step: SLURM sends SIGTERM to steps, on all nodes, and not to this"
        yield "# shell. One that is lost does not end the others (--kill-on-bad-exit=0)."
        yield 'began="$(date +%s)"'
    else:
        yield "# The supervisor is a step of its own, because SLURM sends SIGTERM to steps and not to this shell."
    yield f"{_words(['srun', *batch.steps])} \\"
    yield f'    {_words(batch.program)} train "conf=$configuration"'
    yield "code=$?"
    yield ""
    if batch.nodes > 1:
        yield from _ending()
    if batch.requeues:
        yield f"# {ExitCode.REQUEUE:d}: the run is to go on, and its supervisor could not requeue the job by itself."
        yield f'if [ "$code" -eq {ExitCode.REQUEUE:d} ]; then'
        yield '    scontrol requeue "$SLURM_JOB_ID"'
        yield "fi"
    yield 'exit "$code"'


def _ending() -> Iterator[str]:
    """Of several supervisors ``srun`` tells the highest exit code, be it that of one whose node was lost."""
    find = r's/.*"exit_code": \([0-9]*\).*/\1/p'
    yield "# That is the highest of their exit codes, be it of one that was lost. How the run ended is written down."
    yield 'status="$(dirname "$configuration")/../status.json"'
    yield 'if [ "$(stat -c %Y "$status")" -ge "$began" ]; then'
    yield f'    ended="$(sed -n {shlex.quote(find)} "$status")"'
    yield '    code="${ended:-$code}"'
    yield "fi"
    yield ""


def _words(words: Sequence[str]) -> str:
    return " ".join(map(shlex.quote, words))


def _comment(text: str) -> Iterator[str]:
    line = "#"
    for word in _printable(text).split():
        if len(line) + len(word) > _COMMENT_WIDTH:
            yield line
            line = "#"
        line += f" {word}"
    yield line


def _printable(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
