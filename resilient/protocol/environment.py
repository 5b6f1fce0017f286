"""The environment of a worker: one typed view for every variable that we set or read."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

PLAN = "RESILIENT_PLAN"
"""Path of the round's plan; set in every supervised worker and nowhere else."""

PLACE = "RESILIENT_PLACE"
"""Set in replays alone: ``here``, or ``elsewhere`` for one on another device than the run's."""

DETERMINISTIC = "RESILIENT_DETERMINISTIC"
"""Set in replays alone: have torch say which operations it has no deterministic algorithm for."""

_ROLE = "default"  # torchrun's name for the role of all workers where nobody gives them others


@dataclass(frozen=True)
class Rendezvous:
    """Where the workers of a round find each other.

    :param run_id: name of the run.
    :param address: host on which rank 0 opens the store.
    :param port: its port, another one in each round: a store that is used again is a known cause of hangs.
    :param round: number of the round.
    :param most_restarts: how often workers are launched again at the most.
    """

    run_id: str = ""
    address: str = "127.0.0.1"
    port: int = 0
    round: int = 0
    most_restarts: int = 0


@dataclass(frozen=True)
class WorkerEnvironment:
    """Who a worker is. The variables are torchrun's, which every distributed library reads.

    :param local_world_size: ranks on this node; all of them where it is 0.
    """

    plan: Path
    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    local_world_size: int = 0
    group_rank: int = 0
    group_world_size: int = 1

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> WorkerEnvironment | None:
        """The view of a supervised worker, or None in a process that no supervisor started."""
        plan = environ.get(PLAN)
        if plan is None:
            return None
        return cls(
            Path(plan),
            int(environ.get("RANK", "0")),
            int(environ.get("LOCAL_RANK", "0")),
            int(environ.get("WORLD_SIZE", "1")),
            int(environ.get("LOCAL_WORLD_SIZE", "0")),
            int(environ.get("GROUP_RANK", "0")),
            int(environ.get("GROUP_WORLD_SIZE", "1")),
        )

    @property
    def local_ranks(self) -> range:
        """The ranks on this node, which follow one another."""
        first = self.rank - self.local_rank
        return range(first, first + (self.local_world_size or self.world_size))

    def variables(self, rendezvous: Rendezvous) -> dict[str, str]:
        """What to add to the worker's environment: all that torchrun sets.

        With ``TORCHELASTIC_USE_AGENT_STORE`` rank 0 would not open the store, but expect its launcher to have done so;
        ours does not know torch.
        """
        rank, size = str(self.rank), str(self.world_size)
        return {
            PLAN: str(self.plan),
            "RANK": rank,
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": size,
            "LOCAL_WORLD_SIZE": str(self.local_world_size or self.world_size),
            "GROUP_RANK": str(self.group_rank),
            "GROUP_WORLD_SIZE": str(self.group_world_size),
            "ROLE_NAME": _ROLE,
            "ROLE_RANK": rank,
            "ROLE_WORLD_SIZE": size,
            "MASTER_ADDR": rendezvous.address,
            "MASTER_PORT": str(rendezvous.port),
            "TORCHELASTIC_RUN_ID": rendezvous.run_id,
            "TORCHELASTIC_RESTART_COUNT": str(rendezvous.round),
            "TORCHELASTIC_MAX_RESTARTS": str(rendezvous.most_restarts),
            "TORCHELASTIC_USE_AGENT_STORE": "False",
        }


def is_replay(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process only runs steps again, to see if they give what they gave."""
    return PLACE in environ


def is_elsewhere(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process replays steps on another device than the run's."""
    return environ.get(PLACE) == "elsewhere"


def launched_elsewhere(environ: Mapping[str, str] = os.environ) -> int:
    """How many processes another launcher, such as torchrun, has started together with this one; 1 without any."""
    try:
        return int(environ.get("WORLD_SIZE", "1"))
    except ValueError:
        return 1


def shared_by(ranks: int, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What processes that share a machine's cores should have set, as torchrun does: one thread each, unless somebody
    has said how many.
    """
    return {"OMP_NUM_THREADS": "1"} if ranks > 1 and "OMP_NUM_THREADS" not in environ else {}
