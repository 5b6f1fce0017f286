"""The process in which all trackers of a run live: ``resilient.trackers.process FD LOCK PARENT ROOT``.

The settings come as the first message, for they may name what a list of processes must not show. The end of the
connection is the end of the launch: what is left to be told is told then, and whoever has started this process kills
it if that takes too long.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import socket
import sys
import threading
from pathlib import Path

from resilient.protocol import job_signals, wire
from resilient.protocol.parent import die_with_parent
from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.trackers.lane import Lane
from resilient.trackers.making import make
from resilient.trackers.redacted import shown_config
from resilient.trackers.tracker import Context

_LOOK_SECONDS = 10.0  # between two looks at whether a tracker hangs


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
    lanes = [Lane(name, functools.partial(make, name), context, ending) for name in settings.wanted]
    for lane in lanes:
        lane.start()
    while not _is_closed(connection):
        for lane in lanes:
            lane.complain()
    ending.set()
    for lane in lanes:
        lane.join()
    sys.stdout.flush()
    os._exit(0)  # whatever threads their packages have left


def _is_closed(connection: socket.socket) -> bool:
    """Wait for that, for a while."""
    readable, _, _ = select.select([connection], [], [], _LOOK_SECONDS)
    return bool(readable) and wire.receive(connection) is None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
