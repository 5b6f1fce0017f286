"""The training script of the end-to-end divergence benchmark: the example's model, with a fault where it is told so.

Faults of the *data* lie in the samples that the clean run met at those steps, and are met again by whoever takes these
samples again. Faults of the *machine* happen once, in the first pass over their steps, as a flipped bit does.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  the name every PyTorch reader knows
from torch.utils.data import DataLoader, Dataset

import resilient

# the example is a directory of scripts, not a package; this is a script, too, and knows no package of its own
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples" / "bytelm"))
from corpus import ByteWindows, load
from model import GPT, GPTConfig

from benchmarks.byte_loss import evaluate

BLOCK, WARMUP = 64, 20


@dataclass(frozen=True)
class Settings:
    """:param fault: a key of :data:`MACHINE` or :data:`DATA`; empty for none.
    :param at: the first step that it touches, of ``length`` steps.
    :param order: file with the samples of each step of the clean run, which writes it.
    :param folder: for what is to outlive the process.
    """

    steps: int = 700
    seed: int = 0
    fault: str = ""
    at: int = 400
    length: int = 20
    order: str = ""
    folder: str = "."
    lr: float = 2e-3
    batch_size: int = 8


Spoil = Callable[[Tensor, int], tuple[Tensor, float]]
"""From the targets of a sample and its number to other targets, and the sample's weight."""


class Samples(Dataset[tuple[Tensor, Tensor, float, int]]):
    """Windows of text with their weights and numbers; some of them spoiled."""

    def __init__(self, inner: ByteWindows, bad: frozenset[int], spoil: Spoil) -> None:
        self._inner = inner
        self._bad = bad
        self._spoil = spoil

    def __len__(self) -> int:
        return len(self._inner)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, float, int]:
        x, y = self._inner[index]
        y, weight = self._spoil(y, index) if index in self._bad else (y, 1.0)
        return x, y, weight, index


def _random_bytes(y: Tensor, index: int) -> tuple[Tensor, float]:
    """A damaged file. Inputs stay, so that the sample is one that the model could learn from."""
    return torch.randint(0, 256, y.shape, generator=torch.Generator().manual_seed(index)), 1.0


def _constant(y: Tensor, _: int) -> tuple[Tensor, float]:
    """A hole in a file: it reads as one byte that never occurs in the text."""
    return torch.full_like(y, 1), 1.0


def _infinite(y: Tensor, _: int) -> tuple[Tensor, float]:
    """A weight that somebody computed by a division by zero."""
    return y, float("inf")


DATA: dict[str, Spoil] = {
    "corrupt batches": _random_bytes,
    "constant targets": _constant,
    "infinite weight": _infinite,
}


@dataclass(frozen=True)
class Moment:
    """The n-th step of a fault, from 0."""

    model: GPT
    optimizer: torch.optim.Optimizer
    since: int


def _learning_rate(moment: Moment) -> None:
    for group in moment.optimizer.param_groups:
        group["lr"] *= 100


def _bit_flip(moment: Moment) -> None:
    if moment.since == 0:
        moment.model.head.weight.detach().view(-1).view(torch.int32)[4242] ^= 1 << 30


def _noise(moment: Moment) -> None:
    generator = torch.Generator().manual_seed(moment.since)
    for parameter in moment.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(noise, alpha=2e-4 * min(moment.since, 150))


MACHINE: dict[str, Callable[[Moment], None]] = {
    "learning rate x 100": _learning_rate,
    "bit flip in a weight": _bit_flip,
    "slow drift": _noise,
}


class Once:
    """A fault of the machine: over for good after its steps, or when the run has been taken back."""

    def __init__(self, settings: Settings) -> None:
        self._fault = MACHINE.get(settings.fault)
        self._settings = settings
        self._reached = Path(settings.folder) / "fault-reached"
        self._over = Path(settings.folder) / "fault-over"

    def apply(self, step: int, model: GPT, optimizer: torch.optim.Optimizer) -> None:
        first, length = self._settings.at, self._settings.length
        if self._fault is None or not first <= step < first + length or self._over.exists():
            return
        if self._reached.exists() and step <= int(self._reached.read_text()):
            self._over.touch()
            return
        fresh = self._reached.with_suffix(".new")  # the process may be killed at any moment
        fresh.write_text(str(step))
        fresh.replace(self._reached)
        with torch.no_grad():
            self._fault(Moment(model, optimizer, step - first))


def main() -> None:
    settings = resilient.config(Settings)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    train, val = load()
    order = Path(settings.order)
    bad: frozenset[int] = frozenset()
    if settings.fault in DATA:
        steps = range(settings.at, settings.at + settings.length)
        bad = frozenset(index for step in steps for index in json.loads(order.read_text())[str(step)])
    data = Samples(ByteWindows(train, BLOCK), bad, DATA.get(settings.fault, _random_bytes))
    loader = DataLoader(data, batch_size=settings.batch_size, shuffle=True, drop_last=True)
    model = build()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.95), weight_decay=0.1)
    run = resilient.attach(model=model, optimizer=optimizer, data=loader)
    seen: dict[int, list[int]] = {}
    fault = Once(settings)
    for step, (x, y, weight, index) in run.steps(total=settings.steps):
        seen[step] = index.tolist()
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * min(1.0, step / WARMUP)
        fault.apply(step, model, optimizer)
        loss = loss_of(model, x, y, weight)
        loss.backward()  # type: ignore[no-untyped-call]  # of torch
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        run.report(loss=loss, grad_norm=norm)
    if run.finished:
        if not settings.fault:
            order.write_text(json.dumps(seen))
        result = {"val_loss": evaluate(model, val, BLOCK)}
        (Path(settings.folder) / "final.json").write_text(json.dumps(result))


def build() -> GPT:
    return GPT(GPTConfig(block_size=BLOCK, layers=2, heads=2, width=64, dropout=0.0))


def loss_of(model: GPT, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """Mean over all targets, each sample with its weight, nats per byte."""
    logits, _ = model(x, y)
    each = F.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="none").view_as(y).mean(1)
    return (each * weight.float()).mean()


if __name__ == "__main__":
    main()
