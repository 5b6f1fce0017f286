"""Buckets by what they mean for whoever pays: four colours are told apart, fifteen are not."""

from __future__ import annotations

from collections.abc import Mapping

from resilient.report.buckets import Bucket

GOOD, OVERHEAD, LOST, AWAY = "good", "overhead", "lost", "away"
WORDS: Mapping[str, str] = {
    GOOD: "productive",
    OVERHEAD: "overhead",
    LOST: "lost to failures",
    AWAY: "nobody had the run",
}
GROUPS: Mapping[Bucket, str] = {
    **dict.fromkeys(Bucket, OVERHEAD),
    Bucket.STEPS: GOOD,
    Bucket.EVALUATION: GOOD,
    Bucket.LOST: LOST,
    Bucket.DISCARDED: LOST,
    Bucket.REPLAY: LOST,
    Bucket.HANG: LOST,
    Bucket.BACKOFF: LOST,
    Bucket.QUEUE: AWAY,
    Bucket.IDLE: AWAY,
}
