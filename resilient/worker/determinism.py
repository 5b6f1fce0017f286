"""In a replay that asks for it: torch says which of its operations are not deterministic, once for each."""

from __future__ import annotations

import torch


def arm() -> None:
    """Use deterministic algorithms where there are any; where there are none, a warning goes to the worker's log."""
    torch.use_deterministic_algorithms(True, warn_only=True)
