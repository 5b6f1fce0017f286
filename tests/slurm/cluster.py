"""A real SLURM on this machine: a controller and two virtual nodes, in a directory and on ports of their own.

There is one at a time on a machine, whoever asks (:func:`only_one`): the nodes pretend to have cores of their own, and
jobs of several clusters would fight for those that there are. It runs as whoever runs the tests; root is not needed.
"""

from __future__ import annotations

import fcntl
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "sinfo", "setpriv")
PACKAGES = "slurmctld slurmd slurm-client munge"
NODES = ("n1", "n2")
GRACE_SECONDS = 20  # of the partition `low`, from SIGTERM to SIGKILL when it is preempted
KILL_WAIT_SECONDS = 15  # from SIGTERM to SIGKILL at the time limit
_START_SECONDS = 60.0
_WAIT_SECONDS = 120.0
_PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"

# cred_expire is what a requeued job waits for before it may start again; without it these are two minutes.
_CONFIGURATION = """\
ClusterName=resilient
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge/socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/spool-%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd-%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
KillWait={kill_wait}
OverTimeLimit=0
ReturnToService=2
SlurmdTimeout=30
InactiveLimit=0
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=100000,batch_sched_delay=0
{nodes}
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime={grace} OverSubscribe=EXCLUSIVE
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF OverSubscribe=EXCLUSIVE State=UP
PartitionName=closed Nodes=ALL AllowGroups=nobody-has-this-group State=DOWN
"""


def why_not() -> str | None:
    """Why no cluster can be started here, and what to do about it; None if one can."""
    missing = [program for program in PROGRAMS if shutil.which(program, path=_PATH) is None]
    return f"needs SLURM ({', '.join(missing)} not found): apt-get install {PACKAGES}" if missing else None


