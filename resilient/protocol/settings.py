"""Settings that both sides obey."""

from __future__ import annotations

from dataclasses import dataclass

from resilient.errors import ConfigurationError


@dataclass(frozen=True)
class SnapshotSettings:
    """When snapshots are taken and how many are kept; the section ``snapshot`` of the configuration.

    :param memory_every_steps: take a memory snapshot after every so many steps; a crash loses no more than these.
    :param every_steps: make every so many steps' snapshot durable.
    :param keep_last: committed snapshots kept on disk.
    :param overlap: copy what the optimizers own while the next step runs; everything else is always copied at once.
    :param slots: memory slots of each worker. With three, one can be written to disk and one be overwritten while the
        third still holds a complete image.
    :param memory_dir: directory for the slots; empty for shared memory (or the run directory, where that is too small).
    :param allow_pickle: state that has no other form may be pickled. A pickle can run code when it is loaded.
    """

    memory_every_steps: int = 1
    every_steps: int = 100
    keep_last: int = 3
    overlap: bool = True
    slots: int = 3
    memory_dir: str = ""
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        for name, least in (("memory_every_steps", 1), ("every_steps", 1), ("keep_last", 1), ("slots", 2)):
            if getattr(self, name) < least:
                raise ConfigurationError(f"snapshot.{name} must be at least {least}, not {getattr(self, name)}")
        if self.every_steps % self.memory_every_steps:
            raise ConfigurationError(
                f"snapshot.every_steps={self.every_steps} is no multiple of "
                f"snapshot.memory_every_steps={self.memory_every_steps}, so some durable ones would never be taken",
                "make snapshot.every_steps a multiple of snapshot.memory_every_steps",
            )
