"""The command line of a drill."""

from __future__ import annotations

import random

import pytest

from resilient.drill.conduct import Moment
from resilient.drill.faults import KillWorker, StopWorker
from resilient.drill.request import Request, check_ranks, length_override, moment
from resilient.errors import ConfigurationError, UsageError


def test_own_words_and_overrides_are_told_apart() -> None:
    request = Request.of(
        ["conf=mine", "fault=kill,stop", "at=50,0.8,random", "rank=1", "seed=7", "train.lr=1e-3", "+worker.env.A=b"]
    )
    assert request == Request(
        "mine",
        [KillWorker(1), StopWorker(1)],
        ("50", "0.8", "random"),
        7,
        ("train.lr=1e-3", "+worker.env.A=b"),
    )


def test_a_script_is_named_as_for_training() -> None:
    words = ["conf=script", "script=train.py", "fault=kill", "script_args=[--epochs,3]"]
    assert Request.of(words).overrides == ("script=train.py", "script_args=[--epochs,3]")


def test_half_way_through_unless_said_otherwise() -> None:
    assert Request.of(["conf=mine", "fault=kill"]).at == ("0.5",)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["fault=kill"], "exactly one conf=NAME"),
        (["conf=mine"], "no fault is named"),
        (["conf=mine", "fault=kill", "fautl=stop"], "did you mean fault=?"),
        (["conf=mine", "fault=kill", "lr=1"], "keys of the configuration have a dot"),
        (["conf=mine", "fault=kill", "fault=stop"], "given twice"),
        (["conf=mine", "fault=kill", "run.id=mine"], "under names of its own"),
        (["conf=mine", "fault=kill", "run.dir=/there"], "under names of its own"),
    ],
)
def test_what_cannot_be_understood(words: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Request.of(words)
    assert message in str(caught.value)


@pytest.mark.parametrize("at", ["0", "-3", "1.0", "0.0", "1.5", "soon", "5,", "nan", "1e-1"])
def test_no_moment(at: str) -> None:
    with pytest.raises(ConfigurationError, match="is no moment"):
        Request.of(["conf=mine", "fault=kill", f"at={at}"])


def test_moments_of_a_run_of_sixty_steps() -> None:
    dice = random.Random(0)
    assert moment("50", 60, 9.0, dice) == Moment(step=50)
    assert moment("0.5", 60, 9.0, dice) == Moment(step=30)
    assert moment("0.999", 60, 9.0, dice) == Moment(step=59)
    assert moment("0.001", 60, 9.0, dice) == Moment(step=1)
    with pytest.raises(ConfigurationError, match="the run has 60 steps"):
        moment("60", 60, 9.0, dice)


def test_a_seed_gives_the_same_moments_again() -> None:
    one, other = (
        [moment("random", 1000, 9.0, dice) for _ in range(5)] for dice in (random.Random(7), random.Random(7))
    )
    assert one == other
    assert len(set(one)) > 1


def test_a_script_that_does_not_tell_its_steps_is_hit_by_the_clock() -> None:
    assert moment("0.5", 0, 9.0, random.Random(0)) == Moment(seconds=4.5)
    with pytest.raises(ConfigurationError, match="does not say which step"):
        moment("50", 0, 9.0, random.Random(0))


def test_a_rank_that_is_not_there() -> None:
    check_ranks([KillWorker(1)], 2)
    with pytest.raises(ConfigurationError, match="rank=2: the run has 2"):
        check_ranks([StopWorker(2)], 2)


def test_length_of_the_run() -> None:
    assert length_override(80, {"lr": 1.0, "max_steps": 5}) == "train.max_steps=80"
    with pytest.raises(ConfigurationError, match="no key of train"):
        length_override(80, {"epochs": 3})
