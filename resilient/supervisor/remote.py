"""Copies in the remote tier: which local snapshots are to be uploaded, when, and what is known to lie there.

The remote tier is listed once, when the run is opened. From then on its content is known from our own uploads, so that
a crash never waits for the network. One snapshot is uploaded at a time and at most one waits: where uploads are slower
than snapshots, the newest one that is due replaces the one that waits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from resilient.errors import SnapshotCorrupt
from resilient.policy import events as on
from resilient.policy.lineage import Lineage
from resilient.protocol.arena import Slot
from resilient.protocol.paths import RunPaths
from resilient.snapshot import catalog
from resilient.snapshot.fencing import Terms
from resilient.supervisor.console import Console
from resilient.supervisor.drain_answers import Rejected, Restored, RestoreFailed
from resilient.supervisor.journal import Journal
from resilient.supervisor.uploads import Fetched, ListingFailed, Remote, RemoteListed, Uploaded, UploadFailed, Uploads

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0


class RemoteCopies:
    """Decides what the uploader does, and remembers what it said.

    :ivar identity: of the snapshot restored last.
    :ivar restored: what that says of divergence.
    :ivar lineage: copies that are not on it are not used; they are deleted at the next upload.
    :ivar fetched: the step whose snapshot the last :meth:`receive` has found to be copied to the local tier.
    :ivar told: the lineage as the newest copy there has it, and the last round of all; None before the listing.
    """

    def __init__(
        self,
        uploads: Uploads,
        paths: RunPaths,
        *,
        journal: Journal,
        console: Console,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._uploads = uploads
        self._settings = uploads.settings
        self._paths = paths
        self._journal = journal
        self._console = console
        self._clock = clock
        self._wall = wall
        self.identity: str | None = None
        self.restored: Mapping[str, Any] = {}
        self.lineage = Lineage()
        self.told: tuple[Lineage, int] | None = None
        self.fetched: int | None = None
        self._known: dict[int, Remote] = {}
        self._damaged = 0
        self._listed = False
        self._problem: str | None = None
        self._opened_at = clock()
        self._last_due = -math.inf
        self._waiting: int | None = None
        self._pause = _FIRST_PAUSE
        self._resume_at = -math.inf
        self._wanted: int | None = None  # the step that is to be there before the run ends
        self._end_by = math.inf
        self._end_problem: str | None = None
        self._warned = ""

    def open(self) -> None:
        """Begin to find out what lies there."""
        self._opened_at = self._clock()
        self._uploads.list()

    # --- what could be resumed from

    def ready(self, *, nearer: bool) -> bool:
        """Whether it is time to choose what to resume from: we know what lies there, or need not wait to know.

        :param nearer: there is something in memory or on disk.
        """
        if self._listed or self._problem is not None:
            return True
        if nearer and self._clock() - self._opened_at > self._settings.patience_seconds:
            self._problem = f"no answer within {self._settings.patience_seconds:g} s"
            self._warn(f"{self._problem}; resuming from what is on this machine, though there may be newer snapshots")
            return True
        return False

    def complete(self, listed: on.SnapshotsListed) -> on.SnapshotsListed:
        """Add what lies in the remote tier to what could be resumed from."""
        steps, quarantined = tuple(sorted(self._on_lineage())), listed.quarantined + self._damaged
        problem = None if self._listed else self._problem
        return on.SnapshotsListed(listed.memory_step, listed.durable_steps, quarantined, steps, problem)

    def _on_lineage(self) -> Mapping[int, Remote]:
        terms = Terms.read(self._paths.snapshots)
        return {
            step: remote
            for step, remote in self._known.items()
            if self.lineage.holds(step, remote.round) and terms.count(step, remote.term)
        }

    def restore(self, step: int, slots: Mapping[int, Slot], sequence: int, *, fetch: bool = False) -> None:
        """Have a remote snapshot read into ``slots``; :meth:`receive` says how it went.

        :param fetch: have it copied to the local tier instead; then it is :attr:`fetched`, or an event says why not.
        """
        self._uploads.restore(step, slots, sequence, self.lineage.to_json(), fetch=fetch)

    def abandon_restore(self) -> None:
        """End an uploader that does not answer."""
        self._uploads.abandon_restore()

    def discard_after(self, step: int) -> None:
        """The run goes on from ``step``: nothing later is to be uploaded any more."""
        if self._waiting is not None and self._waiting > step:
            self._waiting = None
        if self._wanted is not None and self._wanted > step:
            self._wanted = None
        self._uploads.forget_after(step)

    # --- what is to be uploaded

    def in_use(self) -> tuple[int, ...]:
        """Local snapshots that must not be deleted now."""
        steps = (self._uploads.uploading, self._waiting, self._wanted)
        return tuple(sorted({step for step in steps if step is not None}))

    def committed(self, step: int) -> None:
        """A snapshot is durable on this machine: if it is due, it goes to the remote tier too."""
        if self._settings.wants(step, self._clock() - self._last_due):
            self._last_due = self._clock()
            self._want(step)

    def _want(self, step: int) -> None:
        if self._waiting is not None and self._waiting != step:
            self._journal.write("note", "upload superseded", self._clock(), step=self._waiting, by=step)
        self._waiting = step
        self.poll()

    def poll(self) -> None:
        """Begin the upload that waits, if it may begin now."""
        if self._waiting is None or self._uploads.busy or self._clock() < self._resume_at:
            return
        step, self._waiting = self._waiting, None
        self._uploads.upload(step, self.lineage.to_json())

    def finish(self, step: int | None, by: float) -> None:
        """The run ends: the local snapshot of ``step`` is to be in the remote tier by then. Said again, only the time
        counts.
        """
        self._end_by = by
        if step is None or step == self._wanted:
            return
        if self._is_there(step):
            return
        self._wanted, self._end_problem, self._resume_at = step, None, -math.inf
        if self._uploads.uploading != step:
            self._console.say(f"uploading step {step} to {self._settings.url}")
            self._want(step)

    def finished(self) -> tuple[bool, str | None]:
        """Whether the end need not wait for us any longer, and what is not in the remote tier."""
        if self._wanted is None:
            return True, None
        if self._end_problem is not None:
            return True, self._end_problem
        if self._clock() < self._end_by:
            return False, None
        self._uploads.abandon()
        return True, f"there was no time to upload step {self._wanted}; what has been sent of it is kept"

    def _is_there(self, step: int) -> bool:
        known = self._on_lineage().get(step)
        if known is None:
            return False
        try:
            return catalog.read_manifest(self._paths.snapshot(step)).identity == known.identity
        except SnapshotCorrupt:
            return True  # there is nothing here that could replace it

    # --- what the uploader says

    def receive(self) -> on.Event | None:
        """What the uploader has to say; returns what the policy core has to know of it."""
        answer, self.fetched = self._uploads.receive(), None
        if answer is None:
            return None
        if isinstance(answer, Restored):
            self._journal.record("note", replace(answer, divergence={}), self._clock())
        elif not isinstance(answer, RemoteListed):
            self._journal.record("note", answer, self._clock())
        event: on.Event | None = None
        if isinstance(answer, (Restored, Rejected, RestoreFailed)):
            event = self._restore_ended(answer)
        elif isinstance(answer, Fetched):
            self.fetched = answer.step
            words = f"step {answer.step} verified and copied here from {self._settings.url} in {answer.seconds:.2f} s"
            self._console.say(words)
        elif isinstance(answer, RemoteListed):
            self._remote_listed(answer)
        elif isinstance(answer, ListingFailed):
            self._problem = answer.problem
            self._warn(f"what lies there is not known: {answer.problem}")
        elif isinstance(answer, Uploaded):
            self._uploaded(answer)
        else:
            self._upload_failed(answer)
        self.poll()
        return event

    def _remote_listed(self, answer: RemoteListed) -> None:
        steps = sorted(answer.snapshots)
        self._journal.write("note", "RemoteListed", self._clock(), steps=steps, damaged=answer.damaged)
        self._listed, self._problem = True, None
        self._known, self._damaged = {**answer.snapshots, **self._known}, answer.damaged
        self.told = answer.lineage, max((remote.round for remote in self._known.values()), default=-1)
        known = self._on_lineage()
        newest = max(known, default=-1)
        if known:
            made = max(remote.created for remote in known.values())
            self._last_due = max(self._last_due, self._clock() - max(0.0, self._wall() - made))
        local = max(catalog.steps_on(self._paths.snapshots, self.lineage), default=-1)
        if local >= max(newest, 0) and not self._is_there(local) and self._uploads.uploading != local:
            self._want(local)  # what was cut short before, or never begun

    def _uploaded(self, answer: Uploaded) -> None:
        for step in answer.removed:
            self._known.pop(step, None)
        self._known[answer.step] = Remote(answer.identity, answer.created, answer.round, answer.term)
        self._pause, self._resume_at, self._warned = _FIRST_PAUSE, -math.inf, ""
        if answer.problem:
            self._warn(f"what retention does not want stays there: {answer.problem}")
        if answer.step == self._wanted:
            self._wanted = None
        if not self._listed:
            self._uploads.list()

    def _upload_failed(self, answer: UploadFailed) -> None:
        self._warn(f"step {answer.step} could not be uploaded: {answer.problem}")
        if answer.step == self._wanted:
            self._end_problem = f"step {answer.step} could not be uploaded: {answer.problem}"
            return
        if answer.lost:
            return
        if self._wanted is None:
            self._resume_at, self._pause = self._clock() + self._pause, min(2 * self._pause, _LONGEST_PAUSE)
            self._waiting = answer.step if self._waiting is None else self._waiting

    def _restore_ended(self, answer: Restored | Rejected | RestoreFailed) -> on.Event:
        if isinstance(answer, Restored):
            self.identity, self.restored = answer.identity, answer.divergence
            self._console.say(
                f"step {answer.step} verified and loaded from {self._settings.url} in {answer.seconds:.2f} s"
            )
            return on.SnapshotRestored(answer.step, on.Tier.REMOTE, answer.durations)
        if isinstance(answer, Rejected):
            self._known.pop(answer.step, None)
            self._damaged += 1
            self._console.say(f"remote snapshot of step {answer.step} is corrupt: {answer.reason}")
            return on.SnapshotRejected(answer.step, on.Tier.REMOTE, answer.reason)
        self._console.say(f"remote snapshot of step {answer.step} could not be loaded: {answer.problem}")
        return on.RestoreFailed(answer.step, answer.problem, on.Tier.REMOTE)

    def _warn(self, text: str) -> None:
        """Say it, but not over and over."""
        if text != self._warned:
            self._console.say(f"WARNING: remote tier {self._settings.url}: {text}")
            self._warned = text
