"""What a run of several nodes needs beside all else: a run directory that they share, and that settles who leads.

Only what one node can see is looked at. Whether another one has the same directory, and how soon it sees there what is
written here, is found out by starting the run: a node that sees nothing of the others says so when it has waited.
"""

from __future__ import annotations

from pathlib import Path

from resilient.doctor import mounts
from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.world import NoPlaceToTry, World
from resilient.errors import ResilientError
from resilient.protocol.terms import Term, Terms

_ELSEWHERE = "set run.dir to a filesystem that all nodes share, and that makes hard links"


def judge_place(mount: mounts.Mount | None, place: str) -> Finding:
    """Whether other nodes can have the run directory."""
    untried = "that they see there what is written here cannot be tried from one of them"
    if mount is None:
        return note(f"it is not known what filesystem {place} is on; all nodes must have it", f"note that {untried}")
    if mount.kind in mounts.NETWORK:
        return ok(f"{place} is on {mount.kind}, which other nodes can have too; {untried}")
    if mount.kind.startswith("fuse") or mount.kind in {"9p", "virtiofs"}:
        return note(f"{place} is on {mount.kind}: all nodes must have what is behind it; {untried}")
    return warning(
        f"{place} is on {mount.kind}, which this machine alone has: nodes on other machines would not find each other",
        "set run.dir to the shared filesystem",
    )


def claim_twice(place: Path) -> Finding:
    """The lead is claimed for two nodes, of which one must get it."""
    one, other = Terms(place, "one"), Terms(place, "other")
    terms = [Term(1, node, f"{node}:1", "0123456789abcdef") for node in ("one", "other")]
    claimed = [one.claim(terms[0]), other.claim(terms[1])]
    if claimed == [True, False] and other.newest() == terms[0]:
        return ok("two nodes that want to lead at the same time are told apart here")
    return problem("two nodes would both be told that they lead: a file can be claimed twice here", _ELSEWHERE)


def _place(world: World) -> Finding | None:
    if world.subject is None or world.subject.nodes is None:
        return None
    known = mounts.parse((world.proc / "self/mountinfo").read_text(errors="replace"))
    return judge_place(mounts.mount_of(world.nearest().resolve(), known), str(world.run_root))


def _claim(world: World) -> Finding | None:
    if world.subject is None or world.subject.nodes is None:
        return None
    try:
        with world.trial() as place:
            return claim_twice(place)
    except ResilientError as error:
        return problem(f"no node can take the lead here: {error.problem}", error.remedy or _ELSEWHERE)
    except NoPlaceToTry as error:
        return note(f"not tried: {error}")


CHECKS = (
    Check("nodes.shared", "whether other nodes can have the run directory", _place),
    Check("nodes.claim", "whether one of several nodes can take the lead there", _claim),
)
