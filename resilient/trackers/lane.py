"""One tracker at work: a thread that reads, tells, and keeps how far it has come."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from resilient.trackers.details import Details
from resilient.trackers.narrator import Narrator
from resilient.trackers.place import Place
from resilient.trackers.tail import Line, Tail
from resilient.trackers.tracker import Context, Tracker

_LOOK_SECONDS = 0.5
_KEEP_SECONDS = 1.0  # between two times that the place is kept
_MOST_TRIES = 3
_FIRST_WAIT, _LONGEST_WAIT, _LAST_WAIT = 1.0, 60.0, 0.1
_HANGS_SECONDS = 120.0  # longer than what a tracker waits for the other side
_WELL_SECONDS = 60.0  # without a failure, and the earlier ones are forgotten


class Lane(threading.Thread):
    """Tells one tracker what happens, until :attr:`ending` is set and nothing is left.

    What a tracker fails at is tried ``_MOST_TRIES`` times, with growing waits, and then left out and counted. A tracker
    that cannot even be made is tried for ever.
    """

    def __init__(
        self,
        name: str,
        make: Callable[[Context], Tracker],
        context: Context,
        ending: threading.Event,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._make = make
        self._context = context
        self._ending = ending
        self._clock = clock
        self._file = place_of(context, name)
        self._kept = Place.read(self._file)
        self._dropped = self._kept.dropped
        self._unsettled: deque[tuple[float, Place]] = deque()
        self._failures = 0  # since it last went well for a while
        self._failed_at = self._written_at = clock()
        self._tries: dict[tuple[str, int], int] = {}  # by the line at which it failed
        self._alive_at = clock()
        self._complained = False

    def run(self) -> None:
        before = self._dropped
        while not self._served():
            if self._ending.wait(min(_FIRST_WAIT * 2 ** (self._failures - 1), _LONGEST_WAIT)):
                if self._failures > _MOST_TRIES:
                    break
                time.sleep(_LAST_WAIT)
        if self._dropped > before:
            self._context.say(f"tracker {self.name} has left out {self._dropped - before} things in all")

    def complain(self) -> None:
        """Called by another thread: say so, once, where the tracker has been at one thing for long."""
        if not self._complained and self.is_alive() and self._clock() - self._alive_at > _HANGS_SECONDS:
            self._complained = True
            self._context.say(f"WARNING: tracker {self.name} hangs; training goes on")

    def _served(self) -> bool:
        """Whether it came to its end in good order."""
        tracker: Tracker | None = None
        self._alive_at = self._clock()
        try:
            tracker = self._make(self._context)
            if self._kept.tracker:
                tracker.resume(self._kept.tracker)
            self._serve(tracker)
            tracker.close()
            self._keep_newest()
        except (Exception, SystemExit) as error:  # noqa: BLE001  whatever it is, it must not end the others
            self._failed(error)
            with suppress(Exception, SystemExit):  # its successor may need what it holds, such as a port
                if tracker is not None:
                    tracker.close()
            return False
        return True

    def _failed(self, error: BaseException) -> None:
        """Only the kind of the error is told: its text may hold whatever the other side has said."""
        self._failures += 1
        self._failed_at = self._clock()
        self._unsettled.clear()
        print(f"{self.name}: {type(error).__name__}", flush=True)
        if self._failures == _MOST_TRIES:
            self._context.say(f"WARNING: tracker {self.name} fails ({type(error).__name__}); training goes on")

    def _serve(self, tracker: Tracker) -> None:
        tail = Tail(self._context.paths, self._kept.files, self._context.settings.most_behind_bytes)
        narrator = Narrator(self._context.paths.run_id, self._kept.narrator)
        while True:
            ending = self._ending.is_set()  # asked first: what is written later, the next look finds
            told, self._alive_at = 0, self._clock()
            for line in tail.lines():
                for details in narrator.tell(line):
                    self._tell(tracker, line, details)
                    told += 1
                tail.passed(line)
                if self._clock() - self._written_at > _KEEP_SECONDS:
                    self._keep(tracker, tail, narrator)
            self._count_left_out(tail)
            self._keep(tracker, tail, narrator, idle=not told)
            if ending:
                return
            self._ending.wait(_LOOK_SECONDS)

    def _tell(self, tracker: Tracker, line: Line, details: Details) -> None:
        place = (line.file, line.end)
        tries = self._tries.get(place, 0)
        if tries >= _MOST_TRIES:
            self._dropped += 1
            return
        self._alive_at = self._clock()
        try:
            tracker.handle(details)
        except BaseException:
            self._tries[place] = tries + 1
            raise

    def _count_left_out(self, tail: Tail) -> None:
        if not tail.dropped:
            return
        self._dropped, tail.dropped = self._dropped + tail.dropped, 0
        self._context.say(f"WARNING: tracker {self.name} is too slow: {self._dropped} lines of metrics were left out")

    def _keep(self, tracker: Tracker, tail: Tail, narrator: Narrator, *, idle: bool = False) -> None:
        """Write down the newest place up to which everything is safe."""
        now = self._written_at = self._clock()
        tracker.flush()
        if not idle:
            place = Place(dict(tail.places), narrator.known(), dict(tracker.state), self._dropped)
            self._unsettled.append((now, place))
        settled = None
        while self._unsettled and self._unsettled[0][0] <= now - tracker.settle_seconds:
            settled = self._unsettled.popleft()[1]
        if settled is not None:
            self._settled(settled)
        if now - self._failed_at > _WELL_SECONDS:
            self._failures = 0

    def _keep_newest(self) -> None:
        """The tracker has closed in good order, so all is safe."""
        if self._unsettled:
            self._settled(self._unsettled[-1][1])

    def _settled(self, place: Place) -> None:
        self._kept = place
        place.write(self._file)
        self._tries = {at: tries for at, tries in self._tries.items() if place.files.get(at[0], 0) < at[1]}


def place_of(context: Context, name: str) -> Path:
    """The file in which it is kept how far a tracker has come."""
    return context.paths.root / "trackers" / f"{name}.json"
