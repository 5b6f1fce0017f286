"""What the detectors say: frozen findings, each with what led to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class DivergenceKind(Enum):
    """What was seen."""

    NONFINITE = "nonfinite"
    SPIKE = "spike"
    DRIFT = "drift"


@dataclass(frozen=True)
class Finding:
    """Common to all verdicts.

    :ivar what: the name of the verdict, which plain data has no other place for.
    :param onset_step: the first step at which anything looked wrong.
    :param alarm_step: the step at which that was certain enough to say.
    :param step: the step of this verdict; later than the alarm where patience lies between.
    :param value: of the metric at ``step``.
    :param baseline: where it was expected.
    :param scale: the unit that its distance was judged in; 0 where none was needed.
    :param evidence: sentences for the incident and its reader.
    """

    kind: DivergenceKind
    metric: str
    onset_step: int
    alarm_step: int
    step: int
    value: float
    baseline: float
    scale: float
    evidence: tuple[str, ...] = ()
    what: str = field(default="finding", init=False)


@dataclass(frozen=True)
class Alarm(Finding):
    """Something is wrong; it may still recover. Nothing from the onset on is to be trusted meanwhile."""

    what: str = field(default="alarm", init=False)


@dataclass(frozen=True)
class Divergence(Finding):
    """It did not recover."""

    what: str = field(default="divergence", init=False)


@dataclass(frozen=True)
class Recovered(Finding):
    """The alarm of that onset is over, by itself."""

    what: str = field(default="recovered", init=False)


@dataclass(frozen=True)
class Accepted(Finding):
    """The metric has stayed on its new level for so long, with nobody acting, that this is what is normal now."""

    what: str = field(default="accepted", init=False)
