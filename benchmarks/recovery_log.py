"""The record of a training script: a line for each completed step, and for each stage on the way to the first one.

A line is one ``write`` to a file opened for appending, so it is there whole or not at all, and what a process wrote
before it was killed stays. No torch here: the benchmark reads what the script writes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Line:
    """``time`` is seconds since the epoch; a stage has step 0, a step has no stage and the loss of its batch."""

    time: float
    pid: int
    step: int
    stage: str = ""
    loss: str = ""


class StepLog:
    """The script's side."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._pid = os.getpid()

    def stage(self, name: str) -> None:
        self._write(f"stage {name}")

    def step(self, step: int, loss: float) -> None:
        self._write(f"step {step} {loss.hex()}")

    def _write(self, text: str) -> None:
        os.write(self._descriptor, f"{time.time():.6f} {self._pid} {text}\n".encode())


class StepReader:
    """The benchmark's side: follows a log that may not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = 0
        self.lines: list[Line] = []

    def poll(self) -> None:
        """Take in what was appended."""
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._position)
            data = stream.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        self.lines += [_parse(text) for text in whole.decode().splitlines()]

    def steps(self) -> list[Line]:
        return [line for line in self.lines if not line.stage]


def _parse(text: str) -> Line:
    moment, pid, kind, *rest = text.split()
    if kind == "stage":
        return Line(float(moment), int(pid), 0, stage=rest[0])
    return Line(float(moment), int(pid), int(rest[0]), loss=rest[1])


def step_times(lines: Iterable[Line]) -> list[float]:
    """Seconds between neighbouring steps of one process, without the first two of each, which are slower."""
    by_process: dict[int, list[float]] = {}
    for line in lines:
        by_process.setdefault(line.pid, []).append(line.time)
    return [
        after - before for times in by_process.values() for before, after in zip(times[2:], times[3:], strict=False)
    ]
