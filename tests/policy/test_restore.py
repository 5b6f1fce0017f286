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


def test_of_equal_steps_the_nearest_tier_is_taken() -> None:
    assert choose_source(SnapshotsListed(50, (50,), 0, (50,))) == Source(50, Tier.MEMORY)
    assert choose_source(SnapshotsListed(None, (50,), 0, (50,))) == Source(50, Tier.LOCAL)
    assert choose_source(SnapshotsListed(None, (40,), 0, (50,))) == Source(50, Tier.REMOTE)


def test_a_rejected_copy_is_passed_over_for_another_of_the_same_step() -> None:
    listed = SnapshotsListed(None, (40, 50), 0, (30, 50))
    rejected = [Source(50, Tier.LOCAL)]
    assert choose_source(listed, rejected) == Source(50, Tier.REMOTE)
    rejected.append(Source(50, Tier.REMOTE))
    assert choose_source(listed, rejected) == Source(40, Tier.LOCAL)


TIERS = st.sampled_from(list(Tier))


def test_what_other_nodes_remember_lies_between_memory_and_disk() -> None:
    assert choose_source(SnapshotsListed(None, (50,), peer_step=50)) == Source(50, Tier.PEER)
    assert choose_source(SnapshotsListed(50, (50,), peer_step=50)) == Source(50, Tier.MEMORY)
    assert choose_source(SnapshotsListed(40, (50,), peer_step=57)) == Source(57, Tier.PEER)
    assert choose_source(SnapshotsListed(40, (50,), peer_step=45)) == Source(50, Tier.LOCAL)


@given(
    st.none() | STEPS,
    st.none() | STEPS,
    st.lists(STEPS, unique=True),
    st.lists(STEPS, unique=True),
    st.lists(st.builds(Source, STEPS, TIERS), max_size=20),
)
def test_the_choice_exists_is_not_rejected_and_nothing_newer_or_nearer_does(
    memory: int | None, peer: int | None, durable: list[int], remote: list[int], rejected: list[Source]
) -> None:
    chosen = choose_source(SnapshotsListed(memory, tuple(durable), 0, tuple(remote), peer_step=peer), rejected)
    everything = [Source(step, Tier.LOCAL) for step in durable] + [Source(step, Tier.REMOTE) for step in remote]
    everything += [] if memory is None else [Source(memory, Tier.MEMORY)]
    everything += [] if peer is None else [Source(peer, Tier.PEER)]
    sound = [source for source in everything if source not in rejected]
    if chosen is None:
        assert not sound
        return
    assert chosen in sound
    assert chosen.step == max(source.step for source in sound)
    order = list(Tier)
    nearest = min(order.index(source.tier) for source in sound if source.step == chosen.step)
    assert chosen.tier is order[nearest]
