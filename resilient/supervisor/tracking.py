"""The supervisor's side of the trackers: starting their process, starting it again, and not waiting for it long."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress

from resilient.policy.state import RunState
from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings
from resilient.supervisor.console import Console
from resilient.supervisor.helper import Helper
from resilient.supervisor.journal import Journal

ENDED = "run ended"
"""Name of the note with which a supervisor leaves, after the batch system was asked what comes next."""

_FIRST_WAIT, _LONGEST_WAIT = 3.0, 300.0  # seconds until it is started again; wandb's own process takes two to end
_LIVED_SECONDS = 60.0  # one that lived so long was no failure from the start
_LEAST_PATIENCE = 2.0  # of a supervisor that ends by an error


class Tracking:
    """A process that reads what the supervisor writes. Nothing is asked of it, so nothing can wait for it. Where no
    tracker is wanted, there is none.
    """

    def __init__(
        self,
        settings: TrackersSettings,
        paths: RunPaths,
        *,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._paths = paths
        self._journal = journal
        self._console = console
        self._clock = clock
        self._wait = _FIRST_WAIT
        self._again_at: float | None = None
        self._end_by: float | None = None
        self._helper: Helper | None = None
        if settings.wanted:
            self._start()

    def _start(self) -> None:
        arguments = [str(os.getpid()), str(self._paths.root)]
        log = self._paths.root / "logs" / "trackers.log"
        self._started_at, self._again_at = self._clock(), None
        try:
            self._helper = Helper("resilient.trackers.process", arguments, lock=None, log=log)
        except OSError as error:  # no memory, no process, no disk: what else can be done without
            self._console.say(f"WARNING: the trackers cannot be started: {error.strerror}; training goes on")
            self._try_again()
        else:
            self._helper.send({"settings": self._settings.to_json()})

    @property
    def pid(self) -> int | None:
        return self._helper.pid if self._helper is not None else None

    def connections(self) -> dict[socket.socket, Callable[[], None]]:
        """What is to be read when it is readable, and by what."""
        return {} if self._helper is None or self._end_by is not None else {self._helper.connection: self._receive}

    def _receive(self) -> None:
        message = self._helper.receive() if self._helper is not None else None
        if message is not None:
            self._console.say(str(message["words"]))
            return
        self._died()

    def _died(self) -> None:
        assert self._helper is not None  # noqa: S101  it was its connection that was read
        now = self._clock()
        if now - self._started_at > _LIVED_SECONDS:
            self._wait = _FIRST_WAIT
        self._helper.close(0.1)
        self._helper = None
        self._journal.write("note", "trackers died", now, again_after=self._wait)
        if self._wait == _FIRST_WAIT:
            self._console.say("WARNING: the trackers' process has died; training goes on, and it is started again")
        self._try_again()

    def _try_again(self) -> None:
        """Later, and the next time later still."""
        self._again_at = self._clock() + self._wait
        self._wait = min(2 * self._wait, _LONGEST_WAIT)

    def poll(self) -> None:
        """Start it again when that is due."""
        if self._again_at is not None and self._clock() >= self._again_at and self._end_by is None:
            self._start()

    def end(self, state: RunState) -> None:
        """Everything is written that there is to read: let it come to its end while others do.

        A run that somebody waits to kill has better things to do with its time: at most half of what is left is for
        the trackers.
        """
        seconds = self._settings.end_seconds
        if state.stop is not None and not state.stop.patient:
            left = state.stop_asked_at + state.stop.grace - self._clock()
            seconds = max(0.0, min(seconds, left / 2))
        self._end_within(seconds)

    def _end_within(self, seconds: float) -> None:
        self._end_by = self._clock() + seconds
        if self._helper is not None:
            with suppress(OSError):
                self._helper.connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Wait for it, but not longer than was said; then kill it."""
        if self._end_by is None:
            self._end_within(min(self._settings.end_seconds, _LEAST_PATIENCE))
        if self._helper is None:
            return
        if not self._ended():
            self._console.say("WARNING: the trackers were not ready in time; the next launch tells them the rest")
        self._helper.close(0.1)
        self._helper = None

    def _ended(self) -> bool:
        """Pass on what it still has to say, until it has gone or its time is over."""
        assert self._helper is not None  # noqa: S101  asked for by whoever has one
        assert self._end_by is not None  # noqa: S101
        while (left := self._end_by - self._clock()) > 0:
            self._helper.connection.settimeout(left)
            try:
                message = self._helper.receive()
            except TimeoutError:
                return False
            if message is None:
                return True
            self._console.say(str(message["words"]))
        return False
