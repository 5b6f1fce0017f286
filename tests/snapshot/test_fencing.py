"""Snapshots of several terms: which count, and what is shown and done of the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from resilient.errors import TermOver
from resilient.policy.lineage import Lineage
from resilient.protocol.names import snapshot_name
from resilient.protocol.remote_settings import RemoteSettings
from resilient.protocol.settings import RetentionSettings
from resilient.snapshot import catalog
from resilient.snapshot.bucket_fsspec import open_bucket
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.fencing import Terms, newest_term, require_newest
from resilient.snapshot.inventory import State, inventory
from resilient.snapshot.prune import prune
from resilient.snapshot.remote import RemoteTier
from resilient.snapshot.standing import Standing
from resilient.snapshot.storage import Storage
from resilient.snapshot.upload import upload


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "run" / "snapshots"
    made.mkdir(parents=True)
    return made


def begin(directory: Path, term: int, step: int | None = None) -> None:
    """A leader claims a term, and perhaps goes on from a step."""
    terms = directory.parent / "nodes" / "terms"
    terms.mkdir(parents=True, exist_ok=True)
    (terms / f"{term:06d}.json").write_text("{}")
    (terms / f"{term:06d}.beat").write_text("1")
    if step is not None:
        fresh = terms / "fresh"
        fresh.write_text(json.dumps({"step": step, "round": 1}))
        fresh.replace(terms / f"{term:06d}.began")


def save(directory: Path, step: int, term: int) -> None:
    commit(Storage(), directory, Draft("run", step, 0, {0: memoryview(b"state")}, term=term))


@pytest.mark.parametrize(
    ("step", "term", "counts"),
    [
        (100, 1, True),  # term 2 has gone on from 100 itself
        (101, 1, False),
        (100, 2, True),
        (200, 2, True),
        (61, 2, False),  # term 3 went back, though term 2 had come further
        (999, 3, True),
        (999, 4, True),  # whose step is not known yet
        (999, 0, True),  # one node, without terms
    ],
)
def test_a_snapshot_counts_unless_a_later_term_has_begun_before_it(step: int, term: int, *, counts: bool) -> None:
    began = {1: 0, 2: 100} if step in {100, 101, 200} else {1: 0, 2: 100, 3: 60}
    assert Terms(began).count(step, term) is counts


def test_only_the_newest_term_may_commit(directory: Path) -> None:
    require_newest(directory, 0)
    begin(directory, 1)
    require_newest(directory, 1)
    begin(directory, 12)
    assert newest_term(directory) == 12
    with pytest.raises(TermOver, match="term 1 is over: the newest one is 12"):
        require_newest(directory, 1)


def test_a_late_commit_is_chosen_by_nobody_shown_as_what_it_is_and_not_counted_by_retention(directory: Path) -> None:
    begin(directory, 1, 0)
    for step in (10, 20):
        save(directory, step, 1)
    begin(directory, 2, 10)
    save(directory, 30, 1)  # by the leader of term 1, which has not heard of term 2
    assert catalog.committed_steps(directory) == (10,)
    assert catalog.steps_on(directory, Lineage()) == (10,)
    assert {item.step: item.state for item in inventory(directory)} == {
        10: State.COMMITTED,
        20: State.DISCARDED,
        30: State.DISCARDED,
    }
    assert inventory(directory)[-1].problem == "committed by the leader of term 1 after its time"
    assert prune(Storage(), directory, RetentionSettings(last=1)) == [], "one counts, and it is the only one"
    save(directory, 20, 2)  # that step again, now by whom it may be
    assert catalog.committed_steps(directory) == (10, 20)


def test_what_was_committed_late_is_set_aside_and_the_rest_stays(directory: Path) -> None:
    begin(directory, 1, 0)
    for step in (10, 20):
        save(directory, step, 1)
    begin(directory, 2, 10)
    assert catalog.set_aside_late(Storage(), directory) == [20]
    assert catalog.set_aside_late(Storage(), directory) == []
    assert (directory / "latest").readlink().name == "step-000000010"
    [late] = catalog.discarded(directory)
    assert late.name == "step-000000020.discarded-term1"
    assert inventory(directory)[-1].problem == "committed by the leader of term 1 after its time"


def test_a_term_that_goes_back_once_more_is_read_again(directory: Path) -> None:
    begin(directory, 1, 0)
    for step in (10, 20):
        save(directory, step, 1)
    begin(directory, 2, 20)
    assert catalog.committed_steps(directory) == (10, 20)
    begin(directory, 2, 5)
    assert catalog.committed_steps(directory) == ()


def test_what_cannot_be_understood_of_a_term_takes_no_snapshot_away(directory: Path) -> None:
    begin(directory, 1, 0)
    save(directory, 10, 1)
    begin(directory, 2)
    (directory.parent / "nodes" / "terms" / "000002.began").write_text("half a l")
    (directory / "step-000000010" / "manifest.json").write_text("damaged")
    begin(directory, 3, 5)
    assert catalog.committed_steps(directory) == (10,), "whoever loads it finds out"


def test_in_the_remote_tier_the_same_count_and_the_others_are_deleted(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    bucket = open_bucket(RemoteSettings(url=f"file://{tmp_path / 'there'}"), "run")
    for step in (10, 20):
        save(directory, step, 1)
        upload(bucket, directory / snapshot_name(step))
    begin(directory, 2, 10)
    standing, tier = Standing.read(directory), RemoteTier(bucket)
    assert tier.prune(RetentionSettings(last=1), standing=standing) == [], "of those that count there is one"
    [late] = tier.delete_off(standing)
    assert late.startswith("step-000000020.")
    assert [item.step for item in tier.items()] == [10]
