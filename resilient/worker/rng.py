"""The states of all global random number generators: Python, numpy, torch on the CPU and on every CUDA device."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


class GlobalRandomState:
    """Captures and restores every global generator; an object with ``state_dict`` like any other."""

    def __init__(self) -> None:
        self._later: Mapping[str, Any] | None = None

    def set_later(self, state: Mapping[str, Any]) -> None:
        """Set the generators to ``state`` by :meth:`set_now`, once nothing draws from them any more but training."""
        self._later = state

    def set_now(self) -> None:
        """Do it, if there is anything to do."""
        if self._later is not None:
            self.load_state_dict(self._later)
            self._later = None

    def state_dict(self) -> dict[str, Any]:
        version, words, gauss = random.getstate()
        state: dict[str, Any] = {
            "python": {"version": version, "words": np.array(words, dtype=np.uint32), "gauss": gauss},
            "numpy": np.random.get_state(legacy=False),  # noqa: NPY002  the global generator is what users' code draws from
            "torch": torch.get_rng_state(),
        }
        if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's stubs
            state["cuda"] = torch.cuda.get_rng_state_all()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        python = state["python"]
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
        np.random.set_state(state["numpy"])  # noqa: NPY002
        torch.set_rng_state(state["torch"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(state["cuda"])


class PrivateRandom:
    """A second set of the CPU generators: what is drawn inside :meth:`active` does not touch the global ones."""

    def __init__(self, seed: int) -> None:
        with _kept():
            seed_cpu(seed)
            self._state = _states()

    @contextmanager
    def active(self) -> Iterator[None]:
        """Inside, the global generators are these; they go on where they were left the last time."""
        with _kept():
            _set_states(self._state)
            try:
                yield
            finally:
                self._state = _states()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, the CPU generators start from ``seed``; afterwards they are as before, as if nothing had been drawn."""
    with _kept():
        seed_cpu(seed)
        yield


@contextmanager
def _kept() -> Iterator[None]:
    before = _states()
    try:
        yield
    finally:
        _set_states(before)


def _states() -> tuple[Any, Any, torch.Tensor]:
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()  # noqa: NPY002


def _set_states(states: tuple[Any, Any, torch.Tensor]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])


def seed_cpu(seed: int) -> None:
    """Seed Python's, numpy's and torch's CPU generator with a 64-bit seed."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)  # noqa: NPY002
    torch.default_generator.manual_seed(seed)


def jump() -> None:
    """Have all global generators go on elsewhere, at a place that follows from where they are now: another one each
    time, and the same one whenever this is done again from the same state, on each rank.
    """
    seed = int(torch.randint(2**62, (), device="cpu", generator=torch.default_generator))
    seed_cpu(seed)
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]  # torch's stubs
        torch.cuda.manual_seed_all(seed)


def mix(*parts: int) -> int:
    """A 63-bit seed from several integers: splitmix64 over them, so that neighbours get unrelated seeds."""
    value = 0x9E3779B97F4A7C15
    for part in parts:
        value = (value ^ (part & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        value ^= value >> 31
    return value >> 1
