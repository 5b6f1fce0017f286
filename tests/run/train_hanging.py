"""A small model that hangs in another way in every round, until there is no way left."""

from __future__ import annotations

import importlib
import os
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset
from uncompiled import put_the_compiler_off  # type: ignore[import-not-found]  # beside this script

import resilient


@dataclass(frozen=True)
class Settings:
    steps: int = 40
    ways: str = ""  # one for each round, separated by commas


def a_lock_that_is_taken_twice() -> None:
    lock = threading.Lock()
    with lock:
        lock.acquire()


def a_loop_in_c_that_keeps_the_interpreter() -> None:
    re.match("(a+)+$", "a" * 60 + "b")


def an_evaluation_that_does_not_end(run: Any) -> None:
    with run.phase("eval"):
        threading.Event().wait()


def a_phase_of_the_users_own_that_does_not_end(run: Any) -> None:
    with run.phase("écriture"):
        threading.Event().wait()


def only_threads_that_live_on() -> None:
    def work() -> None:
        while True:
            time.sleep(0.001)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    threads[0].join()


class Samples(Dataset[torch.Tensor]):
    def __init__(self, *, stuck: bool) -> None:
        self.stuck = stuck

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.stuck and index == 21:
            self.a_file_that_never_comes()
        return torch.full((4,), float(index))

    def a_file_that_never_comes(self) -> None:
        time.sleep(600)


WAYS: dict[str, Callable[[Any], object]] = {
    "lock": lambda run: a_lock_that_is_taken_twice(),
    "c": lambda run: a_loop_in_c_that_keeps_the_interpreter(),
    "eval": an_evaluation_that_does_not_end,
    "named": a_phase_of_the_users_own_that_does_not_end,
    "threads": lambda run: only_threads_that_live_on(),
    "stop": lambda run: os.kill(os.getpid(), signal.SIGSTOP),
}


def main() -> None:
    put_the_compiler_off()
    settings = resilient.config(Settings)
    number = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    ways = settings.ways.split(",")
    way = ways[number] if number < len(ways) else ""
    if way == "import":
        importlib.import_module("a_module_that_never_comes")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    model = torch.nn.Linear(4, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loader = DataLoader(Samples(stuck=way == "data"), num_workers=1 if "data" in ways else 0)
    run = resilient.attach(model=model, optimizer=optimizer, data=loader)
    for step, batch in run.steps(total=settings.steps):
        loss = model(batch).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.report(loss=loss)
        time.sleep(0.005)
        if step == 5 * (number + 1) and way in WAYS:
            WAYS[way](run)


if __name__ == "__main__":
    main()
