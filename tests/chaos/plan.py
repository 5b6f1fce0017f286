"""What a campaign does, as a pure function of its seed: the run's settings, and which faults come at which moments."""

from __future__ import annotations

import random
import signal
from dataclasses import dataclass
from enum import Enum

from resilient.drill.faults import CorruptSnapshot, Fault, KillSupervisor, Preempt
from resilient.drill.process_faults import KillRole, LoseMemory, PreemptTwice, Role, SignalEverything, StopThenContinue

STEPS = 100


class On(str, Enum):
    """What a moment is counted from."""

    STEP = "step"  # a completed step
    START = "start"  # the start of a supervisor
    LAUNCH = "launch"  # a round that has no step yet
    COMMIT = "commit"  # a snapshot that is on its way to disk
    RESTORE = "restore"  # a snapshot that is being read back
    FAULT = "fault"  # the fault before
    FLUSH = "flush"  # no worker is left, what is in memory goes to disk
    END = "end"  # the run has ended, and its supervisor is still there


@dataclass(frozen=True)
class Moment:
    """``delay`` seconds after something; the step is the earliest at which it counts."""

    on: On
    step: int = 0
    delay: float = 0.0

    def __str__(self) -> str:
        step = f" {self.step}" if self.step else ""
        return f"{self.on.value}{step} + {self.delay * 1e3:.1f} ms"


@dataclass(frozen=True)
class Planned:
    moment: Moment
    fault: Fault


@dataclass(frozen=True)
class Plan:
    """One campaign.

    :param ballast: MiB of the state that are copied at once; part of the state, so of what the run is compared with.
    :param owned: MiB of the state that the optimizer owns.
    :param remote: whether there is a remote tier.
    :param slots: memory slots of each rank.
    :param keep: local snapshots that retention keeps.
    :param memory_every_steps: steps from one memory snapshot to the next.
    """

    seed: int
    settings: tuple[str, ...]
    ballast: int
    owned: int
    ranks: int
    workers: int
    remote: bool
    slots: int
    keep: int
    memory_every_steps: int
    faults: tuple[Planned, ...]

    @property
    def state(self) -> tuple[int, int, int]:
        """What the training state depends on: ranks, and MiB of ballast and of what the optimizer owns."""
        return self.ranks, self.ballast, self.owned

    @property
    def starts(self) -> int:
        """How often a supervisor is started, at most; starts are what a campaign takes its time for."""
        return 1 + sum(_ends_supervisor(planned.fault) for planned in self.faults)

    def __str__(self) -> str:
        lines = [f"seed {self.seed}: {' '.join(self.settings)}{' with a remote tier' if self.remote else ''}"]
        lines += [f"  {number}. {planned.moment}: {planned.fault}" for number, planned in enumerate(self.faults)]
        return "\n".join(lines)


@dataclass(frozen=True)
class Around:
    """What of a run is there to be hit.

    :param workers: of the DataLoader.
    """

    ranks: int
    workers: int
    remote: bool

    def roles(self) -> list[Role]:
        missing = {Role.DATA_WORKER} if not self.workers else set()
        return [role for role in Role if role not in missing and (self.remote or role is not Role.UPLOADER)]


def plan(seed: int) -> Plan:
    """The campaign of a seed."""
    dice = random.Random(seed)
    ranks = dice.choice((1, 1, 2))
    workers = dice.choice((0, 0, 2))
    weights = ((0, 0), (0, 0), (8, 0), (0, 8), (32, 4)) if ranks == 1 else ((0, 0), (0, 4))
    ballast, owned = dice.choice(weights)
    remote = dice.random() < 1 / 3
    slots, keep = dice.choice((2, 3, 3)), dice.choice((1, 2, 2, 3))
    memory_every_steps = dice.choice((1, 1, 1, 4))
    settings = [
        f"worker.ranks={ranks}",
        f"train.workers={workers}",
        f"train.ballast_mb={ballast}",
        f"train.owned_mb={owned}",
        f"train.step_seconds={dice.choice((0.005, 0.01, 0.02))}",
        f"snapshot.every_steps={memory_every_steps * dice.choice((2, 3, 5, 10))}",
        f"snapshot.memory_every_steps={memory_every_steps}",
        f"snapshot.overlap={dice.choice(('true', 'false'))}",
        f"snapshot.slots={slots}",
        f"snapshot.write_bytes_per_second={dice.choice((0, 0, 0, 50e6))}",
        f"retention.last={keep}",
        f"stop.grace_seconds={dice.choice((25, 25, 3))}",
    ]
    faults = _faults(dice, Around(ranks, workers, remote))
    return Plan(seed, tuple(settings), ballast, owned, ranks, workers, remote, slots, keep, memory_every_steps, faults)


