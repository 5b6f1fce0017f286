"""One conversion in a process of its own; prints its seconds and its peak as JSON. See :mod:`benchmarks.convert`."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp

from resilient.convert.request import Request, carry_out

_WIDTH, _VOCABULARY = 1024, 50_304


def _make(path: Path, gigabytes: float) -> dict[str, Any]:
    """A model and its AdamW state: an embedding, and as many blocks as it takes."""
    shapes: dict[str, tuple[int, ...]] = {"embed.weight": (_VOCABULARY, _WIDTH)} if gigabytes else {"w": (1,)}
    block: dict[str, tuple[int, ...]] = {
        "attention": (3 * _WIDTH, _WIDTH),
        "out": (_WIDTH, _WIDTH),
        "up": (4 * _WIDTH, _WIDTH),
        "norm": (_WIDTH,),
    }
    number = 0
    while 12 * sum(torch.Size(shape).numel() for shape in shapes.values()) < gigabytes * 1e9:
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
        number += 1
    model = {name: torch.randn(shape) for name, shape in shapes.items()}
    state = {
        index: {
            "step": torch.tensor(7.0),
            "exp_avg": torch.randn_like(each),
            "exp_avg_sq": torch.randn_like(each).abs(),
        }
        for index, each in enumerate(model.values())
    }
    groups = [{"lr": 1e-3, "betas": (0.9, 0.999), "params": list(range(len(model)))}]
    torch.save({"model": model, "optimizer": {"state": state, "param_groups": groups}}, path)
    sizes = [tensor.nbytes for tensor in model.values()]
    return {"state": 3 * sum(sizes), "largest": max(sizes)}


def _by_torch_and_safetensors(source: Path, target: Path, _form: str) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415  only here

    loaded = torch.load(source, weights_only=True)
    flat = dict(loaded["model"])
    for index, moments in loaded["optimizer"]["state"].items():
        flat |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    save_file(flat, target)


_WAYS: dict[str, Callable[[Path, Path, str], object]] = {
    "resilient": lambda source, target, form: carry_out(Request(source, target, to=form), quiet=True),
    "torch.load, save_file": _by_torch_and_safetensors,
    "torch_save_to_dcp": lambda source, target, _form: torch_save_to_dcp(source, target),
    "dcp_to_torch_save": lambda source, target, _form: dcp_to_torch_save(source, target),
}


def _drop_caches(path: Path) -> None:
    os.sync()
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            with file.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _peak() -> int:
    """Bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) << 10


def main(do: str, *arguments: str) -> None:
    path = Path(arguments[0])
    if do == "make":
        found = _make(path, float(arguments[1]))
    else:
        _drop_caches(path)
        begun = time.perf_counter()
        _WAYS[do](path, Path(arguments[1]), arguments[2])
        found = {"seconds": time.perf_counter() - begun, "peak": _peak()}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
