"""Clusters to begin with."""

from __future__ import annotations

from collections.abc import Mapping

from resilient.simulate.faults import LLAMA3_DAYS, LLAMA3_GPUS, LLAMA3_INTERRUPTIONS
from resilient.simulate.plan import Plan

_LLAMA3_RATE = LLAMA3_INTERRUPTIONS / (LLAMA3_GPUS * LLAMA3_DAYS * 24)

PRESETS: Mapping[str, Plan] = {
    # 405 · 10⁹ parameters in bf16 with weights and two moments in fp32; the storage sustained 2 TB/s (the paper, 3.3.1)
    "llama3": Plan(
        cluster="llama3",
        gpus=LLAMA3_GPUS,
        days=LLAMA3_DAYS,
        failures_per_gpu_hour=_LLAMA3_RATE,
        spares=32,
        parameters=405,
        bytes_per_parameter=14,
        remote_gbs=2000,
    ),
    "dense70b": Plan(cluster="dense70b", gpus=1024, parameters=70, bytes_per_parameter=6),
    # machines that are taken away and given back
    "spot": Plan(
        cluster="spot", gpus=64, parameters=7, bytes_per_parameter=14, remote_gbs=10, preemptions_per_day=4, spares=0
    ),
}
