"""One conversion in a process of its own; prints its seconds and its peak as JSON. See :mod:`benchmarks.convert`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save, torch_save_to_dcp

from resilient.convert.request import Request, carry_out

_WIDTH, _VOCABULARY = 1024, 50_304


def shapes_of(gigabytes: float) -> dict[str, tuple[int, ...]]:
    """A model that has so many with its AdamW state: an embedding, and as many blocks as it takes."""
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
    return shapes


def _make(path: Path, gigabytes: float) -> dict[str, Any]:
    model = {name: torch.randn(shape) for name, shape in shapes_of(gigabytes).items()}
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
    return _sizes([tensor.nbytes for tensor in model.values()])


def _sizes(model: list[int]) -> dict[str, Any]:
    return {"state": 3 * sum(model), "largest": max(model)}


def _make_zero(path: Path, gigabytes: float) -> dict[str, Any]:
    """The same model as DeepSpeed saves it from two ranks."""
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "benchmarks.convert_zero")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(path), str(gigabytes)]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
    return _sizes([4 * torch.Size(shape).numel() for shape in shapes_of(gigabytes).values()])


def _by_torch_and_safetensors(source: Path, target: Path) -> None:
    from safetensors.torch import save_file  # noqa: PLC0415  the others' peaks are to be without it

    loaded = torch.load(source, weights_only=True)
    flat = dict(loaded["model"])
    for index, moments in loaded["optimizer"]["state"].items():
        flat |= {f"optimizer.{index}.{name}": tensor for name, tensor in moments.items()}
    save_file(flat, target)


def _by_safetensors_and_torch(source: Path, target: Path) -> None:
    from safetensors.torch import load_file  # noqa: PLC0415  likewise

    torch.save(load_file(source), target)


def _by_zero_to_fp32(source: Path, target: Path) -> None:
    from deepspeed.utils.zero_to_fp32 import convert_zero_checkpoint_to_fp32_state_dict  # noqa: PLC0415  likewise

    with redirect_stdout(sys.stderr):
        convert_zero_checkpoint_to_fp32_state_dict(str(source), str(target))


_PEERS: dict[str, Callable[[Path, Path], object]] = {
    "torch.load, save_file": _by_torch_and_safetensors,
    "load_file, torch.save": _by_safetensors_and_torch,
    "torch_save_to_dcp": torch_save_to_dcp,
    "dcp_to_torch_save": dcp_to_torch_save,
    "zero_to_fp32": _by_zero_to_fp32,
}
_MAKERS = {"make": _make, "make_zero": _make_zero}


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
    if do in _MAKERS:
        print(json.dumps(_MAKERS[do](path, float(arguments[1]))))
        return
    target, form, only = Path(arguments[1]), arguments[2], arguments[3]
    _drop_caches(path)
    begun = time.perf_counter()
    if do == "resilient":
        carry_out(Request(path, target, to=form, only=only), quiet=True)
    else:
        _PEERS[do](path, target)
    print(json.dumps({"seconds": time.perf_counter() - begun, "peak": _peak()}))


if __name__ == "__main__":
    main(*sys.argv[1:])
