"""Programs that are asked something, and may not answer."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from resilient.protocol.parent import die_with_parent


@dataclass(frozen=True)
class Answer:
    """What a program has said.

    :param code: its exit code, negative for a signal; None when it was given up.
    """

    code: int | None
    output: str
    errors: str

    @property
    def is_good(self) -> bool:
        return self.code == 0

    @property
    def last_words(self) -> str:
        """The last line that it has printed, errors before output."""
        lines = (self.errors.strip() or self.output.strip()).splitlines()
        return lines[-1].strip() if lines else f"exit code {self.code}"


def find(name: str, environment: Mapping[str, str]) -> str | None:
    return shutil.which(name, path=environment.get("PATH"))


def ask(command: Sequence[str], environment: Mapping[str, str], seconds: float) -> Answer:
    """Run a program to its end, or for so long. It dies with this process.

    :raises OSError: it cannot be started.
    """
    running = subprocess.Popen(
        command,
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=partial(die_with_parent, os.getpid()),  # noqa: PLW1509  a check's process has one thread
    )
    try:
        output, errors = running.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        running.kill()  # not waited for: what waits for a device does not die before it answers
        return Answer(None, "", "")
    return Answer(running.returncode, output, errors)
