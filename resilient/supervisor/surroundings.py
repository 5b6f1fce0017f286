"""The surroundings of an incident: versions, the host, and the variables that matter, without secrets."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping
from typing import Any

from resilient.protocol.paths import hostname

_PREFIXES = (
    *("CUDA_", "NCCL_", "SLURM_", "TORCH_", "TORCHELASTIC_", "PYTORCH_", "GLOO_", "TP_", "C10D_"),
    *("HIP_", "ROCR_", "NVIDIA_", "OMP_", "MKL_", "UCX_", "FI_", "RESILIENT_", "MALLOC_"),
)
_NAMES = frozenset(
    {
        *("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"),
        *("PYTHONHASHSEED", "PYTHONFAULTHANDLER", "LD_PRELOAD", "TMPDIR"),
    }
)
_SECRET = re.compile(r"TOKEN|KEY|SECRET|PASSW|CREDENTIAL|AUTH|JWT|COOKIE|SIGNATURE", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")
_LONGEST = 1000


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that may be shown: those on a list of what matters here, and of these none that may be a secret."""
    shown = {}
    for name, value in sorted(environ.items()):
        if name in _NAMES or name.startswith(_PREFIXES):
            shown[name] = "(not shown)" if _SECRET.search(name) else _LOGIN.sub("…@", value[:_LONGEST])
    return shown


def surroundings(worker_environment: Mapping[str, str], versions: Mapping[str, str]) -> dict[str, Any]:
    """Where and with what the run was running."""
    return {
        "host": hostname(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "cpus": os.cpu_count(),
        "versions": dict(versions),
        "variables": variables({**os.environ, **worker_environment}),
    }
