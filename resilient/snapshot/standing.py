"""What the lineage of a run says of its snapshots: which count, what is thought of each, and which must stay for the
sake of a rollback.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from resilient.errors import SnapshotCorrupt
from resilient.policy.divergence import DivergenceSettings
from resilient.policy.divergence.known_good import Grade
from resilient.policy.lineage import Lineage
from resilient.protocol import names
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.fencing import Terms
from resilient.snapshot.manifest import Manifest

LATENCY = 200
"""Steps between the onset of a divergence and its alarm, at the most, as far as retention reckons with it."""
RUNGS = 2
"""Good snapshots that are kept beside, so that the second rollback of an episode need not go back ever so far. Few, for
one may have hundreds of gigabytes."""
MARGIN = DivergenceSettings().margin

_WORDS = {Grade.GOOD: "good", Grade.TAKEN: "probation", Grade.SUSPECT: "suspect"}


@dataclass(frozen=True)
class Standing:
    """The lineage, as retention and readers need it.

    :param problem: why it cannot be read; empty if it can be. Nothing may be deleted then.
    :param terms: those of the leaders, in a run of several nodes.
    """

    lineage: Lineage = field(default_factory=Lineage)
    problem: str = ""
    terms: Terms = field(default_factory=Terms)

    @classmethod
    def read(cls, snapshots: Path) -> Standing:
        """That of the run whose snapshots lie in ``snapshots``: its file, or where there is none, what the snapshot
        that was made last says.
        """
        paths = RunPaths(snapshots.parent)
        try:
            lineage = read_lineage(paths) if paths.lineage.exists() else told(snapshots) or Lineage()
            return cls(lineage, terms=Terms.read(snapshots))
        except (OSError, ValueError) as error:
            return cls(problem=f"what is known of rollbacks cannot be read: {error}")

    def counts(self, manifest: Manifest) -> bool:
        """Whether a snapshot is one of this run, as far as rollbacks and terms go."""
        return self.lineage.holds(manifest.step, manifest.round) and self.terms.count(manifest.step, manifest.term)

    def grade(self, step: int) -> str | None:
        """``good``, ``probation`` or ``suspect``; None where nobody watches the run."""
        found = {item.step: item.grade for item in self.lineage.known.snapshots}.get(step)
        return _WORDS[found] if found is not None else None

    def newest_good(self, steps: Collection[int]) -> int | None:
        """The newest of ``steps`` that is known to be good."""
        return self.lineage.known.only(steps).newest_good()

    def to_keep(self, steps: Collection[int], margin: int | None = MARGIN) -> frozenset[int]:
        """Which of ``steps``, those of all snapshots on the lineage, a rollback may need.

        The file may not have heard of the newest ones yet; they are on probation.

        :param margin: the setting ``divergence.margin``; None where nobody watches the run, and nothing is for ever on
            probation.
        """
        known = self.lineage.known
        if margin is None or not known.snapshots or not steps:
            return frozenset()
        for step in set(steps) - {item.step for item in known.snapshots}:
            known = known.taken(step, margin)
        return known.only(steps).to_keep(max(steps), LATENCY, margin, RUNGS)


def told(snapshots: Path) -> Lineage | None:
    """The lineage as the snapshot in ``snapshots`` that was made last has it; None if none says anything."""
    newest: tuple[float, Lineage] | None = None
    for step in catalog.committed_steps(snapshots):
        with suppress(SnapshotCorrupt, ValueError, KeyError):
            manifest = catalog.read_manifest(snapshots / names.snapshot_name(step))
            lineage = Lineage.from_json(manifest.divergence["lineage"])
            if newest is None or manifest.created >= newest[0]:
                newest = manifest.created, lineage
    return newest[1] if newest is not None else None
