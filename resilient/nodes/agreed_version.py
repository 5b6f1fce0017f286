"""The version of a run's nodes: who has another one cannot work together with the rest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from resilient.protocol.settings import SnapshotSettings
from resilient.supervisor import start
from resilient.supervisor.settings import WorkerSettings


def agreed_version(worker: WorkerSettings, snapshot: SnapshotSettings, train: Mapping[str, Any]) -> str:
    """What all nodes must agree on, or they could not work together."""
    agreed = {
        **start.installed_versions(),
        "script": worker.script or worker.module,
        "args": worker.args,
        "train": train,
        "slots": snapshot.slots,
    }
    return hashlib.sha256(json.dumps(agreed, sort_keys=True, default=str).encode()).hexdigest()[:16]
