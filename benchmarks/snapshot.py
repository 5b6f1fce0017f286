"""What a snapshot costs: the stall of the training loop, the time until it is durable, the time to load it.

    python -m benchmarks.peers
    python -m benchmarks.snapshot --folder /path/on/the/disk/to/measure --json snapshot.json

Every contestant lives in a process of its own and holds the same state; the driver gives each its turn, round by round,
and only one of them does anything at a time. The physical limits have their turn like everybody else. Definitions,
method and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.peers import PEERS, ROOT
from benchmarks.snapshot_report import Figures, tables, verdicts
from benchmarks.snapshot_state import NAMES

_STATE_BYTES = {"gpt": 1_360_000_000, "tiny": 2_000_000}
_COPIES = {"ours": 6.5, "torch": 3.5, "process": 3.5, "torchsnapshot": 3.0, "dlrover": 3.5}  # of it, at the most
_SEAT_BYTES = 400_000_000  # of a process with torch, besides the state
# Waiting threads of OpenMP spin by default. When another process wants the core, a copy by two of them takes ten times
# as long, but not in a process with so many of them that it gives up spinning; so none spins.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "passive"}
_SPARE_BYTES = 2 << 30  # that are left to the system and the page cache


class SeatFailedError(RuntimeError):
    """A seat has gone, or never came up."""


class Seat:
    """A process with contestants, seen from the driver."""

    def __init__(self, name: str, python: str | Path, state: str, options: argparse.Namespace) -> None:
        self.name = name
        self._folder: Path = options.folder / f"{state}-{name}"
        arguments = ["--seat", name, "--state", state, "--threads", str(options.threads)]
        self._command = [str(python), "-m", "benchmarks.snapshot_seat", *arguments, "--folder", str(self._folder)]
        self._log: Path = options.folder / f"{state}-{name}.log"
        self.start()

    def start(self) -> None:
        """Start the process, which builds the state.

        :raises SeatFailedError: its environment does not work; the message is the first line of the reason.
        """
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=ROOT,
                env={**os.environ, **_ENVIRONMENT},
            )
        self.facts = self._answer()
        self.contestants: dict[str, bool] = self.facts.get("contestants", {})
        if problem := self.facts.get("error"):
            self.close()
            raise SeatFailedError(problem)

    def ask(self, contestant: str, do: str, *, check: bool) -> dict[str, Any]:
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        self._process.stdin.write(json.dumps({"contestant": contestant, "do": do, "check": check}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None  # noqa: S101  it was opened as a pipe
        line = self._process.stdout.readline()
        if not line:
            return {"error": f"the process ended with exit code {self._process.wait()}; see {self._log}"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """Let it end by itself, so that it leaves nothing behind."""
        assert self._process.stdin is not None  # noqa: S101  it was opened as a pipe
        self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)


class Benchmark:
    """All rounds over one state."""

    def __init__(self, state: str, options: argparse.Namespace, figures: Figures) -> None:
        self._state = state
        self._options = options
        self._figures = figures

    def measure(self, rounds: int) -> None:
        """Shift after shift. Ours, and with them the limits, are in every shift, and stay."""
        pythons = self._pythons()
        with ExitStack() as stack:
            planned = shifts(list(pythons)[1:], self._state)
            ours = self._start("ours", pythons.pop("ours"), stack)
            for shift in planned:
                print(f"{self._state}: limits and resilient beside {', '.join(shift)}", flush=True)
                with ExitStack() as leaving:
                    found = [self._start(name, pythons[name], leaving) for name in shift]
                    self._rounds([seat for seat in (ours, *found) if seat is not None], rounds)

    def _rounds(self, seats: list[Seat], rounds: int) -> None:
        for number in range(rounds + 1):
            first = number % len(seats)
            for seat in seats[first:] + seats[:first]:
                for contestant, asynchronous in list(seat.contestants.items()):
                    self._turn(seat, contestant, asynchronous=asynchronous, warm=number > 0)
            print(f"{self._state}: round {number} of {rounds}{'' if number else ' (thrown away)'}", flush=True)

    def _pythons(self) -> dict[str, str | Path]:
        """The interpreter of each seat; torch's own contestants run in our environment, for torch is in it."""
        pythons: dict[str, str | Path] = dict.fromkeys(("ours", "torch", "process"), sys.executable)
        for name, peer in PEERS.items() if self._options.peers else ():
            if problem := peer.problem():
                self._figures.problem(name, problem)
            else:
                pythons[name] = peer.python
        return pythons

    def _start(self, name: str, python: str | Path, stack: ExitStack) -> Seat | None:
        try:
            seat = Seat(name, python, self._state, self._options)
        except SeatFailedError as error:
            self._figures.problem(name, str(error))
            return None
        stack.callback(seat.close)
        self._figures.admit(name, seat.facts)
        return seat

    def _turn(self, seat: Seat, contestant: str, *, asynchronous: bool, warm: bool) -> None:
        """A save and its load; then a second save while a first is being written. What loads is checked once."""
        answer = seat.ask(contestant, "save", check=not warm)
        if problem := answer.get("error"):
            self._figures.problem(contestant, problem)
            del seat.contestants[contestant]
            return
        if warm:
            self._figures.add(contestant, answer["seconds"])
        if not asynchronous:
            return
        answer = seat.ask(contestant, "second", check=not warm)
        if problem := answer.get("error"):
            # It has lost its way; it is started anew, warmed up, and not asked for that again.
            self._figures.note(contestant, f"fails: {problem}")
            seat.close()
            seat.start()
            seat.contestants = dict.fromkeys(seat.contestants, False)
            seat.ask(contestant, "save", check=False)
            return
        self._figures.note(contestant, answer["note"])
        if warm:
            self._figures.add(contestant, answer["seconds"])


def shifts(names: Sequence[str], state: str) -> list[list[str]]:
    """As many seats at a time as there is memory for beside ours, in one shift if it is enough for all."""

    def needed(seats: Sequence[str]) -> float:
        return sum(_COPIES[name] * _STATE_BYTES[state] + _SEAT_BYTES for name in seats)

    free = psutil.virtual_memory().available - _SPARE_BYTES - needed(["ours"])
    found: list[list[str]] = [[]]
    for name in names:
        if needed([name]) > free:
            wanted = (needed(["ours", name]) + _SPARE_BYTES) / 2**30
            raise SystemExit(f"{wanted:.0f} GiB of free memory are needed: free some, or run with --states tiny")
        if needed([*found[-1], name]) > free:
            found.append([])
        found[-1].append(name)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    options.folder = options.folder.absolute()
    options.folder.mkdir(parents=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is stopped
    console, body = Console(width=160), {}
    machine = f"{len(os.sched_getaffinity(0))} cores, {options.threads} threads, Python {platform.python_version()}"
    try:
        for state in options.states:
            figures = Figures(state)
            Benchmark(state, options, figures).measure(options.rounds)
            title = f"{figures.size / 1e6:,.1f} MB in {figures.tensors:,} tensors, {options.rounds} rounds, {machine}"
            console.print(*tables(figures, title), *verdicts(figures), sep="\n")
            body[state] = {"title": title, **figures.as_json()}
    finally:
        shutil.rmtree(options.folder)
    if options.json:
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshot", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("runs/benchmark-snapshot"), help="a new folder to work in")
    parser.add_argument("--rounds", type=int, default=7, help="that are measured (default: %(default)s)")
    parser.add_argument("--states", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch, in each process")
    parser.add_argument(
        "--peers",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="measure torchsnapshot and DLRover too (default: yes, where python -m benchmarks.peers has been run)",
    )
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
