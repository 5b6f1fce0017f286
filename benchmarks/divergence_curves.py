"""Loss curves with faults in them: real training of the example model, hurt on purpose.

One seed trains one small model to the step of the fault; from there one branch goes on unhurt, the *twin*, and each
kind of fault gets a branch of its own with the same weights, optimizer, generators and coming batches. What a fault did
is then the difference to the twin, in which the noise of the batches cancels.
"""

from __future__ import annotations

import copy
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "bytelm"
BEFORE, AFTER = (260, 340), 200  # steps to the fault, drawn between these; steps after it
LR, WARMUP, BATCH, BLOCK, CLIP = 2e-3, 20, 8, 64, 1.0
VERSION = 1  # of all of the above: curves of another version are made anew


@dataclass(frozen=True)
class Curve:
    """What a run reported, step 1 first.

    :param fault: the first step that the fault touched; 0 without one.
    :param loss: before the update of that step, so that a bad update shows one step later.
    """

    kind: str
    seed: int
    fault: int
    loss: list[float]
    grad_norm: list[float]
    version: int = VERSION


@dataclass
class Training:
    """A model in training that can be copied whole."""

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    data: np.ndarray[Any, np.dtype[np.uint8]]
    batches: np.random.Generator
    lr: float = LR
    loss: list[float] = field(default_factory=list)
    grad_norm: list[float] = field(default_factory=list)

    def copy(self) -> Training:
        """The weights twice, the data once."""
        with torch.random.fork_rng():
            model = copy.deepcopy(self.model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
        optimizer.load_state_dict(copy.deepcopy(self.optimizer.state_dict()))
        batches = np.random.default_rng()
        batches.bit_generator.state = copy.deepcopy(self.batches.bit_generator.state)
        return Training(model, optimizer, self.data, batches, self.lr, list(self.loss), list(self.grad_norm))

    def step(self, spoil: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None) -> None:
        starts = self.batches.integers(0, len(self.data) - BLOCK - 1, BATCH)
        windows = self.data[starts[:, None] + np.arange(BLOCK + 1)].astype(np.int64)
        x, y = torch.from_numpy(windows[:, :-1].copy()), torch.from_numpy(windows[:, 1:].copy())
        if spoil:
            x, y = spoil(x, y)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * min(1.0, (len(self.loss) + 1) / WARMUP)
        _, loss = self.model(x, y)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss.append(float(loss.detach()))
        self.grad_norm.append(float(norm))


Fault = Callable[[Training, int, np.random.Generator], None]  # one step of training, the n-th since the fault (0 …)


def _lr(factor: float, steps: int) -> Fault:
    def run(training: Training, since: int, _: np.random.Generator) -> None:
        training.lr = LR * factor if since < steps else LR
        training.step()

    return run


def _noise(steps: int) -> Fault:
    """Batches of random bytes, as from a corrupt file."""

    def spoil(x: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.randint(0, 256, (x.shape[0], x.shape[1] + 1))
        return noise[:, :-1], noise[:, 1:]

    return lambda training, since, _: training.step(spoil if since < steps else None)


def _shuffled_labels(share: float) -> Fault:
    """From now on this share of each batch has the labels of another sample: a pipeline that came out of step."""

    def spoil(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        count = round(share * len(y))
        return x, torch.cat([y[:count].roll(1, 0), y[count:]])

    return lambda training, _, __: training.step(spoil)


def _bit_flip(bit: int, weights: int) -> Fault:
    """Once, one bit of so many weights that lie side by side, as a faulty memory would."""

    def run(training: Training, since: int, random: np.random.Generator) -> None:
        if since == 0:
            parameters = [p for p in training.model.parameters() if p.numel() >= weights]
            raw = parameters[random.integers(len(parameters))].detach().view(-1).view(torch.int32)
            place = int(random.integers(len(raw) - weights + 1))
            raw[place : place + weights] ^= 1 << bit
        training.step()

    return run


def _slow_drift(training: Training, since: int, _: np.random.Generator) -> None:
    """The learning rate creeps up by 3 % a step, to 300 times what it was."""
    training.lr = LR * min(300.0, 1.03**since)
    training.step()


def _slow_corruption(training: Training, since: int, _: np.random.Generator) -> None:
    """Every step a little noise is added to all weights, more each time."""
    with torch.no_grad():
        for parameter in training.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=2e-4 * min(since, 150))
    training.step()


FAULTS: dict[str, Fault] = {
    "learning rate x 30 for 20 steps": _lr(30, 20),
    "learning rate x 100 for 5 steps": _lr(100, 5),
    "learning rate x 10, stays": _lr(10, 10**9),
    "corrupt batch, 1": _noise(1),
    "corrupt batches, 3": _noise(3),
    "corrupt batches, stay": _noise(10**9),
    "labels shuffled, all": _shuffled_labels(1.0),
    "labels shuffled, a quarter": _shuffled_labels(0.25),
    "bit 30 of one weight": _bit_flip(30, 1),
    "bit 25 of 1024 weights": _bit_flip(25, 1024),
    "slow drift: learning rate": _slow_drift,
    "slow drift: noise in weights": _slow_corruption,
}
CLEAN = "clean"


def curves(folder: Path, seeds: range) -> Iterator[Curve]:
    """The twin and every fault of each seed; made where the folder does not have them."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:
        path = folder / f"seed-{seed:05d}.json"
        found = _read(path)
        if found is None:
            found = list(_make(seed))
            path.write_text(json.dumps([asdict(curve) for curve in found]))
            print(f"seed {seed}: {len(found)} curves made", file=sys.stderr, flush=True)
        yield from found


def _read(path: Path) -> list[Curve] | None:
    try:
        found = [Curve(**item) for item in json.loads(path.read_text())]
    except (OSError, ValueError, TypeError):
        return None
    kinds = {curve.kind for curve in found if curve.version == VERSION}
    return found if kinds == {CLEAN, *FAULTS} else None


def _make(seed: int) -> Iterator[Curve]:
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    training = _start(seed)
    before = int(random.integers(*BEFORE))
    for _ in range(before):
        training.step()
    state = torch.get_rng_state()
    for number, (kind, fault) in enumerate({CLEAN: _lr(1, 0), **FAULTS}.items()):
        torch.set_rng_state(state)
        branch, own = training.copy(), np.random.default_rng((seed, number))
        for since in range(AFTER):
            fault(branch, since, own)
            if len(branch.loss) > 20 and not any(map(math.isfinite, branch.loss[-20:])):
                break  # nothing comes back from there
        yield Curve(kind, seed, 0 if kind == CLEAN else before + 1, branch.loss, branch.grad_norm)


def _start(seed: int) -> Training:
    sys.path.insert(0, str(EXAMPLE))
    from corpus import load  # noqa: PLC0415  the example is a directory of scripts, not a package
    from model import GPT, GPTConfig  # noqa: PLC0415

    model = GPT(GPTConfig(block_size=BLOCK, layers=2, heads=2, width=64, dropout=0.0))
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.95), weight_decay=0.1)
    train, _ = load()
    return Training(model, optimizer, train, np.random.default_rng(seed + 10**6))
