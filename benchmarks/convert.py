"""What a conversion costs: the memory it takes beyond a process with torch, and its time, for each cell of the matrix.

    python -m benchmarks.convert --folder /path/on/a/disk --gigabytes 1 4 --json convert.json

A checkpoint of a model with its AdamW state is made by ``torch.save``, once for each size; what differs between the
sizes is how many tensors there are, not how large they are. Each conversion runs in a process of its own, with the page
cache dropped before. *Peak* is the most memory that was resident at one time (``VmHWM``, mapped files included) less
that of the same process with torch imported and a checkpoint of one number converted. What is written is synced, read
back and compared, and both are in the seconds; the peers do neither.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.peers import ROOT

NAMES = {"torch": "state.pt", "safetensors": "state.safetensors", "dcp": "dcp", "resilient": "snapshot", "hf": "hf"}
_PEERS = {
    ("torch", "safetensors"): "torch.load, save_file",
    ("torch", "dcp"): "torch_save_to_dcp",
    ("dcp", "torch"): "dcp_to_torch_save",
}
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
    done = subprocess.run(command, cwd=ROOT, env=os.environ, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


class Benchmark:
    """All cells over one size."""

    def __init__(self, folder: Path, gigabytes: float) -> None:
        self._folder = folder
        self._folder.mkdir(parents=True)
        self._gigabytes = gigabytes

    def measure(self, *, peers: bool) -> list[Figure]:
        base, first = self._base(), self._folder / NAMES["torch"]
        made = _cell("make", first, str(self._gigabytes))
        figures: list[Figure] = []
        for source, name in NAMES.items():
            if source == "hf":  # which has the model alone
                continue
            if source != "torch":
                figures.append(self._figure("resilient", ("torch", source), self._folder / name, made, base))
            for target in NAMES:
                if (source, target) not in {("torch", other) for other in NAMES if other not in {"torch", "hf"}}:
                    figures.append(self._figure("resilient", (source, target), self._again(target), made, base))
                    _remove(self._again(target))
                if peers and (source, target) in _PEERS:
                    who = _PEERS[source, target]
                    figures.append(self._figure(who, (source, target), self._again(target), made, base))
                    _remove(self._again(target))
            if source != "torch":
                _remove(self._folder / name)
        _remove(first)
        return figures

    def _again(self, target: str) -> Path:
        return self._folder / f"again-{NAMES[target]}"

    def _base(self) -> int:
        """The peak of a process that converts next to nothing."""
        small = self._folder / "small.pt"
        _cell("make", small, "0")
        peak = int(_cell("resilient", small, self._folder / "small.safetensors", "safetensors")["peak"])
        for path in (small, self._folder / "small.safetensors"):
            _remove(path)
        return peak

    def _figure(self, who: str, cell: tuple[str, str], path: Path, made: dict[str, Any], base: int) -> Figure:
        source, target = cell
        found = _cell(who, self._folder / NAMES[source], path, target)
        peak = max(found["peak"] - base, 0)
        figure = Figure(source, target, who, made["state"], made["largest"], found["seconds"], peak)
        print(f"{who}: {source} → {target}: {figure.seconds:.1f} s, {figure.peak / 1e6:.0f} MB", flush=True)
        return figure


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def _table(figures: list[Figure]) -> Table:
    state, largest = figures[0].state, figures[0].largest
    table = Table(title=f"{state / 1e9:.2f} GB, of which the largest tensor has {largest / 1e6:.0f} MB")
    for column in ("from", "to", "by", "seconds", "MB/s", "peak MB", "largest tensors"):
        table.add_column(column, justify="left" if column in {"from", "to", "by"} else "right")
    for figure in figures:
        rate = figure.state / figure.seconds / 1e6
        numbers = [f"{figure.seconds:.1f}", f"{rate:.0f}", f"{figure.peak / 1e6:.0f}", f"{figure.peak / largest:.2f}"]
        table.add_row(figure.source, figure.target, figure.who, *numbers)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="on the disk to use; must not exist")
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--no-peers", dest="peers", action="store_false", help="measure resilient alone")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    console, everything = Console(), list[Figure]()
    try:
        for gigabytes in options.gigabytes:
            figures = Benchmark(options.folder / f"{gigabytes:g}", gigabytes).measure(peers=options.peers)
            console.print(_table(figures))
            everything += figures
            shutil.rmtree(options.folder / f"{gigabytes:g}")
    finally:
        shutil.rmtree(options.folder, ignore_errors=True)
    ours = [figure for figure in everything if figure.who == "resilient"]
    wrong = [figure for figure in ours if not figure.bounded]
    for figure in wrong:
        console.print(f"FAILED: {figure.source} → {figure.target} took {figure.peak} bytes")
    if not wrong:
        most = max(figure.peak for figure in ours)
        console.print(f"bounded: at most {most / 1e6:.0f} MB in {len(ours)} conversions, whatever the size")
    if options.json is not None:
        about = {"python": platform.python_version(), "cpus": os.cpu_count()}
        options.json.write_text(json.dumps({**about, "figures": [asdict(figure) for figure in everything]}, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
