"""The forkserver: a process with torch imported once, from which every worker is forked warm.

Importing torch takes seconds, forking a process that has it takes milliseconds; that is most of the difference
between a relaunch here and elsewhere. It stays single-threaded in Python, runs no tensor operation and never touches
CUDA, because neither OpenMP's threads nor a CUDA context survive a fork.

It is also the workers' guardian. It adopts every orphan of theirs, and when the supervisor is gone it kills all that
is left and follows. Run as ``resilient.worker.forkserver FD LOCK PARENT SCRATCH MODULE…`` with one end of a
socket pair as ``FD``.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import selectors
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path

from resilient.protocol import job_signals, wire
from resilient.protocol.launch import LaunchSpec
from resilient.protocol.parent import (
    adopt_orphans,
    children,
    die_with_parent,
    kill_orphans,
    outlive_parent,
    remove_torch_shared_memory,
)
from resilient.protocol.scratch import use_scratch
from resilient.worker.bootstrap import become_worker, run_script
from resilient.worker.stacks import answer_with_stacks


class Forkserver:
    """Forks workers on request and reports their ends."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._workers: dict[int, int] = {}  # process → rank
        self._wake, self._wake_in = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake.setblocking(False)

    def serve(self) -> LaunchSpec | None:
        """Serve until the supervisor is gone. In a forked child, return what it is to become; in the server, None."""
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake_in.fileno(), warn_on_full_buffer=False)
        wire.send(self._connection, {"event": "ready", "pid": os.getpid()})
        with selectors.DefaultSelector() as selector:
            selector.register(self._connection, selectors.EVENT_READ)
            selector.register(self._wake, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj for key, _ in selector.select()}
                if self._wake in ready:
                    with suppress(BlockingIOError):
                        self._wake.recv(4096)
                    self._reap()
                if self._connection not in ready:
                    continue
                message = wire.receive(self._connection)
                if message is None:
                    self._kill_everything()
                    return None
                spec = self._launch(LaunchSpec.from_json(message["spec"]))
                if spec is not None:
                    return spec

    def _launch(self, spec: LaunchSpec) -> LaunchSpec | None:
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            self._report({"event": "failed", "rank": spec.rank, "reason": f"fork: {error.strerror}"})
            return None
        if pid == 0:
            become_worker(spec, parent)
            for end in (self._connection, self._wake, self._wake_in):
                end.close()
            return spec
        self._workers[pid] = spec.rank
        self._report({"event": "launched", "rank": spec.rank, "pid": pid})
        return None

    def _reap(self) -> None:
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if ended is None:
                return
            rank = self._workers.pop(ended.si_pid, None)
            if rank is not None:
                # Before the worker is reaped its number cannot be reused, so this group is its group and nobody else's.
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(ended.si_pid, signal.SIGKILL)
            _, status = os.waitpid(ended.si_pid, 0)
            remove_torch_shared_memory(ended.si_pid)
            if rank is not None:
                # what outlived its worker, which has made it ours
                if not self._workers and (left := kill_orphans(self._workers)):
                    print(f"killed, but waiting for a disk or a device: {left}", file=sys.stderr, flush=True)
                code = os.waitstatus_to_exitcode(status)
                self._report({"event": "exited", "rank": rank, "pid": ended.si_pid, "code": code})

    def _kill_everything(self) -> None:
        while children():
            for pid in children():
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(pid, signal.SIGKILL)
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                while pid := os.waitpid(-1, os.WNOHANG)[0]:
                    remove_torch_shared_memory(pid)
            time.sleep(0.001)  # orphans of the killed arrive one generation at a time

    def _report(self, message: wire.Message) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # the supervisor's end is seen at the next receive
            wire.send(self._connection, message)


def _import(name: str) -> None:
    """Import it; a module of the user's is found in the working directory, which nothing else is looked for in."""
    if importlib.util.find_spec(name.partition(".")[0]) is not None:
        importlib.import_module(name)
        return
    place = str(Path.cwd())
    sys.path.append(place)
    try:
        importlib.import_module(name)
    finally:
        sys.path.remove(place)


def main(arguments: list[str]) -> int:
    """Import the modules, then serve; in a worker, run its script."""
    # A scheduler's SIGTERM reaches every process of the job; this one ends with the supervisor, and not before.
    job_signals.ignore()
    answer_with_stacks()  # what is imported below may hang as well
    adopt_orphans()
    die_with_parent(int(arguments[2]))  # while importing, nobody here would notice that the supervisor is gone
    connection = wire.own_end(arguments)
    # Collecting garbage takes an eighth of the time of an import that makes next to none. As the documentation of
    # `gc.freeze` has it: none before it, so that what the workers share has no holes that they would fill. By the
    # threshold, for what is imported may itself have said whether garbage is collected.
    thresholds = gc.get_threshold()
    gc.set_threshold(0)
    # Whatever a worker would import after the fork costs every relaunch its time, our own side of it first of all.
    # With nothing to preload, workers start cold: the script does something that has to come before the imports.
    preload = [*arguments[4:], "resilient.worker.attach"] if arguments[4:] else []
    for name in preload:
        _import(name)
    if arguments[3]:
        use_scratch(arguments[3])
    gc.freeze()  # what is imported now stays shared between all workers; a collection would copy its pages
    if gc.get_threshold()[0] == 0:
        gc.set_threshold(*thresholds)
    outlive_parent()  # from here on we notice, and have workers to take along
    spec = Forkserver(connection).serve()
    if spec is None:
        with suppress(OSError):  # a full disk
            sys.stdout.flush()
        os._exit(0)  # taking torch apart again takes half a second, for which the end of the run would wait
    return run_script(spec)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
