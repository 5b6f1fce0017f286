"""What torch's own loading would change on the way comes back as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import nn

from resilient.protocol.arena import Arena
from resilient.worker.capture import Capture, restore


@pytest.fixture
def arena() -> Iterator[Arena]:
    arena = Arena.private(2)
    yield arena
    arena.close()


class WideAverages(torch.optim.Optimizer):
    """Keeps its averages in float32 and a counter of bytes, whatever the parameters are."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {"lr": 0.1})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        assert closure is None
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if not state:
                state["average"] = torch.zeros_like(parameter, dtype=torch.float32)
                state["pair"] = [torch.zeros(1, dtype=torch.uint8), 0.5]
            state["average"].mul_(0.9).add_(parameter.grad.float() / 3)
            state["pair"][0].add_(1)
            parameter.add_(state["average"].to(parameter.dtype), alpha=-0.1)


def training(dtype: torch.dtype, optimizer: Any) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = nn.Linear(8, 4).to(dtype)
    return model, optimizer(model.parameters())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(2, 8, dtype=next(model.parameters()).dtype)).pow(2).mean().backward()
        optimizer.step()


@pytest.mark.parametrize("optimizer", [WideAverages, torch.optim.NAdam, torch.optim.ASGD])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_state_of_another_type_than_the_parameters_goes_on_bit_for_bit(
    arena: Arena, optimizer: Any, dtype: torch.dtype
) -> None:
    model, first = training(dtype, optimizer)
    train(model, first, 3)
    Capture({"model": model, "optimizer": first}, allow_pickle=False).write(arena.slots[0], 3)
    again, second = training(dtype, optimizer)
    restore(arena.slots[0].image, {"model": again, "optimizer": second}, allow_pickle=False)
    states = [
        {key: value.dtype for key, value in each.state[parameter].items() if isinstance(value, torch.Tensor)}
        for each in (first, second)
        for parameter in list(each.param_groups[0]["params"])[:1]
    ]
    assert states[0] == states[1]
    train(model, first, 20)
    train(again, second, 20)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_state_follows_parameters_whose_type_the_script_has_changed(arena: Arena) -> None:
    model, first = training(torch.bfloat16, torch.optim.AdamW)
    train(model, first, 3)
    Capture({"model": model, "optimizer": first}, allow_pickle=False).write(arena.slots[0], 3)
    again, second = training(torch.float32, torch.optim.AdamW)
    restore(arena.slots[0].image, {"model": again, "optimizer": second}, allow_pickle=False)
    train(again, second, 1)
    assert {state["exp_avg"].dtype for state in second.state.values()} == {torch.float32}


class Converting(nn.Module):
    """Converts what a first release of it had stored."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    def _load_from_state_dict(
        self, state: dict[str, Any], prefix: str, metadata: Mapping[str, Any], *rest: Any
    ) -> None:
        if metadata.get("version", 1) < 2:
            state[f"{prefix}weight"] = state[f"{prefix}weight"] * 2
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_a_module_with_a_version_does_not_take_its_state_for_an_old_one(arena: Arena) -> None:
    inner = Converting()
    model = nn.Sequential(inner)
    Capture({"model": model}, allow_pickle=False).write(arena.slots[0], 1)
    restore(arena.slots[0].image, {"model": model}, allow_pickle=False)
    assert torch.equal(inner.weight, torch.ones(2))


class Assigning(nn.Linear):
    """Loads by taking the tensors that it is given for its own."""

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        assert not assign
        return super().load_state_dict(state, strict, assign=True)


def test_a_module_that_loads_by_assignment_does_not_change_with_later_snapshots(arena: Arena) -> None:
    model = Assigning(3, 2)
    expected = model.weight.detach().clone()
    Capture({"model": model}, allow_pickle=False).write(arena.slots[0], 1)
    restore(arena.slots[0].image, {"model": model}, allow_pickle=False)
    arena.slots[0].image[:] = bytes(len(arena.slots[0].image))  # the next snapshot comes to lie there
    assert torch.equal(model.weight, expected)
