"""The global generators: taken, given back, and left alone."""

from __future__ import annotations

import json
import random
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from resilient.worker.rng import GlobalRandomState, mix, seed_cpu, seeded

WORDS = st.integers(-(1 << 63), (1 << 64) - 1)


def draw() -> list[Any]:
    """A few numbers of every kind from every global generator."""
    return [
        random.random(),
        random.gauss(0.0, 1.0),
        random.getrandbits(100),
        np.random.rand(),
        np.random.standard_normal(),
        int(np.random.randint(1 << 30)),
        torch.rand(3).tolist(),
        torch.randn(1).item(),
        torch.randperm(20).tolist(),
    ]


@pytest.fixture(autouse=True)
def start() -> None:
    seed_cpu(7)


def test_the_same_numbers_are_drawn_after_a_restore() -> None:
    draw()
    state = GlobalRandomState().state_dict()
    expected = [draw(), draw()]
    seed_cpu(99)
    draw()
    GlobalRandomState().load_state_dict(state)
    assert [draw(), draw()] == expected


def test_the_second_half_of_a_pair_of_normal_numbers_is_part_of_the_state() -> None:
    """Both Python and numpy draw normal numbers in pairs and keep the second for the next call."""
    random.gauss(0.0, 1.0)
    np.random.standard_normal()
    state = GlobalRandomState().state_dict()
    assert state["python"]["gauss"] is not None
    expected = (random.gauss(0.0, 1.0), np.random.standard_normal())
    seed_cpu(99)
    GlobalRandomState().load_state_dict(state)
    assert (random.gauss(0.0, 1.0), np.random.standard_normal()) == expected


def test_a_state_once_taken_does_not_change_with_the_generators() -> None:
    state = GlobalRandomState().state_dict()
    before = (state["python"]["words"].tolist(), state["numpy"]["state"]["key"].tolist(), state["torch"].tolist())
    draw()
    after = (state["python"]["words"].tolist(), state["numpy"]["state"]["key"].tolist(), state["torch"].tolist())
    assert before == after


def test_seeding_leaves_no_trace_outside() -> None:
    expected = [draw(), draw()]
    seed_cpu(7)
    first = draw()
    with seeded(3):
        draw()
    assert [first, draw()] == expected


def test_seeding_starts_the_same_numbers_every_time_and_others_for_another_seed() -> None:
    drawn = []
    for seed in (3, 3, 4):
        with seeded(seed):
            drawn.append(draw())
    assert drawn[0] == drawn[1]
    assert all(one != other for one, other in zip(drawn[1], drawn[2], strict=True))


def test_seeding_is_undone_when_the_user_raises() -> None:
    expected = draw()
    seed_cpu(7)

    def fail() -> None:
        with seeded(3):
            draw()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert draw() == expected


def test_seeded_blocks_nest() -> None:
    with seeded(3):
        expected = [draw(), draw()]
    with seeded(3):
        first = draw()
        with seeded(4):
            draw()
        assert [first, draw()] == expected


@given(st.lists(WORDS, min_size=1, max_size=4))
def test_a_mixed_seed_fits_every_generator_and_is_the_same_every_time(parts: list[int]) -> None:
    seed = mix(*parts)
    assert 0 <= seed < 1 << 63
    assert mix(*parts) == seed
    assert json.loads(json.dumps(seed)) == seed
    with seeded(seed):
        draw()


def test_neighbours_get_seeds_that_differ_in_many_bits() -> None:
    seeds = {parts: mix(*parts) for parts in product(range(3), range(30), range(100))}
    assert len(set(seeds.values())) == len(seeds)
    distances = [(seed ^ seeds[a, b, c + 1]).bit_count() for (a, b, c), seed in seeds.items() if (a, b, c + 1) in seeds]
    assert min(distances) > 8
    assert 30 < sum(distances) / len(distances) < 33
    assert len({seed & 0xFFFFFFFF for seed in seeds.values()}) > len(seeds) - 3


def test_the_order_of_the_parts_matters() -> None:
    assert mix(1, 2) != mix(2, 1)
    assert mix(1) != mix(1, 0)
