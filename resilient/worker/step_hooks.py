"""What goes along with each step beside the snapshots: its hashes, and a learning rate that is lowered."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilient.protocol.metrics_log import PHASE_CHANGE
from resilient.protocol.plan import RoundPlan
from resilient.worker.fingerprint import Fingerprint
from resilient.worker.learning_rate import LearningRate
from resilient.worker.reporting import Reporter


class StepHooks:
    """What a plan wants of each step."""

    def __init__(self, plan: RoundPlan, objects: Mapping[str, Any], reporter: Reporter) -> None:
        self._reporter = reporter
        self._learning_rate = LearningRate(plan.lr_factor)
        self._fingerprint = Fingerprint(plan.fingerprint, objects)
        self._phase_changed = False

    def open(self) -> None:
        """The loop begins."""
        self._learning_rate.open()
        self._fingerprint.open()

    def close(self) -> None:
        """The loop has ended: leave the optimizers as they were."""
        self._learning_rate.close()
        self._fingerprint.close()

    def begins(self, step: int, batch: Any) -> None:
        """A step begins; the script has not had its batch yet."""
        known = self._fingerprint.of_batch(batch)
        if self._phase_changed:
            known[PHASE_CHANGE], self._phase_changed = 1.0, False
        self._reporter.put(step, known)

    def ended(self, step: int) -> None:
        """The body of a step has ended."""
        self._learning_rate.boundary()
        self._reporter.put(step, self._fingerprint.of_step())

    def phase_change(self, step: int | None) -> None:
        """Metrics may stand anywhere from ``step`` on; None for the next one."""
        if step is None:
            self._phase_changed = True
        else:
            self._reporter.put(step, {PHASE_CHANGE: 1.0})
