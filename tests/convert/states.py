"""A small state with everything that conversions stumble over, and what it means that two states are equal."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resilient.convert.checkpoint import Writing
from resilient.convert.conversion import write
from resilient.convert.formats import format_named
from resilient.convert.opening import open_checkpoint

NAMES = {"torch": "state.pt", "safetensors": "state.safetensors", "dcp": "dcp", "resilient": "step-000000007"}


def nasty() -> dict[str, Any]:
    """Torch objects throughout, as ``state_dict()`` and the scripts of people give them."""
    generator = torch.Generator().manual_seed(0)
    tied = torch.randn(4, 3, generator=generator)
    odd = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    model = OrderedDict(
        {
            "embed.weight": tied,
            "head.weight": tied,
            "conv": torch.randn(2, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last),
            "half": torch.randn(5, generator=generator).to(torch.bfloat16),
            "small": torch.randn(6, generator=generator).to(torch.float8_e4m3fn),
            "scalar": torch.tensor(2.5),
            "count": torch.tensor(3),
            "empty": torch.empty(0, 7),
            "slice": torch.arange(36.0).reshape(6, 6)[::2, 1:3],
            "expanded": torch.ones(1).expand(3),
            "odd": odd,
            "mask": torch.tensor([True, False]),
            "words": torch.arange(5).to(torch.uint16),
            "complex": torch.randn(2, generator=generator, dtype=torch.complex64),
            "view of": torch.arange(12)[3:7],
        }
    )
    moments = {"step": torch.tensor(257.0), "exp_avg": torch.randn(4, 3, generator=generator), "half": odd.bfloat16()}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "fused": None, "params": [0, 1], "max": math.inf, "bad": math.nan}]
    return {
        "model": model,
        "optimizer": {"state": {0: moments, 1: {}}, "param_groups": groups},
        "scheduler": {"last_epoch": 3, "_last_lr": [0.5], "milestones": Counter({30: 1}), "large": -(2**70)},
        "data": {"": {}, "$seen": {1, 2}, (1, "a"): b"\0\xff", "tuple": (torch.arange(3), [tied, {}]), "z": 1 + 2j},
        "types": {"dtype": torch.bfloat16, "device": torch.device("cuda:1"), "shape": (2, 3)},
    }


def differences(wanted: Any, found: Any, path: str = "") -> list[str]:
    """Paths at which two states differ, in type, value or bit."""
    if isinstance(wanted, (torch.Tensor, np.ndarray)):
        return [] if _equal(wanted, found) else [path]
    if isinstance(wanted, dict):
        if not isinstance(found, dict) or list(map(_typed, wanted)) != list(map(_typed, found)):
            return [f"{path} has other keys"]
        return [text for key in wanted for text in differences(wanted[key], found[key], f"{path}.{key}")]
    if isinstance(wanted, (list, tuple)):
        if type(wanted) is not type(found) or len(wanted) != len(found):
            return [path]
        pairs = enumerate(zip(wanted, found, strict=True))
        return [text for index, (one, other) in pairs for text in differences(one, other, f"{path}.{index}")]
    same = type(wanted) is type(found) and (wanted == found or repr(wanted) == repr(found))
    return [] if same else [path]


def _typed(key: Any) -> tuple[Any, ...]:
    return (type(key), key)


def _equal(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, np.ndarray):
        return isinstance(found, np.ndarray) and wanted.dtype == found.dtype and bool(np.array_equal(wanted, found))
    return (
        isinstance(found, torch.Tensor)
        and (wanted.dtype, wanted.shape) == (found.dtype, found.shape)
        and bits(wanted) == bits(found)
    )


def bits(tensor: torch.Tensor) -> bytes:
    return bytes(tensor.detach().contiguous().flatten().view(torch.uint8).tolist()) if tensor.numel() else b""


def convert(source: Path, target: Path, form: str, **how: Any) -> tuple[str, ...]:
    """Convert with nothing of the command line; returns the notes."""
    found = open_checkpoint(source)
    found.verify()
    return write(found.tree, format_named(form), target, Writing(step=found.step, **how)).notes


def made(folder: Path, form: str, state: Any = None) -> Path:
    """The nasty state as a checkpoint of this format; only ``torch`` without any code of ours."""
    first = folder / "by torch.pt"
    torch.save(nasty() if state is None else state, first)
    path = folder / NAMES[form]
    convert(first, path, form)
    return path
