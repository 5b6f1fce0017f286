"""Runs that are started for a purpose and thrown away: by drills, and to run steps of another run again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from resilient.errors import RunLocked
from resilient.protocol.lock import RunLock
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.scratch import Scratch
from resilient.protocol.start import python_command
from resilient.supervisor.memory import RunMemory

_END_SECONDS = 30.0


@dataclass
class ScratchRun:
    """A run of the user's configuration, in a directory of its own.

    :param conf: what ``conf=`` is.
    :param overrides: of the configuration.
    :param memory_dir: the configuration's ``snapshot.memory_dir``.
    :param environment: variables that are added to this process's own.
    :param cores: the only ones that its processes may use; none for all.
    """

    paths: RunPaths
    conf: str
    overrides: Sequence[str]
    memory_dir: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: Collection[int] = ()
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def command(self) -> list[str]:
        place = [f"run.dir={_quoted(str(self.paths.root.parent))}", f"run.id={_quoted(self.paths.run_id)}"]
        untold = "trackers.enabled=false"  # it is nobody's training
        return python_command("resilient.cli", "train", f"conf={self.conf}", *self.overrides, *place, untold)

    @property
    def output(self) -> Path:
        """What the supervisor and rank 0 print."""
        return self.paths.root.with_suffix(".out")

    def spawn(self) -> int:
        """Start it, or start it again, and return its supervisor's process. From the main thread: it dies with the
        thread that started it.
        """
        parent = os.getpid()

        def begin() -> None:
            die_with_parent(parent)  # whoever is killed leaves nothing running
            self._begin()

        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for this process to answer
                preexec_fn=begin,  # noqa: PLW1509  whoever starts such runs has no threads
            )
        return self._process.pid

    def _begin(self) -> None:
        """In the new process."""
        if self.cores:
            os.sched_setaffinity(0, self.cores)

    def poll(self) -> int | None:
        """The supervisor's exit code, or None while it is up."""
        return self._process.poll() if self._process is not None else None

    def last_words(self, limit: int = 2000) -> str:
        with suppress(OSError):
            return self.output.read_bytes()[-limit:].decode(errors="replace").strip()
        return ""

    def close(self) -> None:
        """End whatever is left of it, and give its memory back."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        if self.paths.root.is_dir():
            with suppress(RunLocked):  # got once all helpers and workers are gone, which have it too
                RunLock(self.paths.lock, hostname(), patience=_END_SECONDS).release()
            Scratch(self.paths.identity()).remove()
        shutil.rmtree(RunMemory.place(self.paths, self.memory_dir), ignore_errors=True)


def _quoted(text: str) -> str:
    """As a value of Hydra's, whatever is in it."""
    return "'" + re.sub(r"(\\*)('|\Z)", lambda match: 2 * match[1] + ("\\'" if match[2] else ""), text) + "'"


def remove_remains(directory: Path) -> None:
    """Give back the memory of all scratch runs in ``directory``, whose processes are gone."""
    for identity in directory.glob("*/identity"):
        paths = RunPaths(identity.parent)
        Scratch(paths.identity()).remove()
        shutil.rmtree(RunMemory.place(paths, _memory_dir(paths)), ignore_errors=True)


def _memory_dir(paths: RunPaths) -> str:
    """What its configuration says; that is written before there is any memory."""
    try:
        return str(yaml.safe_load(paths.config.read_text())["snapshot"]["memory_dir"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return ""
