"""The floor below which no relaunch can get: fork a process that has everything imported and built, and do one step.

Prints a JSON list with one object per fork: seconds from just before the fork to the child's first line (``fork``), to
the end of its first step (``first_step``), and the time of its tenth step alone (``step``).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time

from benchmarks.recovery_model import Training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()

    training = Training.build(seed=0, workers=0, threads=options.threads)
    gc.collect()
    gc.freeze()
    print(json.dumps([_fork_and_step(training) for _ in range(options.runs)]))


def _fork_and_step(training: Training) -> dict[str, float]:
    ours, theirs = os.pipe()
    began = time.time()
    pid = os.fork()
    if pid == 0:
        os.write(theirs, json.dumps(_child(training, began)).encode())
        os._exit(0)
    os.close(theirs)
    with os.fdopen(ours) as stream:
        result: dict[str, float] = json.load(stream)
    os.waitpid(pid, 0)
    return result


def _child(training: Training, began: float) -> dict[str, float]:
    forked = time.time()
    moments = []
    batches = iter(training.loader)
    for _ in range(10):
        training.step(*next(batches))
        moments.append(time.time())
    return {"fork": forked - began, "first_step": moments[0] - began, "step": moments[-1] - moments[-2]}


if __name__ == "__main__":
    main()
