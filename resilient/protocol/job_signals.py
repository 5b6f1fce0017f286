"""Signals that come to every process of a job at once, and are meant for its supervisor alone.

A batch system announces the end of a job by SIGTERM, or by SIGUSR1 or SIGUSR2 where it was asked to, and the process
that happens to be the last to save something must not be the first to die of it.
"""

from __future__ import annotations

import signal

ANNOUNCING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_WHOLE_JOB = (*ANNOUNCING, signal.SIGINT)


def hold_back() -> set[signal.Signals]:
    """Have them wait, in this process and in those that it starts; returns the mask there was."""
    return {signal.Signals(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, _WHOLE_JOB)}


def ignore() -> None:
    """In a helper of the supervisor: it ends with the supervisor, and not before."""
    for number in _WHOLE_JOB:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _WHOLE_JOB)


def as_usual() -> None:
    """In a process forked from such a helper whose program knows nothing of us: they do what they always do."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_DFL)
