"""A seat: the process of one or more contestants, which does what the driver asks, one thing at a time.

    python -m benchmarks.snapshot_seat --seat torch --state gpt --folder F --threads 2

Requests and answers are one JSON object per line on stdin and stdout; what libraries print goes to stderr. Contestants
that keep no memory between two saves, or share it anyway, have a seat together. All build the state from the same seed.
Times are measured in here, so the line protocol is in none of them.
"""

from __future__ import annotations

import argparse
import importlib
import json
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.snapshot_contestant import Contestant
from benchmarks.snapshot_state import NAMES, State

SEATS = {
    "ours": "benchmarks.snapshot_ours",
    "torch": "benchmarks.snapshot_peers_torch",
    "process": "benchmarks.snapshot_peers_process",
    "torchsnapshot": "benchmarks.snapshot_peers_torchsnapshot",
    "dlrover": "benchmarks.snapshot_peers_dlrover",
}


def serve(contestants: dict[str, Contestant], answer: Callable[[Any], None]) -> None:
    """Do what is asked until stdin ends."""
    for line in sys.stdin:
        request = json.loads(line)
        contestant = contestants[request["contestant"]]
        try:
            if request["do"] == "save":
                answer({"seconds": contestant.save(check=request["check"])})
            else:
                seconds, note = contestant.second(check=request["check"])
                answer({"seconds": seconds, "note": note})
        except Exception as error:  # noqa: BLE001  it is the driver that goes on without this contestant
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
    for contestant in contestants.values():
        contestant.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seat", choices=SEATS, required=True)
    parser.add_argument("--state", choices=NAMES, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    channel = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print

    def answer(body: Any) -> None:
        channel.write(json.dumps(body) + "\n")
        channel.flush()

    warnings.filterwarnings("ignore")
    logging.disable(logging.INFO)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # if memory runs out, it is not for others to go
    torch.set_num_threads(options.threads)
    options.folder.mkdir(parents=True, exist_ok=True)
    try:
        module = importlib.import_module(SEATS[options.seat])
        state = State.build(options.state)
        made: list[Contestant] = module.contestants(state, options.folder)
    except Exception as error:  # noqa: BLE001  an environment that does not work is a result
        traceback.print_exc()
        answer({"error": f"{type(error).__name__}: {error}".splitlines()[0]})
        return
    answer(
        {
            "contestants": {contestant.name: contestant.asynchronous for contestant in made},
            "fingerprint": state.fingerprint(),
            "bytes": state.size,
            "tensors": len(state.tensors()),
            "torch": torch.__version__,
        }
    )
    serve({contestant.name: contestant for contestant in made}, answer)


if __name__ == "__main__":
    main()
