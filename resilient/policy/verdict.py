"""What a replay of the steps before a divergence says: was it the data, the optimization, or the hardware?"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any


class VerdictKind(str, Enum):
    """What a window of steps, run again from its snapshot, turned out to be."""

    REPRODUCED = "reproduced"
    """The same again, bit for bit, on other hardware too where there is any: data or optimization."""
    TRANSIENT_HARDWARE = "transient hardware"
    """Replays agree with each other and not with what the run had computed: the hardware erred once."""
    PERSISTENT_HARDWARE = "persistent hardware"
    """Replays on this device agree with the run, or err anew each time; replays on another device agree with each other
    and not with it.
    """
    NOT_REPRODUCIBLE = "not reproducible"
    """Replays differ among themselves, so that nothing can be concluded: nondeterministic kernels or data."""
    INCONCLUSIVE = "inconclusive"
    """There was nothing to compare, or a replay failed or took too long."""


@dataclass(frozen=True)
class Verdict:
    """:param reason: one sentence for the incident.
    :param step: the first step that differs, if one does.
    :param evidence: further sentences.
    """

    kind: VerdictKind
    reason: str
    step: int | None = None
    evidence: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind.value, "reason": self.reason, "step": self.step, "evidence": list(self.evidence)}

    @classmethod
    def from_json(cls, saved: Any) -> Verdict:
        """What :meth:`to_json` made; raises ValueError if it is anything else."""
        try:
            step = saved["step"]
            evidence = tuple(map(str, saved["evidence"]))
            kind = VerdictKind(saved["kind"])
            return cls(kind, str(saved["reason"]), None if step is None else int(step), evidence)
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise ValueError(f"not a verdict: {error!r}") from error
