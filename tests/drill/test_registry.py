"""Faults by name, and what each of them takes."""

from __future__ import annotations

import dataclasses

import pytest

from resilient.drill.faults import Fault, KillWorker, SlowWorker, StopWorker
from resilient.drill.in_process import Flip, Hang, NotANumber, Spike
from resilient.drill.registry import FAULTS, make, named, parameters
from resilient.errors import ConfigurationError, ExitCode


def test_every_fault_has_a_name_of_its_own_and_an_explanation_of_one_line() -> None:
    assert all(name == fault.name and fault.explains for name, fault in FAULTS.items())
    assert not any("\n" in fault.explains for fault in FAULTS.values())
    assert len({fault.explains for fault in FAULTS.values()}) == len(FAULTS)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_can_be_made_without_a_word_and_is_frozen(fault: type[Fault]) -> None:
    (made,) = make([fault], {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        made.anything = 1  # type: ignore[attr-defined]


def test_several_in_the_order_given_and_all() -> None:
    assert named("stop, kill,hang") == [StopWorker, KillWorker, Hang]
    assert named("all") == list(FAULTS.values())


@pytest.mark.parametrize(
    ("text", "nearest"), [("kil", "kill"), ("corrupt", "corrupt_snapshot"), ("kill,segfault", "known are|segv")]
)
def test_unknown_name_is_an_error_of_configuration_with_the_nearest(text: str, nearest: str) -> None:
    with pytest.raises(ConfigurationError, match=nearest) as caught:
        named(text)
    assert caught.value.exit_code is ExitCode.CONFIG


def test_each_takes_what_it_knows() -> None:
    made = make([KillWorker, SlowWorker, Spike], {"rank": "1", "steps": "7", "factor": "2.5"})
    assert made == [KillWorker(rank=1), SlowWorker(rank=1, steps=7, factor=2.5), Spike(rank=1, steps=7, factor=2.5)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"seconds": "3"}, "fault=kill, nan takes no seconds="),
        ({"number": "9"}, "takes no number="),
        ({"rank": "x"}, "rank=x must be a whole number"),
        ({"rank": "-1"}, "rank=-1 must be at least 0"),
        ({"steps": "0"}, "steps=0 must be at least 1"),
    ],
)
def test_values_that_cannot_be_used(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make([KillWorker, NotANumber], given)


def test_a_flip_takes_words_and_truths() -> None:
    (made,) = make([Flip], {"what": "loss", "bit": "3", "persistent": "true"})
    assert made == Flip(what="loss", bit=3, persistent=True)
    assert made.expects is ExitCode.UNTRUSTED_NODE
    assert Flip().expects is ExitCode.FINISHED
    for given, message in (
        ({"what": "los"}, "nothing to flip"),
        ({"bit": "32"}, "no bit"),
        ({"persistent": "1"}, "true"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            make([Flip], given)


def test_numbers_that_are_none() -> None:
    for text in ("nan", "inf"):
        with pytest.raises(ConfigurationError, match=f"factor={text}"):
            make([Spike], {"factor": text})


def test_what_the_command_line_must_not_set_is_not_among_the_parameters() -> None:
    assert parameters(KillWorker) == {"rank": 0}
    assert parameters(Hang) == {"rank": 0, "seconds": 0.0}