def _faults(dice: random.Random, around: Around) -> tuple[Planned, ...]:
    """Some in order of their steps, some of them followed by others within milliseconds, and perhaps one at the end."""
    found: list[Planned] = []
    for step in sorted(dice.sample(range(1, STEPS), dice.randint(2, 5))):
        found.append(Planned(_moment(dice, step), _fault(dice, around)))
        while dice.random() < 0.35:
            moment = dice.choice(
                (
                    Moment(On.FAULT, 0, _milliseconds(dice, 30)),
                    Moment(On.LAUNCH, 0, _milliseconds(dice, 60)),
                    Moment(On.RESTORE, 0, _milliseconds(dice, 10)),
                    Moment(On.START, 0, dice.uniform(0, 1.5)),
                )
            )
            found.append(Planned(moment, _fault(dice, around)))
    if dice.random() < 0.5:
        on = dice.choice((On.STEP, On.FLUSH, On.END))
        last = Moment(on, STEPS if on is On.STEP else 0, _milliseconds(dice, 20))
        found.append(Planned(last, _fault(dice, around)))
    return tuple(found)


def _ends_supervisor(fault: Fault) -> bool:
    lasting = isinstance(fault, (CorruptSnapshot, StopThenContinue))
    return not lasting and (not isinstance(fault, KillRole) or fault.role is Role.SUPERVISOR)


def _moment(dice: random.Random, step: int) -> Moment:
    if dice.random() < 0.3:
        return Moment(On.COMMIT, step, _milliseconds(dice, 60))
    return Moment(On.STEP, step, _milliseconds(dice, 12))


def _milliseconds(dice: random.Random, most: float) -> float:
    """Often 0, otherwise evenly up to ``most``, in seconds."""
    return 0.0 if dice.random() < 0.25 else round(dice.uniform(0, most), 2) / 1e3


def _fault(dice: random.Random, around: Around) -> Fault:
    choices: list[tuple[int, Fault]] = [
        (4, KillRole(Role.WORKER, index=dice.randrange(around.ranks))),
        (1, KillRole(Role.WORKER, signal.SIGSEGV, dice.randrange(around.ranks))),
        (1, KillRole(Role.WORKER, signal.SIGTERM, dice.randrange(around.ranks))),
        (3, KillSupervisor()),
        (3, Preempt()),
        (2, PreemptTwice(_milliseconds(dice, 300))),
        (1, KillRole(Role.SUPERVISOR, signal.SIGINT)),
        (2, KillRole(Role.DRAIN)),
        (2, KillRole(Role.FORKSERVER)),
        (3 if around.workers else 0, KillRole(Role.DATA_WORKER, index=dice.randrange(4))),
        (2, SignalEverything()),
        (2, SignalEverything(signal.SIGTERM)),
        (2, LoseMemory()),
        (2, CorruptSnapshot(dice.random())),
        (
            3,
            StopThenContinue(
                dice.choice(around.roles()), round(dice.uniform(0.05, 1.5), 2), dice.randrange(around.ranks)
            ),
        ),
        (2 if around.remote else 0, KillRole(Role.UPLOADER)),
        (2 if around.remote else 0, LoseMemory(disk=True)),
    ]
    return dice.choices([fault for _, fault in choices], [weight for weight, _ in choices])[0]
