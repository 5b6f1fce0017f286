"""Healthy losses of other kinds than a language model's: drawn, not trained, each with the trait it is named for.

None of these diverges, so whatever a detector says of them is a false alarm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

Series: TypeAlias = "np.ndarray[Any, np.dtype[np.float64]]"
Draw: TypeAlias = Callable[[np.random.Generator, int], Series]


def _fall(steps: int, start: float, end: float, over: float) -> Series:
    """From ``start`` towards ``end``, most of it within ``over`` steps."""
    return end + (start - end) / (1 + np.arange(steps) / over)


def _vision(random: np.random.Generator, steps: int) -> Series:
    """Cross-entropy that falls to about 0.01: what is left is a few hard samples, so it scatters by factors."""
    return _fall(steps, 2.3, 0.0, 40) ** 1.3 * random.gamma(1.5, 1 / 1.5, steps) + 0.002


def _finetuning(random: np.random.Generator, steps: int) -> Series:
    """Few epochs: each new one starts lower, for what was seen is known, and rises a little inside."""
    epoch = np.arange(steps) // 400
    inside = np.arange(steps) % 400 / 400
    level: Series = 1.4 * np.power(0.72, epoch) * (1 + 0.08 * inside)
    return level * np.exp(0.15 * random.standard_normal(steps))


def _batch_of_one(random: np.random.Generator, steps: int) -> Series:
    """Each value is one document's: a lognormal, with the odd one ten times the median."""
    return _fall(steps, 6.0, 2.0, 60) * np.exp(0.6 * random.standard_normal(steps))


def _negative(random: np.random.Generator, steps: int) -> Series:
    """The log-likelihood of a density: falls through 0 to −3 and goes on."""
    return _fall(steps, 4.0, -3.5, 150) + 0.2 * random.standard_t(4, steps)


def _contrastive(random: np.random.Generator, steps: int) -> Series:
    """A plateau at log(batch), then the sudden drop to another."""
    drop = 1 / (1 + np.exp((np.arange(steps) - steps * 0.15) / 40))
    level: Series = 1.2 + (np.log(512) - 1.2) * drop
    return level + 0.06 * random.standard_normal(steps)


def _policy_gradient(random: np.random.Generator, steps: int) -> Series:
    """A surrogate around 0 with heavy tails, whose width wanders."""
    width = np.exp(np.cumsum(0.01 * random.standard_normal(steps)))
    return 0.02 * width * random.standard_t(3, steps)


def _value_function(random: np.random.Generator, steps: int) -> Series:
    """Grows while the rewards do, and scatters in proportion."""
    return 0.1 * (1 + np.arange(steps) / 400) * random.gamma(3, 1 / 3, steps)


def _restarts(random: np.random.Generator, steps: int) -> Series:
    """Cosine restarts every 1000 steps: within some 60 steps up by a fifth, then down below where it was."""
    inside = np.arange(steps) % 1000
    up = 0.2 * np.minimum(1, inside / 60) * (1 + np.cos(np.pi * inside / 1000)) / 2 * (np.arange(steps) >= 1000)
    level: Series = _fall(steps, 5.0, 1.5, 100) * (1 + up)
    return level + 0.05 * random.standard_normal(steps)


def _rounded(random: np.random.Generator, steps: int) -> Series:
    """Logged with two decimals, at 0.05: nearly always the same value."""
    return np.round(_fall(steps, 0.8, 0.05, 20) + 0.002 * random.standard_normal(steps), 2)


def _bfloat16(random: np.random.Generator, steps: int) -> Series:
    """Printed in bfloat16: steps of 1/64 between 2 and 4, repeated again and again."""
    return np.round((_fall(steps, 9.0, 2.3, 80) + 0.01 * random.standard_normal(steps)) * 64) / 64


