"""What goes wrong in a cluster, how often, how it shows, and what it takes with it.

The shares are those of the 419 unexpected interruptions in 54 days on 16,384 GPUs that the Llama 3 paper counts ("The
Llama 3 Herd of Models", 2024, table 5). The paper does not say how long each took to be noticed, nor what each
destroyed: these two are assumptions, made so that in doubt more is lost.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from resilient.policy.events import Tier
from resilient.policy.failures import Failure, FailureClass


@dataclass(frozen=True)
class Kind:
    """One cause of interruptions.

    :param name: what it is called in reports.
    :param share: how many of all interruptions, in any unit.
    :param failure_class: what the classifier makes of it.
    :param survives: the nearest tier that still holds a whole snapshot after it.
    :param detection: seconds until somebody sees that a worker is gone.
    :param silent: nobody sees it: the workers stand still, and the hang limit has to find it.
    :param replaces: the node is taken out, and another one takes its place.
    :param outage: seconds until the node, or what it is connected with, works again where it is not replaced.
    """

    name: str
    share: float
    failure_class: FailureClass
    survives: Tier = Tier.REMOTE
    detection: float = 5.0
    silent: bool = False
    replaces: bool = True
    outage: float = 0.0

    @property
    def failure(self) -> Failure:
        """As the supervisor would report it."""
        return Failure(self.failure_class, self.name)


def _in_place(name: str, share: float, failure_class: FailureClass, *, silent: bool = False) -> Kind:
    """What leaves the node as it was: a relaunch there is all that it takes."""
    return Kind(name, share, failure_class, Tier.MEMORY, silent=silent, replaces=False)


LLAMA3: tuple[Kind, ...] = (
    Kind("faulty GPU", 148, FailureClass.HARDWARE),
    Kind("GPU memory (HBM3)", 72, FailureClass.HARDWARE),
    _in_place("software", 54, FailureClass.CRASH),
    _in_place("switch or cable", 35, FailureClass.NETWORK),
    Kind("host maintenance", 32, FailureClass.KILLED),
    Kind("GPU SRAM", 19, FailureClass.HARDWARE),
    # the driver does not answer until the node is started again, and its disk is still there then
    Kind("GPU system processor", 17, FailureClass.HARDWARE, Tier.LOCAL, outage=300.0, replaces=False),
    Kind("network card", 7, FailureClass.NETWORK),
    _in_place("NCCL watchdog", 7, FailureClass.HANG, silent=True),
    # what was trained until it is seen is worth nothing, so that it is as if nothing had been trained
    Kind("silent data corruption", 6, FailureClass.HARDWARE, detection=600.0),
    Kind("GPU heat or sensor", 6, FailureClass.HARDWARE),
    Kind("SSD", 3, FailureClass.HARDWARE),
    Kind("power supply", 3, FailureClass.KILLED),
    Kind("other parts", 10, FailureClass.HARDWARE),
)
LLAMA3_INTERRUPTIONS = 419
LLAMA3_DAYS = 54
LLAMA3_GPUS = 16384


@dataclass(frozen=True)
class Arrival:
    """Something fails.

    :param at: seconds since the beginning.
    :param group: which group of GPUs it hits.
    """

    at: float
    kind: Kind
    group: int


def arrivals(kinds: Sequence[Kind], per_second: float, groups: int, seed: str) -> Iterator[Arrival]:
    """Failures as they come, for ever: a Poisson process, the same for the same seed whatever is done about them.

    They hit one group after the other. In a cluster no machine fails twice in a row, and what is held against one, the
    core holds against a rank, of which there are far fewer here than machines there.

    :param per_second: of all kinds and the whole cluster.
    """
    draw = random.Random(seed)  # noqa: S311  dice, and no secret
    shares, now, group = [kind.share for kind in kinds], 0.0, draw.randrange(groups)
    while per_second > 0 and sum(shares) > 0:
        now += draw.expovariate(per_second)
        (kind,) = draw.choices(kinds, shares)
        yield Arrival(now, kind, group)
        group = (group + 1) % groups
