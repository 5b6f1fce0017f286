"""The command ``resilient``, also as ``python -m resilient``.

What it imports takes a second or more from a busy filesystem, and a job can be preempted in that second. So the signals
that announce it wait from the first line on, until the supervisor can take them.
"""

from __future__ import annotations

import gc
import importlib
import signal
import sys

from resilient.protocol import job_signals


def main() -> int:
    """Run one command and return its exit code."""
    if sys.argv[1:2] == ["train"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, job_signals.ANNOUNCING)
    gc.disable()  # an import makes next to no garbage, and to look for it takes an eighth of the time
    command_line = importlib.import_module("resilient.cli")
    gc.enable()
    return int(command_line.main())


if __name__ == "__main__":
    sys.exit(main())
