"""The state that is saved: the same bytes for every contestant, from a name and a seed. Pure torch.

``gpt`` is a small GPT with AdamW, 1.36 GB in 768 tensors (256 parameters of the shapes a GPT has, and their two
moments) and 256 step counters. ``tiny`` is 10,000 tensors, 2,500 parameters of 64 elements with everything that AdamW
keeps for each.
"""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_LAYERS, _WIDTH, _VOCABULARY, _BLOCK = 21, 576, 50_304, 1024
_TINY_PARAMETERS, _TINY_ELEMENTS = 2_500, 64
NAMES = ("gpt", "tiny")


def _gpt() -> nn.Module:
    """Of a GPT only what has parameters, named as in nanoGPT."""
    width, blocks = _WIDTH, []
    for _ in range(_LAYERS):
        attention = nn.ModuleDict({"c_attn": nn.Linear(width, 3 * width), "c_proj": nn.Linear(width, width)})
        mlp = nn.ModuleDict({"c_fc": nn.Linear(width, 4 * width), "c_proj": nn.Linear(4 * width, width)})
        parts = {"ln_1": nn.LayerNorm(width), "attn": attention, "ln_2": nn.LayerNorm(width), "mlp": mlp}
        blocks.append(nn.ModuleDict(parts))
    embeddings = {"wte": nn.Embedding(_VOCABULARY, width), "wpe": nn.Embedding(_BLOCK, width)}
    return nn.ModuleDict({**embeddings, "h": nn.ModuleList(blocks), "ln_f": nn.LayerNorm(width)})


def _tiny() -> nn.Module:
    return nn.ParameterList(nn.Parameter(torch.randn(_TINY_ELEMENTS)) for _ in range(_TINY_PARAMETERS))


@dataclass
class State:
    """A model, and an optimizer that has taken a step, so that it has state."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    @classmethod
    def build(cls, name: str, seed: int = 0) -> State:
        torch.manual_seed(seed)
        model = {"gpt": _gpt, "tiny": _tiny}[name]()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return cls(model, optimizer)

    def tree(self) -> dict[str, Any]:
        """What a script saves; its tensors are the live ones."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def install(self, tree: dict[str, Any]) -> None:
        """What a script does with what it has loaded."""
        self.model.load_state_dict(tree["model"])
        self.optimizer.load_state_dict(tree["optimizer"])

    def tensors(self) -> list[Tensor]:
        """All of them, the live ones; loading may replace the optimizer's."""
        parameters = list(self.model.parameters())
        moments = [value for parameter in parameters for value in self.optimizer.state[parameter].values()]
        return [tensor.detach() for tensor in [*parameters, *moments]]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors())

    def fingerprint(self) -> int:
        """A checksum of all bytes, by which contestants are seen to hold the same, and to load what they saved."""
        found = 0
        for tensor in self.tensors():
            found = zlib.crc32((ctypes.c_char * tensor.nbytes).from_address(tensor.data_ptr()), found)
        return found

    def clear(self) -> None:
        for tensor in self.tensors():
            tensor.zero_()

    def mark(self, value: float) -> None:
        """Make this the first element of every tensor: a save that was torn shows two values."""
        for tensor in self.tensors():
            tensor.view(-1)[:1] = value

    def marks(self) -> list[float]:
        return [float(tensor.view(-1)[0]) for tensor in self.tensors()]

    def set_marks(self, values: list[float]) -> None:
        for tensor, value in zip(self.tensors(), values, strict=True):
            tensor.view(-1)[:1] = value
