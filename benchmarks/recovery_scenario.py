"""What is done to the contestants, and who takes part: a kill of one of one, of one of two on one node or on two, a
stop of one.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.peers import PEERS
from benchmarks.recovery_launch import Contestant, ft_launcher, of_nodes, resilient, torchrun

HANG_SECONDS = 1.0
"""The limit that all contestants are given for a step; no step of the benchmark comes near it."""


@dataclass(frozen=True)
class Scenario:
    """One table of the report.

    :param ranks: processes that train together.
    :param number: the signal that one of them is sent.
    :param timeout: seconds after which a contestant counts as not recovered.
    """

    name: str
    ranks: int
    number: signal.Signals
    contestants: tuple[Contestant, ...]
    timeout: float = 60.0


def scenarios(names: Sequence[str], overrides: Sequence[str]) -> list[Scenario]:
    """The scenarios by name, each with the contestants that are installed and can take part in it."""
    found = {
        scenario.name: scenario
        for scenario in (_kill(overrides), _group(overrides), _hang(overrides), _nodes(overrides))
    }
    return [found[name] for name in names]


def missing() -> str | None:
    """Why ``ft_launcher`` does not take part, or None."""
    return PEERS["nvrx"].problem()


def _peers(*options: str) -> tuple[Contestant, ...]:
    return () if missing() else (ft_launcher(*options),)


def _kill(overrides: Sequence[str]) -> Scenario:
    quick = torchrun("torchrun, monitor 0.01 s", "--monitor-interval=0.01")
    return Scenario("kill", 1, signal.SIGKILL, (resilient(overrides), torchrun(), quick, *_peers()))


def _group(overrides: Sequence[str]) -> Scenario:
    return Scenario("group", 2, signal.SIGKILL, (resilient(overrides), torchrun(), *_peers()))


def _nodes(overrides: Sequence[str]) -> Scenario:
    group = _group(overrides)
    return replace(group, name="nodes", contestants=tuple(of_nodes(each, 2) for each in group.contestants))


def _hang(overrides: Sequence[str]) -> Scenario:
    """Not torchrun, which watches for exits alone: a stopped process is never found."""
    limits = [f"--ft-rank-heartbeat-timeout={HANG_SECONDS}", "--ft-workload-check-interval=0.1"]
    ours = resilient([f"hang.min_seconds={HANG_SECONDS}", *overrides])
    return Scenario("hang", 1, signal.SIGSTOP, (ours, *_peers(*limits)))
