"""Settings that both sides obey."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from resilient.errors import ConfigurationError

_SNAPSHOT_LEAST = (
    ("memory_every_steps", 0),
    ("every_steps", 0),
    ("every_seconds", 0),
    ("auto_least_seconds", 0),
    ("failure_seconds", 1),
    ("write_bytes_per_second", 0),
    ("slots", 2),
)


@dataclass(frozen=True)
class SnapshotSettings:
    """When snapshots are taken, and where they lie in memory; the section ``snapshot`` of the configuration.

    :param memory: whether any snapshot is taken at all. Without, a run cannot be resumed; for replays of a few steps.
    :param memory_every_steps: take a memory snapshot after every so many steps; a crash loses no more than these. 0
        takes them as often as ``overhead`` allows, measured while training.
    :param overhead: what memory snapshots may cost then, as a fraction of the step time.
    :param every_steps: make every so many steps' snapshot durable; 0 to go by time alone.
    :param every_seconds: make a snapshot durable at the first step boundary so many seconds after the last durable one
        was taken; 0 to go by steps alone.
    :param auto: make snapshots durable at the interval that loses the least time in the long run (Young and Daly), from
        what they are seen to cost and how often memory is lost; ``every_steps`` and ``every_seconds`` go on beside it
        unless they are 0.
    :param auto_least_seconds: the interval is never shorter.
    :param auto_most_seconds: nor longer.
    :param failure_seconds: how long a machine is thought to last, until the run has seen enough of it.
    :param write_bytes_per_second: write them to disk no faster than this, to leave some of a shared disk to others; 0
        for no limit. A run that is being stopped does not keep to it.
    :param deduplicate: on disk, store tensors once that several ranks have alike, as they do under
        DistributedDataParallel. In memory each rank has its own.
    :param overlap: copy what the optimizers own while the next step runs; everything else is always copied at once.
    :param slots: memory slots of each worker. With three, one can be written to disk and one be overwritten while the
        third still holds a complete image. With two, no snapshot is skipped either, but while one is being written to
        disk it is the only complete one whenever the other is being overwritten: a crash in the middle of a copy then
        goes back to the one on its way to disk, some steps further.
    :param memory_dir: directory for the slots; empty for /dev/shm (the run directory, where there is none). Slots for
        which it has no room go to files in the run directory, with a warning.
    :param allow_pickle: state that has no other form may be pickled. A pickle can run code when it is loaded.
    """

    memory: bool = True
    memory_every_steps: int = 1
    overhead: float = 0.01
    every_steps: int = 100
    every_seconds: float = 0.0
    auto: bool = False
    auto_least_seconds: float = 30.0
    auto_most_seconds: float = 3600.0
    failure_seconds: float = 86400.0
    write_bytes_per_second: float = 0.0
    deduplicate: bool = True
    overlap: bool = True
    slots: int = 3
    memory_dir: str = ""
    allow_pickle: bool = False

    def __post_init__(self) -> None:
        for name, least in _SNAPSHOT_LEAST:
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= least):
                raise ConfigurationError(f"snapshot.{name} must be at least {least}, not {getattr(self, name)}")
        if not self.every_steps and not self.every_seconds and not self.auto:
            raise ConfigurationError(
                "snapshot.every_steps and snapshot.every_seconds are both 0: nothing would be durable before the end",
                "set one of them, or snapshot.auto=true",
            )
        if not self.auto_least_seconds <= self.auto_most_seconds < math.inf:
            raise ConfigurationError(
                f"snapshot.auto_most_seconds={self.auto_most_seconds} must be at least "
                f"snapshot.auto_least_seconds={self.auto_least_seconds}, and finite"
            )
        if not 0 < self.overhead <= 1:
            raise ConfigurationError(f"snapshot.overhead must be above 0 and at most 1, not {self.overhead}")
        if self.memory_every_steps and self.every_steps % self.memory_every_steps:
            raise ConfigurationError(
                f"snapshot.every_steps={self.every_steps} is no multiple of "
                f"snapshot.memory_every_steps={self.memory_every_steps}, so some durable ones would never be taken",
                "make snapshot.every_steps a multiple of snapshot.memory_every_steps",
            )


@dataclass(frozen=True)
class FingerprintSettings:
    """Which hashes of each step are reported beside the metrics; the section ``fingerprint`` of the configuration.

    :param batch: of the batch, as the script gets it. It costs microseconds where batches are small.
    :param gradients: of the gradients that the optimizer steps with; it reads all of them once more.
    :param parameters: of the parameters after the step; likewise.
    """

    batch: bool = True
    gradients: bool = False
    parameters: bool = False


class BestMode(str, Enum):
    """Which end of a metric is the better one."""

    min = "min"  # members are what the configuration file says, and OmegaConf goes by their names
    max = "max"


@dataclass(frozen=True)
class RetentionSettings:
    """Which durable snapshots are kept; the section ``retention`` of the configuration.

    A snapshot stays when any of these wants it. The newest one and the pinned ones stay in any case.

    :param last: the newest so many.
    :param best: the so many with the best value of ``best_metric``, as it was last reported before the snapshot.
    :param best_metric: name of a reported metric. A snapshot without it, or where it is not finite, is never best.
    :param best_mode: whether ``min`` or ``max`` of it is best.
    :param every_steps: those whose step is a multiple of this; 0 for none.
    :param every_seconds: a chain of snapshots at least so many seconds apart, beginning with the oldest; 0 for none.
    """

    last: int = 3
    best: int = 0
    best_metric: str = ""
    best_mode: BestMode = BestMode.min
    every_steps: int = 0
    every_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name, least in (("last", 1), ("best", 0), ("every_steps", 0), ("every_seconds", 0)):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= least):
                raise ConfigurationError(f"retention.{name} must be at least {least}, not {value}")
        if self.best and not self.best_metric:
            raise ConfigurationError(
                f"retention.best={self.best} needs retention.best_metric",
                "name a metric that the script reports, for example retention.best_metric=loss",
            )

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> RetentionSettings:
        """From plain values, as in JSON or YAML.

        :raises ConfigurationError: a key is not known, or a value cannot be used.
        """
        try:
            for name in ("last", "best", "every_steps"):
                if type(body.get(name, 0)) is not int:
                    raise TypeError(f"{name}={body[name]!r} must be a whole number")
            return cls(**{**body, "best_mode": BestMode(body.get("best_mode", cls.best_mode))})
        except (TypeError, ValueError) as error:
            raise ConfigurationError(f"the section retention cannot be read: {error}") from error
