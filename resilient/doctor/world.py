"""What the checks look at. A test passes another world, or starts the doctor in one."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shutil import rmtree

from resilient.doctor.subject import Subject


class NoPlaceToTry(Exception):  # noqa: N818  named by condition
    """Nothing can be written where a check wants to try something."""


_WATCHED = (signal.SIGCHLD, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)


def ignored_signals() -> frozenset[signal.Signals]:
    """Signals that this process was told to ignore by whoever started it, and that matter."""
    return frozenset(number for number in _WATCHED if signal.getsignal(number) is signal.SIG_IGN)


@dataclass(frozen=True)
class World:
    """The machine as this process sees it, and the configuration that is to run on it.

    :param subject: the configuration; None where none was named, or it cannot be used.
    :param fault: what is wrong with the configuration, and what to do about it.
    :param directory: where the command was started.
    :param ignored: signals that everything started here ignores.
    :param mark: how the names of all temporary files and directories begin.
    """

    subject: Subject | None = None
    fault: tuple[str, str] | None = None
    directory: Path = field(default_factory=Path.cwd)
    ignored: frozenset[signal.Signals] = field(default_factory=ignored_signals)
    mark: str = field(default_factory=lambda: f".resilient-doctor-{os.getpid()}-")
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    shared_memory: Path = Path("/dev/shm")  # noqa: S108  where the slots are
    kernel_log: Path = Path("/dev/kmsg")
    devices: Path = Path("/dev")
    proc: Path = Path("/proc")
    cgroups: Path = Path("/sys/fs/cgroup")

    @property
    def ranks(self) -> int:
        return self.subject.worker.ranks if self.subject is not None else 1

    @property
    def run_root(self) -> Path:
        """The run's directory, or the one that holds runs by default."""
        return self.subject.paths.root if self.subject is not None else self.directory / "runs"

    def nearest(self) -> Path:
        """The run's directory, or the nearest one above it that exists."""
        return next(place for place in (self.run_root, *self.run_root.parents) if place.is_dir())

    @contextmanager
    def trial(self) -> Iterator[Path]:
        """A temporary directory on the filesystem of the run.

        :raises NoPlaceToTry: there can be none.
        """
        place = self.nearest()
        try:
            made = tempfile.mkdtemp(prefix=self.mark, dir=place)
        except OSError as error:
            raise NoPlaceToTry(f"{place} cannot be written: {error.strerror}") from error
        try:
            yield Path(made)
        finally:
            rmtree(made, ignore_errors=True)

    def sweep(self) -> list[Path]:
        """Remove what checks that were given up have left; returns what could not be removed."""
        left = [*self.nearest().glob(f"{self.mark}*")]
        for path in left:
            with suppress(OSError):
                rmtree(path, ignore_errors=True)
        return [path for path in left if path.exists()]
