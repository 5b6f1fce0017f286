"""The names of failures. What is done about each is in :mod:`resilient.policy.treatments`."""

from __future__ import annotations

from enum import Enum


class FailureClass(str, Enum):
    """What happened; decides the remedy."""

    KILLED = "killed"
    CRASH = "crash"
    HARDWARE = "hardware"
    HOST_OOM = "host out of memory"
    DEVICE_OOM = "device out of memory"
    DEVICE_ERROR = "ambiguous device error"
    DEVICE_ASSERT = "device-side assert"
    CODE = "code or configuration"
    APPLICATION = "application error"
    NUMERIC = "divergence"
    DATA = "data loading"
    TRANSIENT_IO = "transient I/O"
    DISK = "disk full"
    BAD_SNAPSHOT = "bad snapshot"
    BAD_CHECKPOINT = "unreadable checkpoint of the script"
    HANG = "hang"
    NETWORK = "network or peer"
    ECHO = "echo of another rank's failure"
    UNFINISHED = "exited before the run was finished"
    PREEMPTION = "preemption"
    DECLARED = "declared by the script"
    SUPERVISOR_LOST = "supervisor lost"
    NODE_LOST = "node lost"

    @classmethod
    def _missing_(cls, value: object) -> FailureClass | None:
        """What journals of earlier releases call it."""
        return cls.NUMERIC if value == "not a finite number" else None
