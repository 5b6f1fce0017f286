"""How a worker answers when it is asked where it is, whatever it is doing.

The supervisor sends a signal; the answer is written by :mod:`faulthandler` in C, without the interpreter's lock, to an
anonymous file in the worker's own memory, where the supervisor reads it through ``/proc``: a disk that does not answer,
which may be what the worker hangs on, is not needed. Every process that the worker forks has a file of its own.

The signal is a real-time one, for all others mean something to somebody: SIGUSR1 and SIGUSR2 belong to the user and
to schedulers, SIGABRT to NCCL's watchdog. The real-time ones are given out from both ends, 34 upwards (timers) and 64
downwards (Valgrind); this one is in between.
"""

from __future__ import annotations

import signal

DUMP_SIGNAL = signal.SIGRTMIN + 7
MEMORY_FILE = "resilient-stacks"
