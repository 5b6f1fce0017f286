"""Starting workers through the forkserver, and killing whole process trees."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from resilient.policy.culprit import Condition
from resilient.protocol.launch import LaunchSpec
from resilient.protocol.scratch import Scratch
from resilient.supervisor import kernel_view, processes
from resilient.supervisor.helper import Helper


@dataclass(frozen=True)
class Launched:
    """A worker is up as process ``pid``."""

    rank: int
    pid: int


@dataclass(frozen=True)
class Exited:
    """A worker is gone; ``code`` is ``-n`` for death by signal *n*."""

    rank: int
    code: int


@dataclass(frozen=True)
class Failed:
    """Workers could not be started.

    :param rank: which one; None when it is all of them.
    :param hung: the forkserver did not answer, and was ended for that.
    """

    reason: str
    rank: int | None = None
    hung: bool = False


Report = Launched | Exited | Failed
_STOPPED_SECONDS = 1.0  # a forkserver that is stopped and has something to do for so long is no use any more
_LOOK_SECONDS = 0.2  # between two looks at what the kernel says of each worker, which costs more than all else
_LAUNCH_SECONDS = 30.0  # nor is one that is ready and does not fork, which takes hundredths of a second


class Launcher:
    """Owns the forkserver. It is started early, so that it is warm when it is needed, and again should it die."""

    def __init__(
        self,
        preload: Sequence[str],
        *,
        lock: int,
        log: Path,
        scratch: Scratch,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the forkserver.

        :param environment: variables for the workers; some, such as ``OMP_NUM_THREADS``, are read when torch is
            imported.
        """
        self._scratch = scratch
        self._arguments = (str(os.getpid()), str(scratch.make() or ""), *preload)
        self._lock = lock
        self._log = log
        # Sets of strings are iterated in hash order. With one seed for all rounds, a resumed script sees the order it
        # saw before.
        self._environment = {"PYTHONHASHSEED": os.environ.get("PYTHONHASHSEED", "0"), **(environment or {})}
        self._live: dict[int, int | None] = {}  # None: asked for, not launched yet
        self._doomed: set[int] = set()
        self._ready = self._up = False
        self._clock = clock
        self._wanted_since: float | None = None  # when the forkserver was first seen to have something to do
        self._next_look = 0.0
        self._stuck = ""  # why it was ended
        self._idle = socket.socketpair()  # never readable: what stands for the connection while there is none
        self._start()

    def _start(self) -> None:
        self._ready, self._up = False, True
        module = "resilient.worker.forkserver"
        self._helper = Helper(module, self._arguments, lock=self._lock, log=self._log, environment=self._environment)

    @property
    def connection(self) -> socket.socket:
        """Readable when :meth:`receive` should be called. It is another one once the helper had to be started again."""
        return self._helper.connection if self._up else self._idle[0]

    def launch(self, specs: Sequence[LaunchSpec]) -> None:
        """Ask for the workers; they are reported as ``Launched`` or ``Failed``."""
        self._doomed.clear()
        self._scratch.make()
        self._wanted_since = None
        if not self._up:
            self._start()
        for spec in specs:
            self._live[spec.rank] = None
            # A dead forkserver is found out by the next `receive`, which reports its workers, these among them, as
            # gone.
            self._helper.send({"op": "launch", "spec": spec.to_json()})

    def receive(self) -> list[Report]:
        """What has happened; call it when :attr:`connection` is readable."""
        message = self._helper.receive()
        if message is None:
            return self._forkserver_died()
        event = message["event"]
        if event == "ready":
            self._ready = True
            self._wanted_since = None  # what it has imported may have taken long; from now on it has no such excuse
            return []
        if event == "launched":
            self._live[message["rank"]] = message["pid"]
            if message["rank"] in self._doomed:
                self.kill()
            return [Launched(message["rank"], message["pid"])]
        if event == "exited":
            self._live.pop(message["rank"], None)
            return [Exited(message["rank"], message["code"])]
        self._live.pop(message["rank"], None)
        return [Failed(message["reason"], message["rank"])]

    def _forkserver_died(self) -> list[Report]:
        was_ready, lost, stuck = self._ready, sorted(self._live), self._stuck
        unborn = None in self._live.values()
        self._live.clear()
        self._wanted_since, self._stuck = None, ""
        words = self._helper.last_words()
        self._helper.close()
        if stuck and unborn:
            self._start()
            return [Failed(stuck, hung=True)]
        if was_ready:
            self._start()
            return [Exited(rank, -signal.SIGKILL) for rank in lost]  # its workers died with it
        # It may never become ready, so the next one is started only when it is needed.
        self._up = self._ready = False
        reason = words.splitlines()[-1] if words else "the forkserver ended before it was ready, without a word"
        return [Failed(reason)]

    def check(self) -> None:
        """End a forkserver that stands still while it has something to do; call it often.

        It has when a worker is to be forked, when one is dead and has not been reported, and when all are being killed.
        """
        if self._clock() < self._next_look:
            return
        self._next_look = self._clock() + _LOOK_SECONDS
        unborn = None in self._live.values()
        if not self._up or not (unborn or any(map(kernel_view.is_dead, self._pids()))):
            self._wanted_since = None
            return
        if self._wanted_since is None:
            self._wanted_since = self._clock()
        waited = self._clock() - self._wanted_since
        stopped = waited > _STOPPED_SECONDS and kernel_view.condition(self._helper.pid) is Condition.STOPPED
        if not self._stuck and (stopped or (unborn and self._ready and waited > _LAUNCH_SECONDS)):
            how = f": {Condition.STOPPED.value}" if stopped else ""
            self._stuck = f"the forkserver does not answer{how}"
            self._helper.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the workers themselves, not to what they started.

        One that is not there yet could not hear it, and has nothing to save: it is not started any more.
        """
        self._give_up_unborn()
        for pid in self._pids():
            if self._is_ours(pid):
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL every worker and everything that descends from it. Orphans are the forkserver's to find."""
        self._give_up_unborn()
        workers = [pid for pid in self._pids() if self._is_ours(pid)]
        # One look at all processes, and no psutil object for each of them: of very many ranks those that are killed
        # take the processor from whoever kills the others.
        below = processes.below(workers, processes.parents()) if workers else []
        descendants = [process for pid in below if (process := _process(pid)) is not None]
        for pid in workers:
            if not self._is_ours(pid):
                continue  # reaped meanwhile
            # The group first: no fork in it can get away in between, as it could from a list.
            try:
                os.killpg(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):  # it has no group yet, as it was forked just now
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
        for process in descendants:
            with suppress(psutil.Error):
                process.kill()

    def _give_up_unborn(self) -> None:
        self._doomed.update(rank for rank, pid in self._live.items() if pid is None)
        if self._doomed and self._up and not self._ready:
            self._helper.kill()  # it is still importing, and may do so for ever

    def _is_ours(self, pid: int) -> bool:
        """Whether there is a worker of that number; it may be gone, and its number another process's by now."""
        return processes.parent(pid) in {self._helper.pid, os.getpid()}  # ours since the forkserver died, if it has

    @property
    def workers(self) -> Mapping[int, int | None]:
        """Process numbers of the live workers by rank; None for one that was asked for and is not there yet."""
        return self._live

    def _pids(self) -> list[int]:
        return [pid for pid in self._live.values() if pid is not None]

    @property
    def pid(self) -> int:
        """Process number of the forkserver."""
        return self._helper.pid

    def close(self) -> None:
        if self._up:
            if not self._ready:
                self._helper.kill()  # it would not see that we are gone before its imports are done
            self._helper.close()
        self._scratch.remove()


def _process(pid: int) -> psutil.Process | None:
    """It is killed by number and start time, so that nobody else is."""
    with suppress(psutil.Error):
        return psutil.Process(pid)
    return None