@contextmanager
def only_one() -> Iterator[None]:
    """Waits until no other process of this machine has a cluster."""
    with (Path(tempfile.gettempdir()) / f"resilient-slurm-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@dataclass
class Cluster:
    """A cluster that is up; see :func:`started`.

    :param environment: what clients need in order to find it.
    """

    directory: Path
    environment: Mapping[str, str]
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def call(self, *command: str, cwd: Path | None = None, check: bool = True) -> str:
        """What a client command prints; an error shows what it said."""
        done = subprocess.run(
            command,
            env=dict(self.environment),
            cwd=cwd or self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check and done.returncode:
            raise AssertionError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def submit(self, script: str, *options: str, cwd: Path | None = None) -> int:
        """Submit a batch script; returns the job's id."""
        path = self.directory / f"batch-{secrets.token_hex(4)}.sh"
        path.write_text(script if script.startswith("#!") else f"#!/bin/bash\n{script}")
        return int(self.call("sbatch", "--parsable", *options, str(path), cwd=cwd).split(";")[0])

    def job(self, job: int | str) -> dict[str, str]:
        """What ``scontrol show job`` says; empty when the controller has forgotten it."""
        shown = self.call("scontrol", "--oneliner", "show", "job", str(job), check=False)
        return dict(word.split("=", 1) for word in shown.split() if "=" in word)

    def jobs(self) -> list[str]:
        """Ids of all jobs that are not over."""
        return self.call("squeue", "--noheader", "--array", "--format=%A").split()

    def state(self, job: int | str) -> str:
        return self.job(job).get("JobState", "")

    def wait_for_state(self, job: int | str, *states: str, seconds: float = _WAIT_SECONDS) -> str:
        """Wait until a job is in one of these states; returns which."""
        self.wait_until(lambda: self.state(job) in states, f"job {job} to be {' or '.join(states)}", seconds)
        return self.state(job)

    def wait_until(self, condition: Callable[[], object], what: str, seconds: float = _WAIT_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                shown = self.call("scontrol", "show", "job", check=False)
                log = (self.directory / "slurmctld.log").read_text(errors="replace")[-4000:]
                raise AssertionError(f"waited {seconds:g} s for {what}\n{shown}\n{log}")
            time.sleep(0.1)

    def clear(self) -> None:
        """End all jobs and bring all nodes back."""
        if jobs := self.jobs():
            self.call("scancel", "--quiet", "--signal=KILL", "--full", *jobs, check=False)
            self.call("scancel", "--quiet", *jobs, check=False)
        self.wait_until(lambda: not self.jobs(), "all jobs to be over")
        for name in NODES:
            self.repair_node(name)
        self.wait_until(lambda: all(self.node_state(name) == "IDLE" for name in NODES), "both nodes to be idle")

    def node_state(self, name: str) -> str:
        words = self.call("scontrol", "--oneliner", "show", "node", name, check=False).split()
        return next((word.partition("=")[2] for word in words if word.startswith("State=")), "")

    def start_node(self, name: str) -> None:
        self.nodes[name] = _daemon(self, "slurmd", "-D", "-N", name)

    def lose_node(self, name: str) -> None:
        """The controller takes the node for lost. What runs on it is not told, and is the caller's to end."""
        self.nodes[name].kill()
        self.nodes[name].wait()
        self.call("scontrol", "update", f"nodename={name}", "state=down", "reason=test")

    def repair_node(self, name: str) -> None:
        """Have the node take jobs again, if it was lost."""
        if self.nodes[name].poll() is not None:
            self.start_node(name)

        def is_up() -> bool:
            state = self.node_state(name)
            if "DOWN" in state or "NOT_RESPONDING" in state:
                self.call("scontrol", "update", f"nodename={name}", "state=resume", check=False)
            return not {"DOWN", "NOT_RESPONDING"} & set(state.replace("*", "+NOT_RESPONDING").split("+"))

        self.wait_until(is_up, f"node {name} to be up")

    def processes(self) -> list[psutil.Process]:
        """Everything that belongs to this cluster, jobs included."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get("SLURM_CONF") == self.environment["SLURM_CONF"]
            except (psutil.Error, OSError):
                continue
            if ours and process.pid != os.getpid():
                found.append(process)
        return found


@contextmanager
def started(directory: Path) -> Iterator[Cluster]:
    """A cluster of two nodes; afterwards nothing of it is running."""
    cluster = _prepared(directory)
    with ExitStack() as stack:
        stack.callback(_kill_all, cluster)
        _authentication(cluster)
        _daemon(cluster, "slurmctld", "-D", "-i")
        for name in NODES:
            cluster.start_node(name)
        ready = f"{len(NODES)} nodes to be idle"
        cluster.wait_until(
            lambda: all(cluster.node_state(name) == "IDLE" for name in NODES), ready, seconds=_START_SECONDS
        )
        yield cluster
        cluster.clear()


def _prepared(directory: Path) -> Cluster:
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (directory / name).mkdir(mode=0o755, parents=True)
    host = socket.gethostname().split(".")[0]
    controller, *ports = _free_ports(1 + len(NODES))
    lines = [
        f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=2000 State=UNKNOWN"
        for name, port in zip(NODES, ports, strict=True)
    ]
    configuration = directory / "slurm.conf"
    configuration.write_text(
        _CONFIGURATION.format(
            host=host,
            controller=controller,
            user=getpass.getuser(),
            directory=directory,
            kill_wait=KILL_WAIT_SECONDS,
            grace=GRACE_SECONDS,
            nodes="\n".join(lines),
        )
    )
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    return Cluster(directory, {**inherited, "PATH": _PATH, "SLURM_CONF": str(configuration)})


def _free_ports(count: int) -> Sequence[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _authentication(cluster: Cluster) -> None:
    place = cluster.directory / "munge"
    key = place / "key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    files = {"key-file": key, "pid-file": place / "pid", "log-file": place / "log", "seed-file": place / "seed"}
    options = [f"--{option}={path}" for option, path in files.items()]
    _daemon(cluster, "munged", "--foreground", "--force", f"--socket={place / 'socket'}", *options)
    deadline = time.monotonic() + _START_SECONDS
    while not (place / "socket").exists():
        assert time.monotonic() < deadline, (place / "log").read_text()
        time.sleep(0.05)


def _daemon(cluster: Cluster, *command: str) -> subprocess.Popen[bytes]:
    """A daemon that ends with the tests, whatever ends them."""
    with (cluster.directory / "daemons.log").open("ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *command],
            env=dict(cluster.environment),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _kill_all(cluster: Cluster) -> None:
    while left := cluster.processes():
        for process in left:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=10)
