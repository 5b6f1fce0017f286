"""What a conversion costs: the memory it takes beyond a process with torch, and its time, for the cells of the matrix.

    python -m benchmarks.convert --folder /path/on/a/disk --gigabytes 1 4 --json convert.json

A checkpoint of a model with its AdamW state is made by ``torch.save``, once for each size; what differs between the
sizes is how many tensors there are, not how large they are. Of the first size each cell of the matrix is measured, of
the others each format into torch's and back, and of the first also a checkpoint that the real DeepSpeed has written
from two ranks of ZeRO-2. Cells that a peer has too are measured in several rounds, in turn, and medians are shown.

Each conversion runs in a process of its own, with the page cache dropped before. *Peak* is the most memory that was
resident at one time (``VmHWM``, mapped files included) less that of the same process with torch imported and a
checkpoint of one number converted. What resilient writes is synced, read back and compared, and all of that is in its
seconds; the peers do none of it. The most that it may take is a few times the largest tensor and a constant; the
benchmark fails where that is passed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers import ROOT

NAMES = {"torch": "state.pt", "safetensors": "state.safetensors", "dcp": "dcp", "resilient": "snapshot", "hf": "hf"}
Cell = tuple[str, str]
_PEERS: dict[Cell, str] = {
    ("torch", "safetensors"): "torch.load, save_file",
    ("safetensors", "torch"): "load_file, torch.save",
    ("torch", "dcp"): "torch_save_to_dcp",
    ("dcp", "torch"): "dcp_to_torch_save",
    ("zero", "torch"): "zero_to_fp32",
}
_MATRIX: list[Cell] = [
    (source, target) for source in NAMES if source != "hf" for target in NAMES
]  # hf: the model alone
_THERE_AND_BACK: list[Cell] = [cell for cell in _MATRIX if cell.count("torch") == 1]
_ZERO: list[Cell] = [("zero", "torch")]
_NAMES = {**NAMES, "zero": "zero"}
_ALLOWANCE = 160 << 20
"""Bytes that a conversion may take beside tensors: a chunk of a snapshot that is verified, and one that is written."""

_TENSORS = 2
"""Tensors that it may hold at one time: one that is being read, and one in another order or type."""


@dataclass(frozen=True)
class Figure:
    """:ivar who: ``resilient``, or the peer.
    :ivar state: bytes of all tensors of the source.
    :ivar largest: bytes of the largest.
    """

    source: str
    target: str
    who: str
    state: int
    largest: int
    seconds: float
    peak: int

    @property
    def bounded(self) -> bool:
        return self.peak <= _TENSORS * self.largest + _ALLOWANCE


def _cell(do: str, *arguments: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.convert_cell", do, *map(str, arguments)]
    with tempfile.TemporaryFile("w+") as errors:
        done = subprocess.run(command, cwd=ROOT, check=False, stdout=subprocess.PIPE, stderr=errors, text=True)
        errors.seek(0)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{errors.read()[-4000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Benchmark:
    """Cells over one size. Whoever measures ends with the folder as it was."""

    def __init__(self, folder: Path, gigabytes: float, *, rounds: int, peers: bool) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._gigabytes = gigabytes
        self._rounds = rounds
        self._peers = peers
        self._base = self._small()

    def measure(self, cells: Sequence[Cell], made_by: str = "make") -> list[Figure]:
        """:param made_by: what makes the source of the first cell, from which come all others."""
        try:
            made = _cell(made_by, self._folder / _NAMES[cells[0][0]], str(self._gigabytes))
            return [figure for cell in cells for figure in self._contest(cell, cells, made)]
        finally:
            for path in list(self._folder.iterdir()):
                _remove(path)

    def _contest(self, cell: Cell, cells: Sequence[Cell], made: dict[str, Any]) -> Iterator[Figure]:
        contestants = ["resilient"] + ([_PEERS[cell]] if self._peers and cell in _PEERS else [])
        kept = self._folder / _NAMES[cell[1]]
        for _ in range(self._rounds if len(contestants) > 1 else 1):
            for who in contestants:
                target = self._folder / f"again-{_NAMES[cell[1]]}"
                yield self._figure(who, cell, target, made)
                if who == "resilient" and not kept.exists() and any(source == cell[1] for source, _ in cells):
                    target.rename(kept)
                else:
                    _remove(target)

    def _small(self) -> int:
        """The peak of a process that converts next to nothing."""
        small = self._folder / "small.pt"
        _cell("make", small, "0")
        peak = int(_cell("resilient", small, self._folder / "small.safetensors", "safetensors", "")["peak"])
        for path in (small, self._folder / "small.safetensors"):
            _remove(path)
        return peak

    def _figure(self, who: str, cell: Cell, path: Path, made: dict[str, Any]) -> Figure:
        source, target = cell
        only = "model" if source == "zero" else ""  # its peer has nothing else
        found = _cell(who, self._folder / _NAMES[source], path, target, only)
        peak = max(found["peak"] - self._base, 0)
        figure = Figure(source, target, who, made["state"], made["largest"], found["seconds"], peak)
        print(f"{who}: {source} → {target}: {figure.seconds:.1f} s, {figure.peak / 1e6:.0f} MB", flush=True)
        return figure


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _table(figures: list[Figure]) -> Table:
    state, largest = figures[0].state, figures[0].largest
    table = Table(title=f"{state / 1e9:.2f} GB, of which the largest tensor has {largest / 1e6:.0f} MB; medians")
    for column in ("from", "to", "by", "rounds", "seconds", "MB/s", "peak MB", "largest tensors"):
        table.add_column(column, justify="left" if column in {"from", "to", "by"} else "right")
    for source, target, who in dict.fromkeys((each.source, each.target, each.who) for each in figures):
        rounds = [each for each in figures if (each.source, each.target, each.who) == (source, target, who)]
        seconds, peak = (statistics.median(getattr(each, name) for each in rounds) for name in ("seconds", "peak"))
        numbers = [f"{seconds:.1f}", f"{state / seconds / 1e6:.0f}", f"{peak / 1e6:.0f}", f"{peak / largest:.2f}"]
        table.add_row(source, target, who, str(len(rounds)), *numbers)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to use; must not exist")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--rounds", type=int, default=3, help="of the cells that a peer has too")
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure resilient alone, in one round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, everything = Console(), list[Figure]()
    try:
        for number, gigabytes in enumerate(options.gigabytes):
            folder = options.folder / f"{gigabytes:g}"
            benchmark = Benchmark(folder, gigabytes, rounds=options.rounds, peers=options.peers)
            found = [benchmark.measure(_THERE_AND_BACK if number else _MATRIX)]
            if not number:
                found.append(benchmark.measure(_ZERO, "make_zero"))
            for figures in found:
                console.print(_table(figures))
                everything += figures
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    if options.json is not None:
        about = {"python": platform.python_version(), "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({**about, "figures": [asdict(figure) for figure in everything]}, indent=1))
    return _verdict(console, [figure for figure in everything if figure.who == "resilient"])


def _verdict(console: Console, ours: list[Figure]) -> int:
    wrong = [figure for figure in ours if not figure.bounded]
    for figure in wrong:
        console.print(f"FAILED: {figure.source} → {figure.target} took {figure.peak} bytes")
    if not wrong:
        most = max(figure.peak for figure in ours)
        console.print(f"bounded: at most {most / 1e6:.0f} MB in {len(ours)} conversions, whatever the size")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
