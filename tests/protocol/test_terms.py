"""Claims, signs of life and ends of terms, as files that several nodes share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from resilient.errors import ExitCode, RunDirectoryNotWritable, TermUnreadable
from resilient.protocol.term_files import LARGEST, TermFiles
from resilient.protocol.terms import Term, Terms
from resilient.snapshot.fencing import Terms as Fences
from resilient.snapshot.fencing import newest_term
from tests.protocol.term_worlds import DyingFiles, Killed

TOKEN = "0123456789abcdef"


def term(number: int = 1, node: str = "a") -> Term:
    return Term(number, node, f"{node}:4711", TOKEN)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "run" / "nodes" / "terms"


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_claim_is_made_once_and_read_by_all(directory: Path) -> None:
    a, b = Terms(directory, "a"), Terms(directory, "b")
    assert a.newest() is None
    assert a.claim(term())
    assert not b.claim(term(node="b"))
    assert b.newest() == term()
    assert b.claim(term(2, "b"))
    assert a.newest() == term(2, "b")


def test_whoever_is_not_the_runs_user_cannot_read_the_secret(directory: Path) -> None:
    before = os.umask(0)
    try:
        Terms(directory, "a").claim(term())
    finally:
        os.umask(before)
    (claim,) = directory.iterdir()
    assert claim.stat().st_mode & 0o777 == 0o600


def test_a_leader_is_told_that_it_is_over_by_whoever_came_after_it(directory: Path) -> None:
    clock = Clock()
    terms = Terms(directory, "a")
    terms.claim(term())
    reign = terms.reign(term(), lease_seconds=10, clock=clock)
    assert reign.renew()
    first = terms.sign_of_life(term())
    clock.now += 1
    assert reign.renew()
    assert terms.sign_of_life(term()) != first
    Terms(directory, "b").claim(term(2, "b"))
    clock.now += 1
    assert not reign.renew()
    second = terms.sign_of_life(term())
    clock.now += 1
    assert not reign.renew()
    assert terms.sign_of_life(term()) == second, "it shows no more signs of life"


def test_a_leader_that_cannot_see_the_terms_is_one_no_longer_than_others_wait(directory: Path) -> None:
    clock = Clock()
    terms = Terms(directory, "a")
    terms.claim(term())
    reign = terms.reign(term(), lease_seconds=10, clock=clock)
    assert reign.renew()
    directory.rename(directory.with_name("away"))
    clock.now += 9
    assert reign.renew()
    clock.now += 1
    assert not reign.renew()
    directory.with_name("away").rename(directory)
    clock.now += 1
    assert reign.renew(), "nobody has taken its place"


def test_only_the_lowest_step_of_a_term_says_what_does_not_count(directory: Path) -> None:
    snapshots = directory.parent.parent / "snapshots"
    terms = Terms(directory, "a")
    terms.claim(term(2))
    reign = terms.reign(term(2))
    assert newest_term(snapshots) == 2
    for step, lowest in ((50, 50), (80, 50), (30, 30)):
        reign.began(step, 1)
        assert Fences.read(snapshots).began == {2: lowest}
    assert not Fences.read(snapshots).count(31, 1)
    assert Fences.read(snapshots).count(30, 1)


def test_a_term_that_was_closed_is_known_to_be(directory: Path) -> None:
    terms = Terms(directory, "a")
    terms.claim(term())
    assert not terms.is_closed(term())
    terms.close(term())
    assert Terms(directory, "b").is_closed(term())


def _reigns(terms: Terms) -> None:
    terms.claim(term())
    reign = terms.reign(term())
    reign.renew()
    reign.began(5, 0)
    terms.close(term())


@pytest.mark.parametrize("dies_at", range(11))
def test_whenever_a_leader_is_killed_there_is_a_whole_claim_or_none_and_others_go_on(
    directory: Path, dies_at: int
) -> None:
    with pytest.raises(Killed):
        _reigns(Terms(directory, "a", DyingFiles(directory, "a", dies_at)))
    assert Fences.read(directory.parent.parent / "snapshots").began in ({}, {1: 5})
    number = 1
    for node in ("b", "a"):  # the last one is its successor under the same name
        terms = Terms(directory, node)
        newest = terms.newest()
        assert newest in {None, term(), term(1, "b"), term(2, "b")}
        number = newest.number + 1 if newest else 1
        assert terms.claim(term(number, node))
        assert terms.newest() == term(number, node)


def test_a_leader_that_nobody_kills_does_all_of_it(directory: Path) -> None:
    _reigns(Terms(directory, "a", DyingFiles(directory, "a", 11)))


BAD = {
    "nothing": b"",
    "no JSON": b"leader",
    "no mapping": b"[]",
    "a part": term().to_json()[:30],
    "deep": b"[" * 3000,
    "another number": term(2).to_json(),
    "a number in words": term().to_json().replace(b": 1,", b': "1",'),
    "a truth value": term().to_json().replace(b": 1,", b": true,"),
    "a path for a node": term(node="../../x").to_json(),
    "no port": Term(1, "a", "a", TOKEN).to_json(),
    "a newline in the address": Term(1, "a", "a:1\n", TOKEN).to_json(),
    "no secret": Term(1, "a", "a:1", "").to_json(),
    "too much": b" " * LARGEST + term().to_json(),
}


@pytest.mark.parametrize("what", BAD)
def test_a_claim_that_nobody_of_us_wrote_is_refused_and_named(directory: Path, what: str) -> None:
    terms = Terms(directory, "a")
    (directory / "000001.json").write_bytes(BAD[what])
    with pytest.raises(TermUnreadable, match=r"000001\.json") as caught:
        terms.newest()
    assert caught.value.exit_code is ExitCode.UNREADABLE
    assert "remove it" in caught.value.remedy


def test_what_is_no_ordinary_file_is_refused_and_not_waited_for(directory: Path, tmp_path: Path) -> None:
    terms = Terms(directory, "a")
    os.mkfifo(directory / "000001.json")
    with pytest.raises(TermUnreadable, match="no ordinary file"):
        terms.newest()
    (directory / "000001.json").unlink()
    (tmp_path / "elsewhere").write_bytes(term().to_json())
    (directory / "000001.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(TermUnreadable, match="symbolic link"):
        terms.newest()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_another_users_claim_is_refused(directory: Path) -> None:
    terms = Terms(directory, "a")
    terms.claim(term())
    os.chown(directory / "000001.json", 12345, -1)
    with pytest.raises(TermUnreadable, match="belongs to user 12345"):
        terms.newest()


def test_other_names_in_the_directory_are_nobodys_claim(directory: Path) -> None:
    terms = Terms(directory, "a")
    for name in (".000009.json.b", "7.json", "000008.json~", "x000008.json", "0000000000008.json"):
        (directory / name).touch()
    assert terms.newest() is None


def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "nodes").touch()
    with pytest.raises(RunDirectoryNotWritable, match="nodes/terms"):
        TermFiles(tmp_path / "nodes" / "terms", "a").create()
