"""What every second of a run is counted as."""

from __future__ import annotations

from enum import Enum


class Bucket(str, Enum):
    """One kind of time. ``label`` is for a table, ``explains`` for whoever wonders.

    Goodput is the share of the first two. An evaluation is work that an undisturbed run does as well; so are waiting
    for data and snapshots, but those are overhead that can be made less.
    """

    label: str
    explains: str

    def __new__(cls, value: str, label: str, explains: str) -> Bucket:
        member = str.__new__(cls, value)
        member._value_ = value
        member.label, member.explains = label, explains
        return member

    STEPS = "steps", "productive steps", "steps that the run still stands on"
    EVALUATION = "evaluation", "evaluation", "run.phase: what is no step and was asked for"
    DATA = "data_wait", "waiting for data", "steps that waited for their batch"
    STALL = "snapshot_stall", "snapshot stall", "snapshots that held the training up"
    LOST = "lost_steps", "lost steps", "steps that a failure undid, and those it cut short"
    DISCARDED = "rollback_discarded", "rolled back", "steps that a rollback discarded"
    REPLAY = "replay", "replay", "steps run again to see whether the hardware was right"
    HANG = "hang_detection", "hang detection", "from the last step of a hung round until its workers were gone"
    LAUNCH = "launch", "launch", "starting the supervisor, choosing a snapshot, forking workers"
    IMPORT = "import", "import", "imports, and the script until it attaches"
    RESTORE = "restore", "restore", "from a snapshot on disk to memory, and from there into the script's objects"
    BACKOFF = "back_off", "back-off", "waits before a relaunch"
    SHUTDOWN = "shutdown", "shutdown", "bringing a round or the run to its end, with its last snapshot"
    QUEUE = "queue", "queue", "between two supervisors, after a preemption or the loss of one"
    IDLE = "idle", "idle", "ended by a person or with a diagnosis, until somebody started it again"


BY_NAME = {bucket.value: bucket for bucket in Bucket}
GOOD = frozenset({Bucket.STEPS, Bucket.EVALUATION})
"""What goodput is the share of."""
