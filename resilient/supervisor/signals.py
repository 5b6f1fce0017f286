"""Signals of the supervisor: handlers only enqueue, the loop dispatches."""

from __future__ import annotations

import signal
import socket
from collections import deque
from contextlib import suppress
from types import FrameType

from resilient.protocol import job_signals

WATCHED = (*job_signals.ANNOUNCING, signal.SIGINT, signal.SIGHUP)


class SignalQueue:
    """Received signals in order, and a file descriptor that becomes readable with each."""

    def __init__(self) -> None:
        self._received: deque[signal.Signals] = deque()
        self._wake, self._wake_in = socket.socketpair()
        self._wake.setblocking(False)
        self._wake_in.setblocking(False)
        # One that is ignored is to stay so: `nohup` wants SIGHUP ignored, a shell SIGINT in what it runs in the
        # background.
        watched = [number for number in WATCHED if signal.getsignal(number) is not signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._enqueue) for number in watched}
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, job_signals.ANNOUNCING)  # one may have been waiting for us

    def _enqueue(self, number: int, _frame: FrameType | None) -> None:
        self._received.append(signal.Signals(number))

    def fileno(self) -> int:
        return self._wake.fileno()

    def take(self) -> list[signal.Signals]:
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        taken = []
        while self._received:
            taken.append(self._received.popleft())
        return taken

    def pending(self) -> bool:
        """Whether :meth:`take` would have something."""
        return bool(self._received)

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._wake.close()
        self._wake_in.close()
