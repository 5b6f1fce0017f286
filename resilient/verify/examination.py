"""Replay after replay, until there is a verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resilient.errors import ResilientError
from resilient.policy.comparison import Case, Place, Replay, Want, examine
from resilient.policy.verdict import Verdict, VerdictKind
from resilient.verify.places import HERE, Surroundings
from resilient.verify.replaying import Replayer


@dataclass(frozen=True)
class Examination:
    """What was done, and what it says."""

    verdict: Verdict
    case: Case


def examine_window(
    replayer: Replayer, elsewhere: Surroundings | None, onset: int | None, say: Callable[[str], None]
) -> Examination:
    """Make the replays that a verdict needs.

    :param elsewhere: other devices, if there are any.
    :param onset: the first step that looked wrong; None where nothing did.
    :param say: takes a line for the person who waits.
    """
    window, replays = replayer.window, list[Replay]()

    def case() -> Case:
        return Case(window.records, tuple(replays), window.names, window.names[0], onset, elsewhere is not None)

    if window.problem:
        return Examination(Verdict(VerdictKind.INCONCLUSIVE, window.problem), case())
    while isinstance(found := examine(case()), Want):
        other = elsewhere if found.place is Place.ELSEWHERE and elsewhere is not None else HERE
        how = ", with deterministic algorithms" if found.deterministic else ""
        say(f"replay {len(replays) + 1}: steps {window.snapshot + 1} to {window.last} on {other.told}{how} …")
        try:
            replays.append(replayer.replay(found, other, len(replays) + 1))
        except (ResilientError, OSError) as error:
            problem = error.problem if isinstance(error, ResilientError) else str(error)
            replays.append(Replay(found.place, {}, problem, found.deterministic))
        say(f"replay {len(replays)}: {_outcome(case(), replays[-1])}")
    return Examination(found, case())


def _outcome(case: Case, replay: Replay) -> str:
    found = case.difference(replay)
    return str(found) if found is not None else replay.problem or "the same as in the run"
