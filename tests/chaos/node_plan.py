"""What a campaign does to a run of two nodes with two ranks each, as a pure function of its seed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.chaos.node_faults import (
    HELPERS,
    KillAllNodes,
    KillHelper,
    KillNodeSupervisor,
    KillOneRank,
    KillWholeNode,
    NodeFault,
    StopNodeSupervisor,
    StopOneRank,
    TerminateNode,
    Which,
)
from tests.chaos.plan import STEPS, Moment, On

PER_NODE = 2
RANKS = 2 * PER_NODE
_ABSENCES = 16


@dataclass(frozen=True)
class PlannedOnNodes:
    moment: Moment
    fault: NodeFault


@dataclass(frozen=True)
class NodePlan:
    """One campaign.

    :param sharded: the model is spread over the ranks, by FSDP2; otherwise each rank has all of it, with
        DistributedDataParallel.
    :param fixed_ports: each node listens where it did before it was started again, not on any free port.
    :param absences: seconds after which a node that has ended is started again, one after the other.

    For the others see :class:`~tests.chaos.plan.Plan`.
    """

    seed: int
    settings: tuple[str, ...]
    sharded: bool
    slots: int
    keep: int
    memory_every_steps: int
    faults: tuple[PlannedOnNodes, ...]
    absences: tuple[float, ...]
    fixed_ports: bool
    ranks: int = RANKS
    remote: bool = False

    @property
    def peers(self) -> bool:
        """Whether images can go from one node's memory to another's."""
        return "peer.enabled=true" in self.settings

    def __str__(self) -> str:
        strategy, ports = "FSDP2" if self.sharded else "DDP", ", fixed ports" * self.fixed_ports
        lines = [f"seed {self.seed}: {strategy}{ports}, {' '.join(self.settings)}"]
        lines += [f"  {number}. {planned.moment}: {planned.fault}" for number, planned in enumerate(self.faults)]
        return "\n".join([*lines, f"  back after {', '.join(f'{seconds:g}' for seconds in self.absences)} s"])


def node_plan(seed: int) -> NodePlan:
    """The campaign of a seed: FSDP2 where it is odd."""
    dice = random.Random(seed)
    slots, keep, memory_every_steps = dice.choice((2, 3, 3)), dice.choice((1, 2, 3)), dice.choice((1, 1, 1, 3))
    settings = (
        f"train.step_seconds={dice.choice((0.02, 0.03, 0.05))}",
        f"snapshot.every_steps={memory_every_steps * dice.choice((3, 5, 10))}",
        f"snapshot.memory_every_steps={memory_every_steps}",
        f"snapshot.overlap={dice.choice(('true', 'false'))}",
        f"snapshot.slots={slots}",
        f"retention.last={keep}",
        f"peer.enabled={dice.choice(('true', 'true', 'true', 'false'))}",
        f"peer.every_steps={dice.choice((0, 0, 1, 4))}",
        f"group.wait_seconds={dice.choice((60, 60, 60, 2))}",
        f"stop.grace_seconds={dice.choice((25, 25, 3))}",
    )
    absences = tuple(round(dice.choice((0.0, dice.uniform(0, 1), dice.uniform(0, 6))), 2) for _ in range(_ABSENCES))
    faults, fixed_ports = _faults(dice), dice.random() < 0.5
    return NodePlan(seed, settings, seed % 2 == 1, slots, keep, memory_every_steps, faults, absences, fixed_ports)


def _faults(dice: random.Random) -> tuple[PlannedOnNodes, ...]:
    """Some in order of their steps, some followed by others while the run recovers, and perhaps one at the end."""
    found: list[PlannedOnNodes] = []
    for number, step in enumerate(sorted(dice.sample(range(1, STEPS), dice.randint(1, 3)))):
        early = number == 0 and dice.random() < 0.3
        moment = Moment(On.START, 0, _seconds(dice, 12)) if early else _moment(dice, step)
        found.append(PlannedOnNodes(moment, _fault(dice)))
        if dice.random() < 0.35:
            moment = dice.choice(
                (
                    Moment(On.FAULT, 0, _seconds(dice, 0.05)),
                    Moment(On.FAULT, 0, _seconds(dice, 8)),
                    Moment(On.LAUNCH, 0, _seconds(dice, 3)),
                    Moment(On.RESTORE, 0, _seconds(dice, 0.05)),
                    Moment(On.START, 0, _seconds(dice, 5)),
                )
            )
            found.append(PlannedOnNodes(moment, _fault(dice)))
    if dice.random() < 0.25:
        on = dice.choice((On.STEP, On.FLUSH, On.END))
        found.append(PlannedOnNodes(Moment(on, STEPS if on is On.STEP else 0, _seconds(dice, 0.1)), _fault(dice)))
    return tuple(found)


def _moment(dice: random.Random, step: int) -> Moment:
    if dice.random() < 0.3:
        return Moment(On.COMMIT, step, _seconds(dice, 0.06))
    return Moment(On.STEP, step, _seconds(dice, 0.1))


def _seconds(dice: random.Random, most: float) -> float:
    """Sometimes 0, otherwise evenly up to ``most``."""
    return 0.0 if dice.random() < 0.2 else round(dice.uniform(0, most), 4)


def _fault(dice: random.Random) -> NodeFault:
    rank, which = dice.randrange(RANKS), dice.choice(list(Which))
    short, long = round(dice.uniform(0.1, 2), 2), round(dice.uniform(5, 9), 2)
    choices: list[tuple[int, NodeFault]] = [
        (5, KillOneRank(rank)),
        (1, StopOneRank(rank, short)),
        (5, KillNodeSupervisor(which)),
        (5, KillWholeNode(which)),
        (3, KillWholeNode(which, memory=True)),
        (1, KillAllNodes()),
        (1, KillAllNodes(memory=True)),
        (2, StopNodeSupervisor(which, short)),
        (3, StopNodeSupervisor(which, long)),
        (2, TerminateNode(which)),
        (2, TerminateNode(which, everything=True)),
        (2, KillHelper(which, dice.choice(HELPERS))),
    ]
    return dice.choices([fault for _, fault in choices], [weight for weight, _ in choices])[0]
