"""Several launchers on this machine, each taking itself for one of so many nodes.

    python -m benchmarks.recovery_nodes 2 COMMAND …     with {node} in the command for the node's number

They are sent SIGTERM together, and the first exit code that is not 0 is ours.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str]) -> int:
    count, *command = arguments
    nodes = [
        subprocess.Popen(
            [part.replace("{node}", str(number)) for part in command],
            env={**os.environ, "RESILIENT_NODE": f"node{number}"},
        )
        for number in range(int(count))
    ]

    def stop(*_: object) -> None:
        for node in nodes:
            node.send_signal(signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    codes = [node.wait() for node in nodes]
    return next((code for code in codes if code), 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
