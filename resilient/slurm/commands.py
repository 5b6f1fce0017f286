"""Calling SLURM's commands: never for longer than was allowed, and never with a shell between.

A controller that is busy answers late or not at all, which is when most jobs ask it something. So a call can be begun
and looked at now and then (:meth:`Commands.begin`), and is ended when its time is up.
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO

from resilient.protocol import job_signals

_MOST_BYTES = 4 << 20
_POLL_SECONDS = 0.02


@dataclass(frozen=True)
class Answer:
    """What a command said.

    :param problem: why there is no answer, in a few words; empty when it succeeded.
    :param absent: there is no such command on this machine.
    """

    output: str = ""
    problem: str = ""
    absent: bool = False


class Call:
    """One command that has been begun."""

    def __init__(self, command: tuple[str, ...], environ: Mapping[str, str], by: float) -> None:
        self._command = command
        self._by = by
        self._answer: Answer | None = None
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  closed with the answer
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        # The signals that make us ask come to every process of the job, this one included. It is in our own session:
        # what the supervisor does with orphans must not take it for one.
        mask = job_signals.hold_back()
        try:
            self._process = subprocess.Popen(
                command, env=environ, stdin=subprocess.DEVNULL, stdout=self._output, stderr=self._errors
            )
        except OSError as error:
            absent = isinstance(error, FileNotFoundError)
            why = "is not installed here" if absent else f"cannot be started: {error.strerror}"
            self._finish(Answer(problem=f"{command[0]} {why}", absent=absent))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def poll(self, now: float) -> Answer | None:
        """The answer, once it is there or its time is up."""
        if self._answer is not None:
            return self._answer
        code = self._process.poll()
        if code is None and now < self._by:
            return None
        if code is None:
            self._process.kill()
            self._process.wait()
            return self._finish(Answer(problem=f"{' '.join(self._command)} did not answer in time"))
        output, errors = _read(self._output), _read(self._errors)
        if code:
            said = " ".join(errors.split()) or " ".join(output.split()) or f"exit code {code}"
            return self._finish(Answer(output, f"{' '.join(self._command)}: {said[:400]}"))
        return self._finish(Answer(output))

    def _finish(self, answer: Answer) -> Answer:
        self._output.close()
        self._errors.close()
        self._answer = answer
        return answer


def _read(stream: IO[bytes]) -> str:
    stream.seek(0)
    return stream.read(_MOST_BYTES).decode(errors="replace")


class Commands:
    """Calls commands with an environment in which their output can be read."""

    def __init__(
        self,
        seconds: float,
        *,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """:param seconds: so long a command may take."""
        # The format of times is a matter of taste to SLURM's commands, and their language one to the system.
        self._environ = {**environ, "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
        self._seconds = seconds
        self._clock = clock
        self._sleep = sleep

    def begin(self, *command: str) -> Call:
        return Call(command, self._environ, self._clock() + self._seconds)

    def call(self, *command: str) -> Answer:
        """Wait for the answer."""
        call = self.begin(*command)
        while (answer := call.poll(self._clock())) is None:
            self._sleep(_POLL_SECONDS)
        return answer
