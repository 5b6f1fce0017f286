"""Which replay is needed next, and what all of them together say: from records of steps to a verdict.

A window of steps is run again from its snapshot, on this device (*here*) and, where there is one, on another
(*elsewhere*). A replay that is not what the run had reported is repeated, for only an error that does not come again
is an error of the moment:

=====================  =============================  ==========================================================
first replay here      further ones                   verdict
=====================  =============================  ==========================================================
as the run             elsewhere: as the run          reproduced
as the run             two elsewhere: not, but alike  persistent hardware
not as the run         here: like the first           transient hardware; elsewhere as the run: persistent
not as the run         here: unlike it                two elsewhere alike: persistent; else not reproducible
=====================  =============================  ==========================================================

NVIDIA's Megatron-LM attributes a rejected result in the same way (``megatron/core/rerun_state_machine.py``): rerun in
place, then from a checkpoint on another GPU. It reruns one step, within a tolerance; here resuming is bit-exact, so a
whole window is rerun and every bit counts. What differs in the very first step after the snapshot, before anything
looked wrong, is not blamed on hardware: far likelier the script depends on something that no snapshot holds.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from resilient.policy.verdict import Verdict, VerdictKind

Record = Mapping[tuple[int, str], float]
"""What a step reported, by rank and name."""
Records = Mapping[int, Record]
"""By step."""

CONFIRMING = 3
"""A replay goes on for so many steps after its first difference: two that agree in all of them do not by chance."""


class Place(str, Enum):
    """Where a replay runs."""

    HERE = "here"
    ELSEWHERE = "elsewhere"


@dataclass(frozen=True)
class Replay:
    """One replay, as far as it came.

    :param problem: why it ended before it had done what it was to; empty if it had not.
    :param deterministic: torch was told to use deterministic algorithms: it is there to name those that are not.
    :param warnings: what torch had to say of that.
    """

    place: Place
    records: Records
    problem: str = ""
    deterministic: bool = False
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Want:
    """The next replay that a verdict needs."""

    place: Place
    deterministic: bool = False


@dataclass(frozen=True)
class Difference:
    """Where two records of the same step are not the same, bit for bit."""

    step: int
    rank: int
    name: str
    original: float
    replay: float

    def __str__(self) -> str:
        of = f" of rank {self.rank}" if self.rank else ""
        return f"{self.name}{of} of step {self.step} was {self.original!r}, and is {self.replay!r}"


@dataclass(frozen=True)
class Case:
    """Everything that a verdict is made from.

    :param original: what the run had reported.
    :param names: what is compared, in the order in which a step makes it: the earliest that differs is the cause.
    :param data: the one among them that is a hash of the batch.
    :param onset: the first step that looked wrong; None where nothing did.
    :param elsewhere: whether there is another device.
    """

    original: Records
    replays: tuple[Replay, ...] = ()
    names: tuple[str, ...] = ()
    data: str = ""
    onset: int | None = None
    elsewhere: bool = False

    def at(self, place: Place) -> list[Replay]:
        return [replay for replay in self.replays if replay.place is place and not replay.deterministic]

    def difference(self, replay: Replay) -> Difference | None:
        """The first one between the run and a replay."""
        return first_difference(self.original, replay.records, self.names)

    @property
    def first(self) -> int | None:
        """The first step of which anything can be compared; None if there is none."""
        wanted = set(self.names)
        steps = (step for step, record in self.original.items() if any(name in wanted for _, name in record))
        return min(steps, default=None)


def differences(one: Records, other: Records, names: Sequence[str]) -> Iterator[Difference]:
    """All of them, in the order in which they came about. What only one side reports is not compared."""
    for step in sorted(one.keys() & other.keys()):
        here, there = one[step], other[step]
        ranks = sorted({rank for rank, _ in here.keys() & there.keys()})
        for place in ((rank, name) for name in names for rank in ranks):
            if place in here and place in there and _bits(here[place]) != _bits(there[place]):
                yield Difference(step, *place, here[place], there[place])


def first_difference(one: Records, other: Records, names: Sequence[str]) -> Difference | None:
    return next(differences(one, other, names), None)


def compare(case: Case) -> Verdict:
    """What the replays that there are say.

    :returns: ``INCONCLUSIVE`` where they are too few.
    """
    found = examine(case)
    if isinstance(found, Verdict):
        return found
    return Verdict(VerdictKind.INCONCLUSIVE, f"a further replay would be needed, {found.place.value}")


def examine(case: Case) -> Verdict | Want:
    """The verdict, or the replay that it needs next. At most five are asked for, all in all."""
    here = case.at(Place.HERE)
    if case.first is None:
        return Verdict(VerdictKind.INCONCLUSIVE, "nothing was reported in these steps that could be compared")
    if not here:
        return Want(Place.HERE)
    found = case.difference(here[0])
    if found is None:
        return _same_here(case, here[0])
    if len(here) < 2:
        return Want(Place.HERE)
    if _alike(case, here[0], here[1], found):
        return _alike_here(case, found)
    if here[1].problem and case.difference(here[1]) is None:
        return _failed(here[1], (str(found),))
    return _unlike_here(case, found, here[1])


def _same_here(case: Case, replay: Replay) -> Verdict | Want:
    """A device gives what it gave: another one may know better."""
    if replay.problem or not _compared(case, replay):
        return _failed(replay)
    elsewhere = case.at(Place.ELSEWHERE)
    if not case.elsewhere:
        reason = "the same again, bit for bit; there was no other device to ask"
        return Verdict(VerdictKind.REPRODUCED, reason)
    if not elsewhere:
        return Want(Place.ELSEWHERE)
    found = case.difference(elsewhere[0])
    if found is None:
        if elsewhere[0].problem:
            told = f"the replay on another device failed: {elsewhere[0].problem}"
            return Verdict(VerdictKind.REPRODUCED, "the same again on this device, bit for bit", evidence=(told,))
        return Verdict(VerdictKind.REPRODUCED, "the same again, bit for bit, on this device and on another")
    if _from_the_start(case, found):
        told = f"another device computes otherwise from the first step on, as devices of another kind do: {found}"
        return Verdict(VerdictKind.REPRODUCED, "the same again on this device, bit for bit", evidence=(told,))
    if len(elsewhere) < 2:
        return Want(Place.ELSEWHERE)
    if not _alike(case, elsewhere[0], elsewhere[1], found):
        told = f"replays on another device do not agree with each other: {found}"
        return Verdict(VerdictKind.REPRODUCED, "the same again on this device, bit for bit", evidence=(told,))
    reason = f"this device repeats what it gave, and another one gives something else, twice: {found}"
    return Verdict(VerdictKind.PERSISTENT_HARDWARE, reason, found.step)


def _alike_here(case: Case, found: Difference) -> Verdict | Want:
    """Two replays give the same, and not what the run had."""
    if _from_the_start(case, found):
        reason = (
            f"replays agree with each other, but not with the run from the first step after the snapshot on ({found}): "
            "the script depends on something that the snapshot does not hold, or is not in the same surroundings"
        )
        return Verdict(VerdictKind.NOT_REPRODUCIBLE, reason, found.step)
    elsewhere = case.at(Place.ELSEWHERE)
    if case.elsewhere and not elsewhere:
        return Want(Place.ELSEWHERE)
    evidence: tuple[str, ...] = ()
    if elsewhere and found.step in elsewhere[0].records:
        other = case.difference(elsewhere[0])
        if other is None:
            reason = f"this device does not give what it gave, and another one does: {found}"
            return Verdict(VerdictKind.PERSISTENT_HARDWARE, reason, found.step)
        same = _alike(case, case.at(Place.HERE)[0], elsewhere[0], found)
        evidence = (f"a replay on another device gives {'the same' if same else 'something else again'}",)
    reason = f"computed wrong once: {found} in two replays that agree"
    return Verdict(VerdictKind.TRANSIENT_HARDWARE, reason, found.step, evidence)


def _unlike_here(case: Case, found: Difference, second: Replay) -> Verdict | Want:
    """Replays on this device differ among themselves: the device, or the computation?"""
    elsewhere = case.at(Place.ELSEWHERE)
    if case.elsewhere and len(elsewhere) < 2 and not any(replay.problem for replay in elsewhere):
        return Want(Place.ELSEWHERE)
    among = first_difference(case.at(Place.HERE)[0].records, second.records, case.names)
    if len(elsewhere) == 2 and _agree(case, elsewhere[0], elsewhere[1], found.step):
        reason = f"this device gives something else each time, and another one the same twice: {among or found}"
        return Verdict(VerdictKind.PERSISTENT_HARDWARE, reason, found.step)
    every = [first for replay in case.replays if (first := case.difference(replay)) is not None]
    earliest = min([*every, *([among] if among is not None else [])], key=lambda one: (one.step, one.name != case.data))
    if earliest.name == case.data:
        reason = f"the data is not the same twice: {earliest}; seed whatever it draws from, or attach it"
        return Verdict(VerdictKind.NOT_REPRODUCIBLE, reason, earliest.step)
    deterministic = [replay for replay in case.replays if replay.deterministic]
    if not deterministic:
        return Want(Place.HERE, deterministic=True)
    return _nondeterministic(case, earliest, deterministic[0])


def _nondeterministic(case: Case, earliest: Difference, deterministic: Replay) -> Verdict:
    before = case.onset is not None and earliest.step < case.onset
    when = ", before anything looked wrong" if before else ""
    if deterministic.warnings:
        reason = f"kernels that are not deterministic: replays differ among themselves{when}: {earliest}"
        return Verdict(VerdictKind.NOT_REPRODUCIBLE, reason, earliest.step, deterministic.warnings)
    reason = f"replays differ among themselves{when}: {earliest}"
    told = "torch knows of no operation here that is not deterministic: the script may draw from what nobody seeds"
    if case.at(Place.ELSEWHERE):
        told += "; another device does not agree with itself either"
    else:
        told += "; or this device errs again and again, and there was no other to ask"
    return Verdict(VerdictKind.NOT_REPRODUCIBLE, reason, earliest.step, (told,))


def _alike(case: Case, one: Replay, other: Replay, found: Difference) -> bool:
    """Whether both have the same difference from the run, and agree for as long as both go on."""
    second = case.difference(other)
    return second is not None and second.step == found.step and _agree(case, one, other, found.step)


def _agree(case: Case, one: Replay, other: Replay, step: int) -> bool:
    reached = step in one.records and step in other.records
    return reached and first_difference(one.records, other.records, case.names) is None


def _compared(case: Case, replay: Replay) -> bool:
    """Whether there was anything in the replay to compare."""
    names = set(case.names)
    return any(
        place[1] in names
        for step in case.original.keys() & replay.records.keys()
        for place in case.original[step].keys() & replay.records[step].keys()
    )


def _from_the_start(case: Case, found: Difference) -> bool:
    return found.step == case.first and (case.onset is None or found.step < case.onset)


def _failed(replay: Replay, evidence: tuple[str, ...] = ()) -> Verdict:
    problem = replay.problem or "it reported nothing that could be compared"
    return Verdict(VerdictKind.INCONCLUSIVE, f"a replay failed: {problem}", None, evidence)


def _bits(value: float) -> bytes:
    return struct.pack("=d", value)
