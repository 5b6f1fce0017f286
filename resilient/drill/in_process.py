"""Faults inside a worker: ordered from here, carried out there by :mod:`resilient.worker.drill`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from resilient.drill.faults import Fault, Lift
from resilient.drill.memory_group import MemoryGroup
from resilient.drill.target import Target
from resilient.errors import ConfigurationError, ExitCode
from resilient.protocol.drill import Order, Record

FLIPPED = ("weight", "gradient", "batch", "loss")


@dataclass(frozen=True)
class OrderedFault(Fault):
    """What a worker does to itself when it comes to step ``at``.

    :param at: the step in which it happens; 0 for the next one.
    """

    rank: int = 0
    at: int = 0

    def order(self) -> Order:
        return Order(self.name, self.at, self.rank)

    def inject(self, target: Target) -> str:
        """Leave the order and wait until it is carried out."""
        order = self.order()
        order.write(target.paths)
        where = f"in step {self.at}" if self.at else "in the next step"
        target.wait_until(
            lambda: Record.read(target.paths, order.id) is not None,
            f"an optimizer's step was seen {where} of rank {self.rank}, where {self.name} was to happen",
        )
        record = Record.read(target.paths, order.id)
        return record.what if record is not None else ""

    @staticmethod
    def happened(target: Target) -> Record | None:
        """The record of the last order, or None when it was not carried out."""
        order = Order.read(target.paths)
        return Record.read(target.paths, order.id) if order is not None else None


@dataclass(frozen=True)
class Segv(OrderedFault):
    """A null pointer is read in the middle of a step."""

    name = "segv"
    explains = "a null pointer is read in the middle of a step, as by a broken extension (SIGSEGV)"


@dataclass(frozen=True)
class Abort(OrderedFault):
    """``abort()`` in the middle of a step."""

    name = "abort"
    explains = "abort() in the middle of a step, as C++ does with an error that nobody catches (SIGABRT)"


@dataclass(frozen=True)
class Hang(OrderedFault):
    """The training thread stands still in the middle of a step, while the process and its other threads live.

    :param seconds: for so long; 0 for ever.
    """

    seconds: float = 0.0
    name = "hang"
    explains = "the training thread stands still in the middle of a step, for ever or for some seconds"

    def order(self) -> Order:
        return Order(self.name, self.at, self.rank, seconds=self.seconds)


@dataclass(frozen=True)
class OutOfMemory(OrderedFault):
    """The worker takes all memory that the run may have, and the kernel kills it.

    :param group: the control group that the run was started in. Without one, an allocation fails with ``MemoryError``.
    """

    group: MemoryGroup | None = field(default=None)
    name = "oom"
    explains = "a worker takes all memory of the run's control group and the kernel kills it (MemoryError without one)"
    lifted: ClassVar[Lift] = Lift.WHEN_NOTICED

    def order(self) -> Order:
        if self.group is None:
            return Order(self.name, self.at, self.rank)
        return Order(self.name, self.at, self.rank, usage=str(self.group.usage), limit=str(self.group.limit))

    def lift(self, target: Target) -> None:  # noqa: ARG002  the group is the run's
        if self.group is not None:
            self.group.lift()


@dataclass(frozen=True)
class NotANumber(OrderedFault):
    """Loss and gradients of one step become NaN.

    :param steps: of so many steps.
    """

    steps: int = 1
    name = "nan"
    explains = "loss and gradients of a step become NaN"
    keeps_state = False

    def order(self) -> Order:
        return Order(self.name, self.at, self.rank, steps=self.steps)


@dataclass(frozen=True)
class Spike(OrderedFault):
    """Loss, gradients and learning rate of some steps are multiplied.

    :param steps: of so many steps.
    :param factor: by this.
    """

    steps: int = 3
    factor: float = 100.0
    name = "spike"
    explains = "loss, gradients and learning rate of some steps are multiplied"
    keeps_state = False

    def order(self) -> Order:
        return Order(self.name, self.at, self.rank, steps=self.steps, factor=self.factor)


@dataclass(frozen=True)
class Flip(OrderedFault):
    """A bit flips, and nobody says so: the loss is wrong in one step, or everything is from there on.

    :param what: in a ``weight``, a ``gradient``, a ``batch`` or the ``loss``.
    :param bit: from the lowest of 32; 30 is the highest of a float's exponent, 0 its last digit.
    :param persistent: the device always errs in that step, also when it is done again; another one does not.
    :raises ConfigurationError: there is no such thing, or no such bit.
    """

    what: str = "weight"
    bit: int = 30
    persistent: bool = False
    name = "flip"
    explains = (
        "a bit flips in a weight, a gradient, a batch or the loss, once or (persistent=true) whenever it is done again"
    )
    keeps_state = False

    def __post_init__(self) -> None:
        if self.what not in FLIPPED:
            raise ConfigurationError(f"what={self.what} is nothing to flip a bit of", f"one of {', '.join(FLIPPED)}")
        if not 0 <= self.bit < 32:
            raise ConfigurationError(
                f"bit={self.bit} is no bit of a float", "from 0, the last digit's, to 31, the sign"
            )

    @property
    def expects(self) -> ExitCode:
        """A machine that always errs is left for another one."""
        return ExitCode.UNTRUSTED_NODE if self.persistent else ExitCode.FINISHED

    def order(self) -> Order:
        return Order(self.name, self.at, self.rank, what=self.what, bit=self.bit, persistent=self.persistent)
