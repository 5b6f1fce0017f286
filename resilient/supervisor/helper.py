"""A helper process of the supervisor, at the other end of a socket pair. It ends when its end of the pair reads as
closed.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from resilient.protocol import job_signals, wire
from resilient.protocol.start import python_command
from resilient.supervisor.round_logs import set_aside_if_large

_LAST_WAIT_SECONDS = 5.0


class Helper:
    """Starts the module as ``module FD LOCK arguments…`` and exchanges messages with it."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        lock: int | None,
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start it.

        :param lock: descriptor of the run's lock, which the helper and all its children keep locked while they live;
            None where nobody need wait for them.
        """
        self.log = log
        set_aside_if_large(log)
        self._log_start = log.stat().st_size if log.exists() else 0
        self.connection, theirs = wire.socket_pair()
        with log.open("ab") as output, _signals_held_back():
            self._process = subprocess.Popen(
                python_command(module, str(theirs.fileno()), str(-1 if lock is None else lock), *arguments),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(theirs.fileno(),) if lock is None else (theirs.fileno(), lock),
                start_new_session=True,  # the terminal's Ctrl-C is for the supervisor to answer
                env={**os.environ, **(environment or {})},
            )
        theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: wire.Message) -> bool:
        """Whether the helper was still there to take the message."""
        try:
            wire.send(self.connection, message)
        except (BrokenPipeError, ConnectionResetError):
            return False
        return True

    def receive(self) -> wire.Message | None:
        return wire.receive(self.connection)

    def last_words(self, limit: int = 2000) -> str:
        """The end of what this helper, and none before it, wrote to its log."""
        with suppress(OSError), self.log.open("rb") as stream:
            stream.seek(max(self._log_start, self.log.stat().st_size - limit))
            return stream.read().decode(errors="replace").strip()
        return ""

    def kill(self) -> None:
        """SIGKILL it; its end of the connection reads as closed."""
        self._process.kill()

    def close(self, timeout: float = 10.0) -> None:
        """Let it end: close our end, wait for ``timeout`` seconds, then kill it.

        A process that waits for a disk that does not answer cannot be killed; it is left to end when it can, and keeps
        the run locked until then.
        """
        self.connection.close()
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(min(timeout, _LAST_WAIT_SECONDS))


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A child inherits the mask: until it has said what SIGTERM means to it, one sent to the whole job waits."""
    before = job_signals.hold_back()
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
