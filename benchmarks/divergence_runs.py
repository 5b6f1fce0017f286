"""What divergence costs a run in the end: the same fault with the response on, and with nobody looking.

    python -m benchmarks.divergence_runs --json divergence_runs.json

Each seed trains the example's model once without a fault, and then once for each fault and each arm, interleaved: whole
supervised runs of ``resilient train``. Definitions and caveats stand in ``benchmarks/README.md``.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.divergence_score import percentile
from benchmarks.recovery_report import machine
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.paths import RunPaths
from resilient.supervisor.journal import read_journal

ROOT = Path(__file__).resolve().parent.parent
CLEAN = "clean"
LENGTHS = {
    "corrupt batches": 40,
    "constant targets": 40,
    "infinite weight": 1,
    "learning rate x 100": 20,
    "bit flip in a weight": 1,
    "slow drift": 250,
}
ARMS = {"rolled back": "default", "nothing done": "watch"}


@dataclass(frozen=True)
class Ended:
    """How one run ended.

    :param val_loss: of the final weights, nats per byte; nan where the run did not finish.
    :param seconds: wall time of the whole run.
    :param found: steps from the first touched by the fault to the first alarm; None for no alarm.
    :param rollbacks: how often it was taken back, and how many steps that discarded altogether.
    """

    kind: str
    arm: str
    seed: int
    exit_code: int
    val_loss: float
    seconds: float
    found: int | None
    rollbacks: int
    discarded: int


@dataclass(frozen=True)
class Job:
    kind: str
    arm: str
    seed: int
    at: int
    steps: int

    def configuration(self, folder: Path, order: Path) -> dict[str, Any]:
        fault = "" if self.kind == CLEAN else self.kind
        return {
            "defaults": [{"divergence": ARMS.get(self.arm, "watch")}, "_self_"],
            "worker": {"script": str(ROOT / "benchmarks" / "divergence_train.py"), "env": {"PYTHONPATH": str(ROOT)}},
            "run": {"dir": str(folder / "runs"), "id": "run"},
            "snapshot": {"every_steps": 25},
            "retention": {"last": 4, "every_steps": 100},
            "train": {
                "steps": self.steps,
                "seed": self.seed,
                "fault": fault,
                "at": self.at,
                "length": LENGTHS.get(self.kind, 0),
                "order": str(order),
                "folder": str(folder),
            },
        }

    def run(self, order: Path) -> Ended:
        folder = Path(tempfile.mkdtemp(prefix="divergence-"))
        try:
            (folder / "job.yaml").write_text(yaml.safe_dump(self.configuration(folder, order)))
            began = time.monotonic()
            command = [sys.executable, "-m", "resilient.cli", "train", f"conf={folder}/job.yaml"]
            with (folder / "log").open("w") as log:
                code = subprocess.run(command, stdout=log, stderr=log, check=False).returncode
            return self._ended(folder, code, time.monotonic() - began)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _ended(self, folder: Path, code: int, seconds: float) -> Ended:
        final, paths = folder / "final.json", RunPaths.of(folder / "runs", "run")
        val_loss = json.loads(final.read_text())["val_loss"] if final.exists() else math.nan
        rollbacks = read_lineage(paths).rollbacks
        discarded = sum(rollback.reached - rollback.target for rollback in rollbacks)
        alarms = [step - self.at for step in _alarms(paths) if step >= self.at]
        found = min(alarms, default=None)
        return Ended(self.kind, self.arm, self.seed, code, val_loss, seconds, found, len(rollbacks), discarded)


def _alarms(paths: RunPaths) -> Iterator[int]:
    """The steps of alarms and divergences in the journal."""
    for entry in read_journal(paths.journal):
        if entry.get("name") == "ReportFinding":
            yield int(entry["data"]["finding"]["alarm_step"])


def measure(seeds: Sequence[int], kinds: Sequence[str], steps: int) -> Iterator[Ended]:
    """All runs, those of one seed after each other, the arms of a fault side by side."""
    with tempfile.TemporaryDirectory(prefix="divergence-order-") as place:
        for seed in seeds:
            order = Path(place) / f"{seed}.json"
            at = int(steps * 0.57) + 7 * (seed % 5)
            jobs = [Job(CLEAN, "clean", seed, at, steps)]
            jobs += [Job(kind, arm, seed, at, steps) for kind in kinds for arm in ARMS]
            for job in jobs:
                ended = job.run(order)
                print(
                    f"seed {seed} {job.kind}, {job.arm}: exit {ended.exit_code}, loss {ended.val_loss:.4f}, "
                    f"{ended.rollbacks} rollbacks, {ended.seconds:.1f} s",
                    file=sys.stderr,
                    flush=True,
                )
                yield ended


def report(ended: Sequence[Ended]) -> Iterator[str]:
    """One line for each fault: final losses relative to the clean run of the same seed, medians (worst)."""
    clean = {item.seed: item for item in ended if item.kind == CLEAN}
    for kind in dict.fromkeys(item.kind for item in ended if item.kind != CLEAN):
        parts = []
        for arm in ARMS:
            own = [item for item in ended if item.kind == kind and item.arm == arm]
            excess = [_excess(item, clean) for item in own]
            finished = [value for value in excess if math.isfinite(value)]
            worst = f"{100 * max(finished):+.1f} %" if finished else "-"
            text = f"{arm}: loss {_percent(finished)} (worst {worst}), finite in {len(finished)} of {len(own)}"
            if arm == "rolled back":
                text += f"; {_details(own, clean)}"
            parts.append(text)
        yield f"{kind:<22} " + "\n                       ".join(parts)


def _excess(item: Ended, clean: Mapping[int, Ended]) -> float:
    return item.val_loss / clean[item.seed].val_loss - 1


def _percent(values: Sequence[float]) -> str:
    return f"{100 * statistics.median(values):+.2f} %" if values else "none"


def _details(own: Sequence[Ended], clean: Mapping[int, Ended]) -> str:
    found = [item.found for item in own if item.found is not None]
    rollbacks, discarded = (statistics.median(getattr(item, key) for item in own) for key in ("rollbacks", "discarded"))
    slower = statistics.median(item.seconds - clean[item.seed].seconds for item in own)
    return (
        f"alarm after {percentile(found, 0.5):.0f} steps (p95 {percentile(found, 0.95):.0f}), "
        f"missed {len(own) - len(found)}; rollbacks {rollbacks:.0f}, steps discarded {discarded:.0f}, {slower:+.1f} s"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    surroundings = machine()
    print("; ".join(f"{name}: {value}" for name, value in surroundings.items()), flush=True)
    ended = list(measure(range(options.seeds), options.kinds, options.steps))
    lines = list(report(ended))
    print(*lines, sep="\n", flush=True)
    if options.json:
        body = {"machine": surroundings, "runs": [asdict(item) for item in ended], "report": lines}
        options.json.write_text(json.dumps(body, indent=1, ensure_ascii=False) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.divergence_runs", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--seeds", type=int, default=5, help="of each fault (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=700, help="of each run (default: %(default)s)")
    parser.add_argument("--kinds", nargs="*", default=list(LENGTHS), choices=list(LENGTHS), help="faults")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
