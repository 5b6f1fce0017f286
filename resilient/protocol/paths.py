"""Every path of a run, in one class. The layout is part of the file format; see ``docs/reference/formats.md``."""

from __future__ import annotations

import hashlib
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from resilient.errors import RunDirectoryNotWritable
from resilient.protocol import names


def hostname() -> str:
    """The host's short name, as part of file names that several nodes write side by side."""
    return socket.gethostname().split(".")[0] or "localhost"


NODE = "RESILIENT_NODE"
"""Name of the node, in runs of several; set where machines are told apart by other names than their own."""


def node_name(environ: Mapping[str, str] = os.environ) -> str:
    """Which of the run's nodes this is, as part of file names. One machine may stand for several nodes."""
    return environ.get(NODE) or hostname()


@dataclass(frozen=True)
class RunPaths:
    """Paths of the run in directory ``root``."""

    root: Path

    @classmethod
    def of(cls, directory: str | os.PathLike[str], run_id: str) -> RunPaths:
        return cls(Path(directory).absolute() / names.validate_run_id(run_id))

    @property
    def run_id(self) -> str:
        return self.root.name

    @property
    def config(self) -> Path:
        return self.root / "config.yaml"

    @property
    def status(self) -> Path:
        return self.root / "status.json"

    @property
    def lock(self) -> Path:
        return self.root / f"supervisor-{node_name()}.lock"

    def locks(self) -> list[Path]:
        """The locks of all nodes that have ever supervised this run."""
        return sorted(self.root.glob("supervisor-*.lock"))

    @property
    def journal(self) -> Path:
        return self.root / "journal" / f"{node_name()}.jsonl"

    @property
    def metrics(self) -> Path:
        return self.root / "metrics" / f"{node_name()}.jsonl"

    @property
    def lineage(self) -> Path:
        """Rollbacks, data left out, and what is thought of each snapshot."""
        return self.root / "lineage.json"

    @property
    def step_times(self) -> Path:
        """When the steps of an unmodified script were reached."""
        return self.root / "steps.json"

    @property
    def rollback_request(self) -> Path:
        """What ``resilient rollback`` wants of the supervisor."""
        return self.root / "rollback-request.json"

    @property
    def rollback_answer(self) -> Path:
        """What has become of the last such request."""
        return self.root / "rollback-answer.json"

    @property
    def distrusted(self) -> Path:
        """Machines that compute wrong results, on which the run is not started again."""
        return self.root / "distrusted.json"

    @property
    def terms(self) -> Path:
        """Who has led the run, of several nodes, and who does."""
        return self.root / "nodes" / "terms"

    @property
    def slurm(self) -> Path:
        """What ``resilient submit`` writes, and the logs of the jobs that it submitted."""
        return self.root / "slurm"

    @property
    def submissions(self) -> Path:
        """The jobs of this run that were submitted, one line each."""
        return self.slurm / "jobs.jsonl"

    @property
    def snapshots(self) -> Path:
        return self.root / "snapshots"

    @property
    def latest(self) -> Path:
        return self.snapshots / "latest"

    def snapshot(self, step: int) -> Path:
        return self.snapshots / names.snapshot_name(step)

    def last_round(self) -> int:
        """The highest round of which there are logs, or -1."""
        found = (names.round_number(path.name) for path in (self.root / "logs").glob("round-*"))
        return max((number for number in found if number is not None), default=-1)

    def round_logs(self, number: int) -> Path:
        return self.root / "logs" / names.round_name(number)

    def log(self, number: int, rank: int) -> Path:
        return self.round_logs(number) / names.log_name(rank)

    def error_file(self, number: int, rank: int) -> Path:
        """Where a worker leaves the exception that ended it."""
        return self.round_logs(number) / f"rank-{rank:05d}.error.json"

    def torch_error_file(self, number: int, rank: int) -> Path:
        """Where torch's ``@record`` leaves it; the worker finds the path in ``TORCHELASTIC_ERROR_FILE``."""
        return self.round_logs(number) / f"rank-{rank:05d}.torch-error.json"

    @property
    def incidents(self) -> Path:
        return self.root / "incidents"

    def incident(self, number: int) -> Path:
        """Where the evidence of an incident is kept."""
        return self.incidents / f"{number:04d}"

    def last_incident(self) -> int:
        """The highest number of an incident of which there is evidence, or 0."""
        found = (int(path.name) for path in self.incidents.glob("*") if path.name.isdecimal())
        return max(found, default=0)

    def stacks(self, incident: int, rank: int) -> Path:
        """Where a rank was when it was found hung."""
        return self.incident(incident) / "stacks" / f"rank-{rank:05d}.txt"

    @property
    def memory(self) -> Path:
        """Where memory slots lie for which shared memory has no room."""
        return self.root / "memory"

    @property
    def drill(self) -> Path:
        """Orders and records of a drill; only the scratch run of one has it."""
        return self.root / "drill"

    @property
    def memory_name(self) -> str:
        """Name of this run's directory in shared memory: stable, so that a successor finds what its predecessor
        left.
        """
        place = os.fsencode(self.root)
        if node_name() != hostname():  # another node may be on the same machine
            place += b"\0" + os.fsencode(node_name())
        digest = hashlib.sha256(place).hexdigest()[:16]
        return f"resilient-{os.getuid()}-{digest}"

    def identity(self) -> str:
        """A name that no other run has had, made with the run directory; one made anew under the same name is another
        run.
        """
        file = self.root / "identity"
        if not file.exists():
            fresh = self.fresh(file)
            fresh.write_text(uuid.uuid4().hex)
            with suppress(FileExistsError):  # another node was quicker
                os.link(fresh, file)
            fresh.unlink(missing_ok=True)
        return file.read_text()

    @staticmethod
    def fresh(path: Path) -> Path:
        """Where to write what is then to replace ``path`` in one step. One name for each node: what a supervisor that
        was killed has left there is its successor's to overwrite.
        """
        return path.with_name(f".{path.name}.{node_name()}")

    def clear_fresh(self) -> None:
        """Remove what an earlier supervisor of this node was killed over before it had replaced anything; for whoever
        has the node's lock. Where another node leads now, nobody would overwrite it.
        """
        for path in (self.root / "identity", self.config, self.status, self.lineage, self.distrusted, self.step_times):
            self.fresh(path).unlink(missing_ok=True)

    def create(self) -> None:
        """Create the directories of the run.

        :raises RunDirectoryNotWritable: one cannot be created or written.
        """
        try:
            for directory in (self.root, self.snapshots, self.journal.parent, self.metrics.parent, self.root / "logs"):
                directory.mkdir(parents=True, exist_ok=True)
            probe = self.fresh(self.root / "write-probe")
            probe.touch()
            probe.unlink(missing_ok=True)  # of two that start at the same time, one was quicker
        except OSError as error:
            raise RunDirectoryNotWritable(
                f"the run directory {self.root} cannot be written: {error.strerror}",
                "check its permissions, or choose another place with run.dir=…",
            ) from error
