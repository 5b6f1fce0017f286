"""A program that is started when something happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

from resilient.protocol import job_signals
from resilient.trackers.details import Details
from resilient.trackers.tracker import Context, Tracker
from resilient.trackers.webhook import OLDEST_SECONDS


class Command(Tracker):
    """It gets the details as JSON on its standard input, and what it prints goes into the trackers' log."""

    def __init__(self, context: Context) -> None:
        super().__init__()
        self._settings = context.settings.command

    def told(self, details: Details) -> None:
        if details.kind.value not in self._settings.on or time.time() - details.time > OLDEST_SECONDS:
            return
        process = _start(self._settings.argv)
        try:
            process.communicate(json.dumps(details.to_json()).encode(), timeout=self._settings.timeout_seconds)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            print(f"command: killed after {self._settings.timeout_seconds:g} s", flush=True)
            return
        if process.returncode:
            print(f"command: exit code {process.returncode}", flush=True)


def _start(argv: list[str]) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, with the signals that are held back here as they usually are. Those that have
    come meanwhile are handled now, by doing nothing.
    """
    held = signal.pthread_sigmask(signal.SIG_UNBLOCK, (*job_signals.ANNOUNCING, signal.SIGINT))
    try:
        return subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=sys.stdout, stderr=subprocess.STDOUT, start_new_session=True
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
