"""Who takes part in the goodput benchmark: how each is started, and where its checkpoints are."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.goodput_options import Options
from benchmarks.peers import PEERS
from benchmarks.recovery_launch import ROOT
from resilient.drill.storage import CorruptRestore
from resilient.drill.target import Target
from resilient.errors import FaultNotInjected
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog

RESILIENT = "resilient"
_RUN = "goodput"
_LOOP = ["sh", "-c", 'until "$@"; do :; done', "loop"]
"""What users of Lightning and the Trainer have around their script: it is started again until it succeeds."""


@dataclass(frozen=True)
class Contestant:
    """:param command: what to start, for the script's options and the seconds after which a silence is a hang.
    :param peer: the environment that it needs, by its key in :data:`benchmarks.peers.PEERS`; empty for ours.
    """

    name: str
    command: Callable[[Options, float], list[str]]
    peer: str = ""

    def missing(self) -> str | None:
        """Why it cannot be measured, or None."""
        return PEERS[self.peer].problem() if self.peer else None


def _script(name: str) -> str:
    return str(ROOT / "benchmarks" / f"goodput_{name}.py")


def run_paths(options: Options) -> RunPaths:
    """Where resilient keeps the run."""
    return RunPaths.of(options.folder / "runs", _RUN)


def _resilient(options: Options, hang_seconds: float) -> list[str]:
    """Defaults, but for how often it saves, the limit of a hang, and the preset that takes a diverged run back."""
    configuration = {
        "defaults": [{"divergence": "default"}, "_self_"],
        "worker": {"script": _script("train"), "args": options.arguments()},
        "run": {"id": _RUN, "dir": str(options.folder / "runs")},
        "snapshot": {"every_steps": options.save_every},
        "retention": {"last": options.keep},
        "hang": {"min_seconds": hang_seconds},
    }
    conf = options.folder / "goodput.yaml"
    conf.write_text(json.dumps(configuration))  # JSON is YAML
    return [sys.executable, "-m", "resilient.cli", "train", f"conf={conf}"]


def _torchrun(options: Options, _: float) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    return [*launcher, "--max-restarts=1000", _script("train"), *options.arguments()]


def _ft_launcher(options: Options, hang_seconds: float) -> list[str]:
    launcher = [str(PEERS["nvrx"].folder / "bin" / "ft_launcher"), "--nproc-per-node=1", "--max-restarts=1000"]
    rendezvous = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    limits = [f"--ft-rank-heartbeat-timeout={hang_seconds}", "--ft-workload-check-interval=0.1"]
    return [*launcher, *rendezvous, *limits, _script("train"), *options.arguments()]


def _looped(peer: str, script: str) -> Callable[[Options, float], list[str]]:
    def command(options: Options, _: float) -> list[str]:
        return [*_LOOP, str(PEERS[peer].python), _script(script), *options.arguments()]

    return command


CONTESTANTS = {
    contestant.name: contestant
    for contestant in (
        Contestant(RESILIENT, _resilient),
        Contestant("torchrun", _torchrun),
        Contestant("ft_launcher", _ft_launcher, "nvrx"),
        Contestant("lightning", _looped("lightning", "lightning"), "lightning"),
        Contestant("trainer", _looped("transformers", "trainer"), "transformers"),
    )
}


@dataclass(frozen=True)
class Checkpoints:
    """What a peer's script has saved: files or directories with the step at the end of their names."""

    folder: Path

    def newest(self) -> Path | None:
        numbered = []
        for path in self.folder.glob("*"):
            number = re.search(r"(\d+)(\.\w+)?$", path.name)
            if number and not path.is_symlink():
                numbered.append((int(number[1]), path))
        return max(numbered)[1] if numbered else None

    def truncate(self) -> str:
        """Cut the largest file of the newest one in half.

        :raises FaultNotInjected: there is none.
        """
        newest = self.newest()
        if newest is None:
            raise FaultNotInjected(f"there is no checkpoint in {self.folder}")
        return cut(max([newest, *newest.glob("*")] if newest.is_file() else newest.glob("*"), key=_size))

    def remove(self) -> str:
        """What an operator does with a newest checkpoint that cannot be loaded."""
        newest = self.newest()
        if newest is None:
            return "found no checkpoint to remove"
        shutil.rmtree(newest) if newest.is_dir() else newest.unlink()
        last, older = self.folder / "last.ckpt", self.newest()
        if last.is_symlink():  # Lightning's, to the newest
            last.unlink()
            if older is not None:
                last.symlink_to(older.name)
        return f"removed {newest.name}"


@dataclass(frozen=True)
class TruncatedRestore(CorruptRestore):
    """As is done to the others' checkpoints: half of the newest snapshot is missing, and what is in memory is lost, so
    that resilient has to look at it.
    """

    def damage(self, target: Target) -> str:
        newest = target.paths.snapshot(catalog.committed_steps(target.paths.snapshots)[-1])
        return cut(max(newest.glob("*"), key=_size))


def cut(file: Path) -> str:
    """Leave the first half of a file."""
    with file.open("r+b") as stream:
        stream.truncate(_size(file) // 2)
    return f"half of {file.parent.name}/{file.name} is missing"


def _size(path: Path) -> int:
    return path.stat().st_size


def named(names: Sequence[str]) -> list[Contestant]:
    return [CONTESTANTS[name] for name in names]
