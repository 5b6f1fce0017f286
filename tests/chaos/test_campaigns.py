"""A few campaigns for every change; ``make chaos N=1000`` runs many."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.chaos.campaign import Campaigns
from tests.chaos.plan import plan

_MOST_STARTS = 2  # of a supervisor in the campaign that is new; each takes seconds
_FIXED = {
    467: "a lost machine with a remote tier, helpers killed in bursts",
    81: "two ranks, everything killed during a commit",
}


@pytest.fixture(scope="module")
def campaigns() -> Iterator[Campaigns]:
    # not pytest's own, which is kept, and has names too long for sockets
    with tempfile.TemporaryDirectory(prefix="resilient-chaos-") as directory:
        yield Campaigns(Path(directory))


@pytest.mark.parametrize("seed", _FIXED)
def test_a_campaign(campaigns: Campaigns, seed: int) -> None:
    result = campaigns.run(seed)
    assert not result.problems, f"\n{result}"


def test_a_campaign_that_was_never_run_before(campaigns: Campaigns) -> None:
    first = random.SystemRandom().randrange(1 << 30)
    kinds = {plan(seed).state for seed in _FIXED}  # whose clean runs are there already
    seed = next(seed for seed in count(first) if plan(seed).starts <= _MOST_STARTS and plan(seed).state in kinds)
    print(f"replay: python -m tests.chaos.campaign --seed {seed}")
    result = campaigns.run(seed)
    assert not result.problems, f"\n{result}"
