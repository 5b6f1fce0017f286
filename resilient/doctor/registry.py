"""All checks, in the order in which they are listed."""

from __future__ import annotations

from resilient.doctor import (
    clock,
    configuration,
    disk,
    evidence,
    gpu,
    limits,
    memory,
    network,
    python,
    semantics,
    several,
    signals,
    slurm,
)
from resilient.doctor.check import Check

CHECKS: tuple[Check, ...] = (
    *configuration.CHECKS,
    *python.CHECKS,
    *gpu.CHECKS,
    *memory.CHECKS,
    *disk.CHECKS,
    *semantics.CHECKS,
    *several.CHECKS,
    *limits.CHECKS,
    *signals.CHECKS,
    *clock.CHECKS,
    *network.CHECKS,
    *evidence.CHECKS,
    *slurm.CHECKS,
)