def _domains(random: np.random.Generator, steps: int) -> Series:
    """Sources of data in turns of some hundred steps, each with a level of its own."""
    levels = np.repeat(random.normal(0, 0.12, steps // 150 + 1), 150)[:steps]
    return _fall(steps, 9.0, 2.6, 120) + levels + 0.1 * random.standard_normal(steps)


def _hard_batches(random: np.random.Generator, steps: int) -> Series:
    """One batch in a hundred is far harder, and hard ones like company: after one the next is with a chance of 0.15."""
    hard = random.random(steps) < 0.01
    hard[1:] |= hard[:-1] & (random.random(steps - 1) < 0.15)
    return _fall(steps, 10.0, 3.0, 100) + 0.08 * random.standard_normal(steps) + hard * random.exponential(1.2, steps)


def _zero(random: np.random.Generator, steps: int) -> Series:
    """A hinge: exactly 0 most of the time."""
    return np.maximum(0.0, _fall(steps, 1.0, -0.1, 30) + 0.05 * random.standard_normal(steps))


KINDS: dict[str, Draw] = {
    "vision, to 0.01": _vision,
    "fine-tuning in epochs": _finetuning,
    "batch size 1": _batch_of_one,
    "negative log-likelihood": _negative,
    "contrastive": _contrastive,
    "policy gradient around 0": _policy_gradient,
    "value function that grows": _value_function,
    "cosine restarts": _restarts,
    "two decimals": _rounded,
    "bfloat16": _bfloat16,
    "domains in turns": _domains,
    "hard batches in clusters": _hard_batches,
    "hinge, mostly 0": _zero,
}


def _adversarial(random: np.random.Generator, steps: int) -> Series:
    """A generator's loss: swings as the two sides gain on each other."""
    swing = 0.35 * np.sin(np.cumsum(random.uniform(0.01, 0.08, steps)))
    return 1.1 + swing + 0.15 * random.standard_normal(steps)


def _diffusion(random: np.random.Generator, steps: int) -> Series:
    """Squared errors at random noise levels, some of which are ten times as hard."""
    return _fall(steps, 1.0, 0.03, 30) * np.exp(0.35 * random.standard_normal(steps))


def _two_tasks(random: np.random.Generator, steps: int) -> Series:
    """Each batch is of one of two tasks, drawn at random; the rarer has twice the loss."""
    rare = random.random(steps) < 0.3
    return _fall(steps, 4.0, 1.5, 80) * np.where(rare, 2.0, 1.0) + 0.08 * random.standard_normal(steps)


def _buckets(random: np.random.Generator, steps: int) -> Series:
    """Batches of similar length come twenty in a row, and short ones are harder."""
    levels = np.repeat(random.uniform(-0.5, 0.5, steps // 20 + 1), 20)[:steps]
    return _fall(steps, 8.0, 3.0, 100) + levels + 0.1 * random.standard_normal(steps)


def _curriculum(random: np.random.Generator, steps: int) -> Series:
    """Samples get harder for a thousand steps, which raises the loss by a tenth, and then it falls on."""
    harder = 0.1 * np.clip((np.arange(steps) - steps / 2) / 1000, 0, 1)
    return _fall(steps, 7.0, 2.0, 150) * (1 + harder) + 0.1 * random.standard_normal(steps)


def _abrupt_restart(random: np.random.Generator, steps: int) -> Series:
    """The learning rate jumps back every 1500 steps and the loss with it, by 40 % at once; nobody says so."""
    inside = np.arange(steps) % 1500
    up = 0.4 * np.exp(-inside / 150) * (np.arange(steps) >= 1500)
    return _fall(steps, 5.0, 1.0, 100) * (1 + up) + 0.05 * random.standard_normal(steps)


# Written down after the thresholds were frozen, and never used to choose any.
UNSEEN: dict[str, Draw] = {
    "adversarial": _adversarial,
    "diffusion": _diffusion,
    "two tasks": _two_tasks,
    "buckets of lengths": _buckets,
    "curriculum": _curriculum,
    "abrupt restarts": _abrupt_restart,
}


def healthy(kind: str, seed: int, steps: int) -> list[float]:
    """One curve of that kind."""
    number = sorted(KINDS).index(kind) if kind in KINDS else len(KINDS) + sorted(UNSEEN).index(kind)
    random = np.random.default_rng((seed, number))
    return [float(value) for value in {**KINDS, **UNSEEN}[kind](random, steps)]
