"""What happens to a run of several nodes: to one rank, to a supervisor, or to all of a node at once."""

from __future__ import annotations

import signal
import threading
from abc import ABC, abstractmethod
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

import psutil

from tests.nodes.several import Nodes


class Missed(Exception):  # noqa: N818  named by condition
    """There is nothing that could be hit."""


class Which(str, Enum):
    """A node, by its name or by its part."""

    FIRST = "n1"
    SECOND = "n2"
    LEADER = "leader"
    FOLLOWER = "follower"

    def of(self, nodes: Nodes) -> str:
        """Its name.

        :raises Missed: nobody leads yet.
        """
        if self in {Which.FIRST, Which.SECOND}:
            return str(self.value)
        if not any(nodes.paths.terms.glob("*.json")):
            raise Missed("nobody leads")
        leader = nodes.leader()
        return leader if self is Which.LEADER else next(name for name in nodes.names if name != leader)


@dataclass(frozen=True)
class NodeFault(ABC):
    """Something that happens."""

    @abstractmethod
    def inject(self, nodes: Nodes) -> str:
        """Do it; returns what was done, in words.

        :raises Missed: there was nothing to do it to.
        """

    @property
    def memory_lost(self) -> bool:
        """Whether what was in some node's memory is gone with it."""
        return False


@dataclass(frozen=True)
class KillOneRank(NodeFault):
    """:param rank: of all nodes."""

    rank: int

    def inject(self, nodes: Nodes) -> str:
        worker = _worker(nodes, self.rank)
        worker.kill()
        return f"SIGKILL to rank {self.rank} (process {worker.pid})"


@dataclass(frozen=True)
class StopOneRank(NodeFault):
    """One rank stands still for a while."""

    rank: int
    seconds: float

    def inject(self, nodes: Nodes) -> str:
        worker = _worker(nodes, self.rank)
        _stop(worker, self.seconds)
        return f"rank {self.rank} (process {worker.pid}) stands still for {self.seconds:g} s"


@dataclass(frozen=True)
class KillNodeSupervisor(NodeFault):
    which: Which

    def inject(self, nodes: Nodes) -> str:
        name = _up(nodes, self.which)
        nodes.kill_supervisor(name)
        return f"SIGKILL to the supervisor of {name}"


@dataclass(frozen=True)
class StopNodeSupervisor(NodeFault):
    """It stands still for a while; for longer than its lease, and another one takes its place."""

    which: Which
    seconds: float

    def inject(self, nodes: Nodes) -> str:
        name = _up(nodes, self.which)
        _stop(psutil.Process(nodes.processes[name].pid), self.seconds)
        return f"the supervisor of {name} stands still for {self.seconds:g} s"


@dataclass(frozen=True)
class KillWholeNode(NodeFault):
    """:param memory: what it had in memory is gone as well, as with its power."""

    which: Which
    memory: bool = False

    def inject(self, nodes: Nodes) -> str:
        name = _up(nodes, self.which)
        nodes.kill_node(name)
        if self.memory:
            nodes.switch_off(name)
        return f"SIGKILL to all of {name}{', whose memory is gone' * self.memory}"

    @property
    def memory_lost(self) -> bool:
        return self.memory


@dataclass(frozen=True)
class KillAllNodes(NodeFault):
    """:param memory: what they had in memory is gone as well."""

    memory: bool = False

    def inject(self, nodes: Nodes) -> str:
        up = [name for name in nodes.names if nodes.processes[name].poll() is None]
        if not up:
            raise Missed("no node is up")
        for name in nodes.names:
            if name in up:
                nodes.kill_node(name)
            if self.memory:
                nodes.switch_off(name)
        return f"SIGKILL to all of {' and '.join(up)}{', whose memory is gone' * self.memory}"

    @property
    def memory_lost(self) -> bool:
        return self.memory


@dataclass(frozen=True)
class TerminateNode(NodeFault):
    """SIGTERM as a scheduler sends it.

    :param everything: to all of its processes, not only to the supervisor.
    """

    which: Which
    everything: bool = False

    def inject(self, nodes: Nodes) -> str:
        name = _up(nodes, self.which)
        hit = nodes.everything_of(name) if self.everything else [psutil.Process(nodes.processes[name].pid)]
        for process in hit:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGTERM)
        return f"SIGTERM to {'all' if self.everything else 'the supervisor'} of {name}"


@dataclass(frozen=True)
class KillHelper(NodeFault):
    """:param module: which of a node's helpers, by what it runs."""

    which: Which
    module: str

    def inject(self, nodes: Nodes) -> str:
        name = _up(nodes, self.which)
        for process in psutil.Process(nodes.processes[name].pid).children():
            with suppress(psutil.Error):
                if self.module in process.cmdline():
                    process.kill()
                    return f"SIGKILL to {self.module} of {name} (process {process.pid})"
        raise Missed(f"{name} has no {self.module}")


HELPERS = ("resilient.worker.forkserver", "resilient.supervisor.drain_process", "resilient.nodes.replica_process")


def _up(nodes: Nodes, which: Which) -> str:
    name = which.of(nodes)
    if nodes.processes[name].poll() is not None:
        raise Missed(f"{name} is not up")
    return name


def _worker(nodes: Nodes, rank: int) -> psutil.Process:
    """:raises Missed: it is not up."""
    found = [entry for entry in nodes.journal() if entry["name"] == "worker launched" and entry.get("rank") == rank]
    process = next((each for each in nodes.workspace.processes() if found and each.pid == found[-1]["pid"]), None)
    if process is None:
        raise Missed(f"rank {rank} is not up")
    return process


def _stop(process: psutil.Process, seconds: float) -> None:
    """It is continued by a thread of the caller, which must live for so long."""
    process.suspend()

    def resume() -> None:
        with suppress(psutil.NoSuchProcess):
            process.resume()

    threading.Timer(seconds, resume).start()
