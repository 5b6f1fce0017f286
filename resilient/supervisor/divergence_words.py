"""Divergence and rollbacks in words, for the person at the terminal."""

from __future__ import annotations

from resilient.policy.divergence import Accepted, Divergence, DivergenceKind, Finding, Recovered
from resilient.policy.lineage import Lineage, Rollback


def finding_in_words(finding: Finding) -> str:
    """One line. The rollback or the incident that follows a divergence says since when, and what led to it."""
    evidence = f" ({finding.evidence[0]})" if finding.evidence else ""
    what = f"{finding.kind.value} of {finding.metric}"
    if isinstance(finding, Recovered):
        return f"step {finding.step}: the {what} since step {finding.onset_step} is over{evidence}"
    if isinstance(finding, Accepted):
        return f"step {finding.step}: the {what} since step {finding.onset_step} is taken for normal now{evidence}"
    stands = f"{finding.metric} is {finding.value:.5g}"
    if finding.kind is not DivergenceKind.NONFINITE:
        stands += f" where {finding.baseline:.5g} was to be expected"
    if isinstance(finding, Divergence):
        return f"step {finding.step}: DIVERGENCE, {stands}"
    return f"step {finding.step}: ALARM, {what} since step {finding.onset_step}: {stands}"


def rollback_in_words(rollback: Rollback, lr_before: float) -> str:
    """Where to, what is left out, and why."""
    parts = [f"rolling back to {f'step {rollback.target}' if rollback.target else 'the beginning'}"]
    if rollback.skip is not None:
        parts.append(f"leaving out the data of steps {rollback.skip[0]} to {rollback.skip[1]}")
    if rollback.lr_factor != lr_before:
        parts.append(f"learning rate × {rollback.lr_factor:g}")
    return f"{', '.join(parts)}: {rollback.reason}" if rollback.reason else ", ".join(parts)


def lineage_in_words(lineage: Lineage) -> str:
    """What of the lineage makes a round another one than the script alone would be; empty if nothing does."""
    parts = []
    if lineage.lr_factor != 1.0:
        parts.append(f"learning rate × {lineage.lr_factor:g}")
    inside = [skip for skip in lineage.skips if skip.start[0] == skip.end[0] and skip.unit == "samples"]
    samples = sum(skip.end[1] - skip.start[1] for skip in inside)
    if samples:
        parts.append(f"leaving out {samples} samples")
    if others := len(lineage.skips) - len(inside):
        parts.append("leaving out the data of " + ("1 more window" if others == 1 else f"{others} more windows"))
    parts += [f"leaving out the data of steps {first} to {last}" for first, last in lineage.unresolved]
    return ", ".join(parts)
