"""What the kernel takes to end so many processes: they are forked as ranks are, killed and reaped, and nothing else.

Run as ``python -m benchmarks.scale_floor COUNT MODULE…``; prints seconds.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import time

_SETTLE_SECONDS = 1.0


def floor(count: int) -> float:
    """From the first SIGKILL until the last of ``count`` processes is reaped."""
    children = []
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.setsid()
            while True:
                signal.pause()
        children.append(pid)
    time.sleep(_SETTLE_SECONDS)
    began = time.monotonic()
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    for pid in children:
        os.waitpid(pid, 0)
    return time.monotonic() - began


if __name__ == "__main__":
    for name in sys.argv[2:]:
        importlib.import_module(name)
    sys.stdout.write(f"{floor(int(sys.argv[1]))}\n")
