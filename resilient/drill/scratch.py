"""The scratch runs of a drill: starting them, and leaving nothing of them behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from resilient.drill.memory_group import MemoryGroup
from resilient.drill.target import Target
from resilient.errors import RunLocked
from resilient.protocol.drill import DRILLED
from resilient.protocol.lock import RunLock
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.start import python_command

_END_SECONDS = 30.0


@dataclass
class ScratchRun:
    """A run of the user's configuration, in a directory of the drill's own.

    :param conf: what ``conf=`` is.
    :param overrides: the user's, and then the drill's.
    :param group: control group that its processes are to be in.
    """

    paths: RunPaths
    conf: str
    overrides: Sequence[str]
    memory_dir: str = ""
    group: MemoryGroup | None = None
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def command(self) -> list[str]:
        place = [f"run.dir={self.paths.root.parent}", f"run.id={self.paths.run_id}"]
        return python_command("resilient.cli", "train", f"conf={self.conf}", *self.overrides, *place)

    @property
    def output(self) -> Path:
        """What the supervisor and rank 0 print."""
        return self.paths.root.with_suffix(".out")

    def start(self) -> Target:
        """Start it, or start it again. From the main thread: it dies with the thread that started it."""
        parent, group = os.getpid(), self.group

        def begin() -> None:
            die_with_parent(parent)  # a drill that is killed leaves nothing running
            if group is not None:
                group.enter()

        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, DRILLED: str(self.paths.root)},
                start_new_session=True,  # Ctrl-C is for the drill to answer
                preexec_fn=begin,  # noqa: PLW1509  a drill has no threads
            )
        return Target(self.paths, self._process.pid, self.memory_dir)

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
        shutil.rmtree(Target(self.paths, 0, self.memory_dir).memory, ignore_errors=True)
        if self.group is not None:
            self.group.remove()
