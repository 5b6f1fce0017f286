"""Which snapshot a round resumes from."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resilient.policy.events import SnapshotsListed, Tier
from resilient.policy.restore import Source, choose_source

STEPS = st.integers(0, 50)


def test_nothing_listed_nothing_chosen() -> None:
    assert choose_source(SnapshotsListed()) is None


def test_newer_memory_beats_older_disk() -> None:
    assert choose_source(SnapshotsListed(57, (40, 50))) == Source(57, Tier.MEMORY)


def test_newer_disk_beats_older_memory() -> None:
    assert choose_source(SnapshotsListed(30, (40, 50))) == Source(50, Tier.LOCAL)


def test_at_equal_steps_memory_is_nearer() -> None:
    assert choose_source(SnapshotsListed(50, (40, 50))) == Source(50, Tier.MEMORY)


def test_step_zero_is_a_snapshot_like_any_other() -> None:
    assert choose_source(SnapshotsListed(0)) == Source(0, Tier.MEMORY)
    assert choose_source(SnapshotsListed(None, (0,))) == Source(0, Tier.LOCAL)


@given(st.none() | STEPS, st.lists(STEPS, unique=True))
def test_the_choice_exists_and_nothing_newer_does(memory: int | None, durable: list[int]) -> None:
    chosen = choose_source(SnapshotsListed(memory, tuple(durable)))
    everything = durable if memory is None else [*durable, memory]
    if chosen is None:
        assert not everything
        return
    assert chosen.step == max(everything)
    assert chosen.step == memory if chosen.tier is Tier.MEMORY else chosen.step in durable
