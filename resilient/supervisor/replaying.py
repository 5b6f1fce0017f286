"""A replay: steps before a divergence, run again by a process of its own that says what came of it.

Nothing is decided here, and nothing of the run waits: the process is looked at now and then, and whatever it ends with,
there is a verdict.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from resilient.policy.decisions import ReplayWindow
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.protocol.paths import RunPaths
from resilient.protocol.start import python_command
from resilient.supervisor.scratch_run import remove_remains

_MODULE = "resilient.verify.__main__"
_MOST_BYTES = 1 << 20
_MOST_WORDS = 400
_REAP_SECONDS = 5.0  # what waits for a disk or a device may take longer, and nobody waits for it


class Replay:
    """One that is running. What it prints lies beside the evidence of the incident."""

    def __init__(
        self,
        paths: RunPaths,
        window: ReplayWindow,
        *,
        now: float,
        environment: Mapping[str, str],
        kill_orphans: Callable[[], object],
        module: str = _MODULE,
    ) -> None:
        """Start it.

        :param now: on the clock of the window's time.
        :param environment: beside our own.
        :param kill_orphans: ends what is left of it when it is killed.
        :raises OSError: it cannot be started.
        """
        place = paths.incident(window.number)
        place.mkdir(parents=True, exist_ok=True)
        self._answer, self._log, self._into = place / "replay.json", place / "replay.log", place / "replay"
        self._kill_orphans = kill_orphans
        span = ["--snapshot", str(window.snapshot), "--first", str(window.first), "--last", str(window.last)]
        span += ["--seconds", f"{max(1.0, window.by - now):.1f}"]
        command = python_command(module, "--run", str(paths.root), *span, "--into", str(self._into), "--json")
        with self._answer.open("wb") as answer, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=answer,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def poll(self) -> Verdict | None:
        """The verdict, once it has ended."""
        code = self._process.poll()
        if code is None:
            return None
        self._clear()
        return read_verdict(self._answer, code, self._log)

    def abandon(self) -> None:
        """Kill it, and all that it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_REAP_SECONDS)
        self._clear()

    def _clear(self) -> None:
        """What one that was killed has left: processes, and the memory that they had."""
        self._kill_orphans()
        remove_remains(self._into)


def read_verdict(answer: Path, code: int, log: Path) -> Verdict:
    """What a replay that has ended with ``code`` has left in ``answer``; inconclusive where that is not a verdict."""
    try:
        with answer.open("rb") as stream:
            return Verdict.from_json(json.loads(stream.read(_MOST_BYTES)))
    except (OSError, ValueError, RecursionError):
        words = _last_words(log)
        told = f": {words}" if words else ""
        return Verdict(VerdictKind.INCONCLUSIVE, f"the replay ended with exit code {code} and no verdict{told}")


def _last_words(log: Path) -> str:
    with suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:_MOST_WORDS] if lines else ""
    return ""
