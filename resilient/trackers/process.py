"""The process in which all trackers of a run live: ``resilient.trackers.process FD LOCK PARENT ROOT``.

The settings come as the first message, for they may name what a list of processes must not show. The end of the
connection is the end of the launch: what is left to be told is told then, and whoever has started this process kills
it if that takes too long.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from resilient.protocol import job_signals, wire
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.trackers.lane import Lane
from resilient.trackers.making import make
from resilient.trackers.redacted import shown_config
from resilient.trackers.tracker import Context


def _let_signals_wait() -> None:
    """Those to the whole job are not for us. What we start inherits that they are held back: wandb's own process has
    to survive them too. A handler and not ``SIG_IGN``, for a command must not inherit that.
    """
    job_signals.hold_back()
    for number in (*job_signals.ANNOUNCING, signal.SIGINT):
        signal.signal(number, lambda *_: None)


def main(arguments: list[str]) -> int:
    """Track until the supervisor closes the connection, and until all is told."""
    connection = wire.own_end(arguments)
    die_with_parent(int(arguments[2]))
    _let_signals_wait()
    paths = RunPaths(Path(arguments[3]))
    message = wire.receive(connection)
    if message is None:
        return 0
    lock = threading.Lock()

    def say(words: str) -> None:
        with lock:
            try:
                wire.send(connection, {"event": "said", "words": words})
            except OSError:
                print(words, flush=True)

    settings = TrackersSettings.of(message["settings"])
    context = Context(paths, settings, paths.identity(), shown_config(paths), say)
    ending = threading.Event()
    lanes = [Lane(name, functools.partial(_make, name), context, ending) for name in settings.wanted]
    for lane in lanes:
        lane.start()
    while wire.receive(connection) is not None:
        pass
    ending.set()
    for lane in lanes:
        lane.join()
    sys.stdout.flush()
    os._exit(0)  # whatever threads their packages have left


def _make(name: str, context: Context) -> Any:
    return make(name, context)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
