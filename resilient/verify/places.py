"""Where a replay runs: on the devices that the run was on, or on others of the same machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resilient.policy.comparison import Place
from resilient.protocol.environment import PLACE, shared_by

DEVICES = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Surroundings:
    """What is different for the processes of a replay.

    :param environment: variables that are added.
    :param overrides: of the configuration.
    :param cores: the only ones that they may use; none for all.
    :param told: which devices these are, in words.
    """

    environment: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    cores: Collection[int] = ()
    told: str = "the same device"


HERE = Surroundings({PLACE: Place.HERE.value})


def graphics_devices(directory: Path = Path("/dev")) -> list[str]:
    """The NVIDIA devices of this machine, by number."""
    numbers = (path.name.removeprefix("nvidia") for path in directory.glob("nvidia[0-9]*"))
    return sorted((number for number in numbers if number.isdecimal()), key=int)


def elsewhere(
    tree: Mapping[str, Any],
    environ: Mapping[str, str] = os.environ,
    devices: Callable[[], list[str]] = graphics_devices,
    cores: Collection[int] | None = None,
) -> Surroundings | None:
    """Other devices for the same computation, or None where there are none.

    With two GPUs or more, each rank takes its neighbour's. Without any, it is other cores; but only where the number of
    threads is set, for sums depend on it and it would be another one on fewer cores.

    :param tree: the run's configuration.
    :param cores: those that this process may use.
    """
    worker = tree.get("worker") or {}
    configured = {name: str(value) for name, value in (worker.get("env") or {}).items()}
    ranks = int(worker.get("ranks", 1))
    visible = configured.get(DEVICES, environ.get(DEVICES))
    names = devices() if visible is None else [name.strip() for name in visible.split(",") if name.strip()]
    names = [] if names[:1] == ["-1"] else names
    if names:
        return _other_devices(names, configured=DEVICES in configured)
    threads = configured.get(_THREADS, environ.get(_THREADS, shared_by(ranks, environ).get(_THREADS, "")))
    return _other_cores(threads, ranks, sorted(os.sched_getaffinity(0) if cores is None else cores))


def _other_devices(names: list[str], *, configured: bool) -> Surroundings | None:
    if len(names) < 2:
        return None
    rotated = ",".join([*names[1:], names[0]])
    override = (f"worker.env.{DEVICES}='{rotated}'",) if configured else ()
    return Surroundings({PLACE: Place.ELSEWHERE.value, DEVICES: rotated}, override, told=f"GPU {rotated}")


def _other_cores(threads: str, ranks: int, cores: list[int]) -> Surroundings | None:
    if not threads.isdecimal() or not int(threads) or len(cores) < 2 * ranks * int(threads):
        return None
    others = cores[(len(cores) + 1) // 2 :]
    told = f"core{'s' if len(others) > 1 else ''} {','.join(map(str, others))}"
    return Surroundings({PLACE: Place.ELSEWHERE.value}, cores=frozenset(others), told=told)
