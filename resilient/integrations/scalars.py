"""From what a framework has logged to what a run can report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from resilient.protocol.metrics_log import OURS, RESERVED


def scalars(logged: Mapping[str, Any]) -> dict[str, Any]:
    """The single numbers among ``logged``, under names that are free."""
    return {
        name: value
        for name, value in logged.items()
        if (isinstance(value, (int, float)) or (isinstance(value, torch.Tensor) and value.numel() == 1))
        and name not in RESERVED
        and not name.startswith(OURS)
    }
