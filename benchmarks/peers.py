"""The environments of the peers that torch does not bring: one virtual environment each, below ``.venv-peers``.

    python -m benchmarks.peers            make those that are not there
    python -m benchmarks.peers --list     say which are there

None of this is a dependency of resilient. On a machine without an NVIDIA driver they get the torch of
``constraints/cpu.txt``, so that all contestants run with the same one.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import venv
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FOLDER = ROOT / ".venv-peers"


@dataclass(frozen=True)
class Peer:
    """A package with an environment of its own.

    :param requirements: what to install; also what it imports and does not declare.
    :param probe: imports what the benchmark uses.
    """

    name: str
    requirements: tuple[str, ...]
    probe: str

    @property
    def folder(self) -> Path:
        return _FOLDER / self.name

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def problem_file(self) -> Path:
        return self.folder / "problem.txt"

    def problem(self) -> str | None:
        """Why it cannot be measured, or None."""
        if not self.python.exists():
            return "not installed: run python -m benchmarks.peers"
        return self.problem_file.read_text().strip() if self.problem_file.exists() else None

    def make(self) -> None:
        """Make the environment anew, and note what goes wrong."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        venv.create(self.folder, with_pip=True)
        constraints = [] if shutil.which("nvidia-smi") else ["-c", str(ROOT / "constraints" / "cpu.txt")]
        install = [str(self.python), "-m", "pip", "install", "--quiet", *constraints, "torch", *self.requirements]
        for command in (install, [str(self.python), "-c", self.probe]):
            done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=self.folder)
            if done.returncode:
                self.problem_file.write_text(_reason(done.stderr))
                return


def _reason(text: str) -> str:
    """The line that says what is wrong: pip's first ERROR, Python's last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines[-1:] or ["it failed and said nothing"])[0]


PEERS = {
    peer.name: peer
    for peer in (
        Peer("torchsnapshot", ("torchsnapshot==0.1.0", "numpy"), "from torchsnapshot import Snapshot"),
        Peer(
            "dlrover",
            ("dlrover==0.6.1", "grpcio", "numpy"),
            "from dlrover.trainer.torch.flash_checkpoint.ddp import DdpCheckpointer, StorageType",
        ),
        Peer(
            "nvrx",
            ("nvidia-resiliency-ext==0.4.1", "numpy"),
            "from nvidia_resiliency_ext.fault_tolerance import RankMonitorClient",
        ),
        # In environments of their own, for each imports what it finds of the other's optional dependencies.
        Peer("lightning", ("lightning==2.6.6", "numpy"), "from lightning.pytorch.callbacks import ModelCheckpoint"),
        Peer("transformers", ("transformers[torch]==5.24.0", "numpy"), "from transformers import Trainer"),
    )
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(PEERS)} (default: those not there)")
    parser.add_argument("--list", action="store_true", help="make nothing")
    options = parser.parse_args()
    if unknown := set(options.names) - set(PEERS):
        parser.error(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS)}")
    for peer in PEERS.values():
        wanted = peer.name in options.names or (not options.names and not peer.python.exists())
        if wanted and not options.list:
            print(f"{peer.name}: installing {', '.join(peer.requirements)}", flush=True)
            peer.make()
        print(f"{peer.name}: {peer.problem() or 'ready'}", flush=True)


if __name__ == "__main__":
    main()
