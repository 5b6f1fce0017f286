"""SLURM: how a job ends here, how long it has for that, and whether it comes back."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from resilient.doctor import mounts
from resilient.doctor.ancestors import Line, above
from resilient.doctor.check import Check, Look
from resilient.doctor.cluster import SECONDS, Cluster, Unasked, ask, has_scontrol, is_here, seconds_of
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.words import duration
from resilient.doctor.world import World
from resilient.errors import ExitCode
from resilient.policy.state import StopSettings
from resilient.slurm.settings import Requeue, SlurmSettings

_LITTLE = 10  # seconds; less is hardly a step and a flush
_TO_SCRIPT = (signal.SIGTERM, signal.SIGUSR1)
_SRUN = "start it with srun, as the batch file of resilient submit does, or with exec"


def judge_reachable(*, scontrol: bool, in_job: bool, failure: str) -> Finding:
    """:param failure: why SLURM cannot be asked although there is a ``scontrol``; empty if it can."""
    if scontrol and not failure:
        return ok("SLURM answers" + (" from inside the job" if in_job else ""))
    told = failure or "there is no scontrol here, as in many containers"
    if not in_job:
        return note(f"{told}: nothing can be submitted from here", "try it where sbatch works")
    return warning(
        f"{told}: the run cannot requeue its job by itself, and ends with exit code {ExitCode.REQUEUE:d} instead",
        f"have the batch file call scontrol requeue after exit code {ExitCode.REQUEUE:d}, as that of resilient submit "
        "does, or bind SLURM's commands, slurm.conf and munge's socket into the container",
    )


def judge_requeue(cluster: Cluster, *, wanted: bool, in_job: bool) -> Finding:
    """Whether the job comes back."""
    if not wanted:
        return ok("a requeue is not wanted (slurm.requeue=never)")
    again = "sbatch --requeue"
    if int(ExitCode.REQUEUE) in cluster.holds_on:
        return problem(
            f"exit code {ExitCode.REQUEUE:d} is one after which this cluster holds a job (RequeueExitHold)",
            "ask for it to be taken out there; release the job by scontrol release",
        )
    if in_job and cluster.job.get("Requeue") == "0":
        return problem(
            "this job must not be requeued (Requeue=0): after a preemption or at its time limit it is over",
            f"submit it with {again}, or now: scontrol update jobid={cluster.job.get('JobId', '…')} requeue=1",
        )
    if not in_job and cluster.settings.get("JobRequeue") == "0":
        return note("jobs are not requeued on this cluster unless they ask for it (JobRequeue=0)", again)
    told = "this job may be requeued" if in_job else "jobs may be requeued on this cluster"
    if int(ExitCode.REQUEUE) in cluster.requeues_on:
        told += f", and exit code {ExitCode.REQUEUE:d} alone brings one back (RequeueExit)"
    else:
        told += f"; exit code {ExitCode.REQUEUE:d} alone does not bring one back, scontrol requeue does"
    most = cluster.settings.get("MaxBatchRequeue", "")
    if most.isdecimal() and int(most):
        return note(f"{told}. After {most} requeues that SLURM itself has caused it holds a job (MaxBatchRequeue)")
    return ok(told)


@dataclass(frozen=True)
class Counted:
    """The grace that a run counts on, where it does not ask SLURM: the value of a setting, in seconds."""

    setting: str
    seconds: float

    @classmethod
    def of(cls, stop: StopSettings, slurm: SlurmSettings, *, in_job: bool) -> Counted | None:
        """None where SLURM's own account is what counts: inside a job that can ask it."""
        if slurm.grace_seconds > 0:
            return cls("slurm.grace_seconds", slurm.grace_seconds)
        return None if in_job else cls("stop.grace_seconds", stop.grace_seconds)


def judge_preemption(cluster: Cluster, counted: Counted | None) -> Finding:
    """How a preemption goes, and whether the grace is what the configuration thinks it is."""
    mode, name = cluster.preempt_mode, cluster.partition.get("PartitionName", "the default one")
    told = f"a job in partition {name} that is preempted"
    if mode == "OFF":
        return ok(f"jobs in partition {name} are not preempted")
    if mode in {"SUSPEND", "GANG"}:
        return note(f"{told} is stopped where it is, and goes on later; its memory stays taken")
    has = cluster.grace or cluster.kill_wait or 0
    if mode == "CANCEL":
        told += " is cancelled, not requeued (PreemptMode=CANCEL); it must requeue itself in time, and"
    if has < _LITTLE:
        return warning(
            f"{told} has {has:g} s before it is killed, too little to count on a snapshot",
            "make durable ones more often (snapshot.every_seconds), or ask for a longer GraceTime",
        )
    if counted is not None and has < counted.seconds:
        return _longer_than(f"{told} has {has:g} s before it is killed", has, counted)
    if mode == "CANCEL":
        return warning(
            f"{told} has {has:g} s for that", "ask for PreemptMode=REQUEUE; see that scontrol can be reached"
        )
    return ok(f"{told} has {has:g} s before it is killed, and is requeued")


def judge_kill_wait(cluster: Cluster, counted: Counted | None) -> Finding:
    """The time limit, without an advance warning."""
    has = cluster.kill_wait
    if has is None:
        return note("it is not known how long a job has at its time limit (KillWait)")
    told = f"at its time limit a job has {has:g} s before it is killed (KillWait)"
    if counted is not None and has < counted.seconds:
        return _longer_than(told, has, counted)
    return ok(told)


def _longer_than(told: str, has: float, counted: Counted) -> Finding:
    where = "" if counted.setting.startswith("slurm") else "where resilient cannot ask SLURM inside the job, "
    return warning(
        f"{told}, and {counted.setting} is {counted.seconds:g}: {where}it is killed before its snapshot is durable",
        f"set {counted.setting}={max(1, has - 5):g}",
    )


def judge_time(cluster: Cluster, stop: StopSettings) -> Finding:
    """How long this job may still run."""
    if cluster.job.get("TimeLimit") == "UNLIMITED":
        return ok("this job has no time limit")
    limit, run = seconds_of(cluster.job.get("TimeLimit", "")), seconds_of(cluster.job.get("RunTime", ""))
    if limit is None or run is None:
        return note("it is not known how long this job may run")
    left = limit - run
    if left < 2 * stop.grace_seconds:
        return warning(
            f"this job ends in {duration(max(left, 0.0))}, which is no time to begin anything", "ask for more: --time=…"
        )
    return ok(f"this job may run for another {duration(left)}")


def judge_signals(line: Line) -> Finding:
    """Whether a signal for the job comes to this process, by who is above it."""
    if not line.step:
        return note("it is not known what SLURM has started here: its daemon is not among the processes above this one")
    if line.step != "batch":
        return ok("this process is in a step of srun, to which SLURM sends its signals")
    if not line.between:
        return warning(
            "this process has taken the batch script's place: SIGTERM of a preemption goes to steps of srun first, and "
            "reaches it only when the job is ended",
            "start it with srun",
        )
    script = line.between[-1]
    if signal.SIGTERM in script.catches or signal.SIGUSR1 in script.catches:
        return note(
            f"the batch script ({script.name}) has a trap for signals; it must pass them on to resilient", _SRUN
        )
    return warning(
        f"this process was started by the batch script ({script.name}) without srun: SIGTERM of a preemption goes to "
        "steps of srun, and --signal=B:… to the script: it is noticed late, by asking SLURM, or not at all",
        _SRUN,
    )


def judge_orphans(cluster: Cluster) -> Finding:
    """Whether a process can outlive its job."""
    kind = cluster.settings.get("ProctrackType", "")
    if kind == "proctrack/cgroup":
        return ok("what a job leaves behind is found and ended (ProctrackType)")
    if kind == "proctrack/pgid":
        return warning(
            "a process that begins a session of its own can outlive its job (ProctrackType=proctrack/pgid), and keep "
            "the GPU's memory",
            "ask for proctrack/cgroup; resilient ends its own processes",
        )
    return note(f"a process without a parent in the job can outlive it (ProctrackType={kind or 'unknown'})")


def judge_confinement(cluster: Cluster) -> Finding:
    """Whether the job's memory and devices are its own."""
    plugins = cluster.settings.get("TaskPlugin", "")
    if "cgroup" in plugins or "affinity" in plugins:
        return ok(f"jobs have cores of their own (TaskPlugin={plugins})")
    return note(f"nothing keeps jobs of one node from each other's cores (TaskPlugin={plugins or 'unknown'})")


def judge_bad_exit(cluster: Cluster, nodes: int) -> Finding:
    """What becomes of the other nodes when one supervisor ends."""
    if cluster.settings.get("KillOnBadExit") == "1" and nodes > 1:
        return warning(
            "the first process of a step that fails has all others killed (KillOnBadExit=1), also those that are still "
            "writing their snapshot",
            "srun --kill-on-bad-exit=0",
        )
    return ok("a process of a step that fails does not have the others killed")


def judge_shared(mount: mounts.Mount | None, place: str, cluster: Cluster) -> Finding:
    """Whether the run directory is there on whatever node the job comes back."""
    if mount is None:
        return note(f"it is not known what filesystem {place} is on, and whether other nodes have it")
    if mount.kind in mounts.NETWORK or mount.kind.startswith("fuse") or mount.kind in {"9p", "virtiofs"}:
        return ok(f"{place} is on {mount.kind}, which other nodes can have too")
    if cluster.partition.get("TotalNodes") == "1":
        return ok(f"{place} is on {mount.kind}; the partition has one node")
    return warning(
        f"{place} is on {mount.kind}, which this machine alone has: a job that comes back on another node finds no "
        "snapshot",
        "set run.dir to the shared filesystem, or set remote.url",
    )


# --- the checks


def _asked(judge: Callable[[Cluster, World], Finding], *, in_job: bool = False) -> Look:
    """:param in_job: the question makes sense inside a job alone."""

    def look(world: World) -> Finding | None:
        if not is_here(world) or (in_job and not _in_job(world)):
            return None
        try:
            return judge(ask(world), world)
        except Unasked:
            return None  # said once, by the first check

    return look


def _in_job(world: World) -> bool:
    return "SLURM_JOB_ID" in world.environment


def _stop(world: World) -> StopSettings:
    return world.subject.stop if world.subject is not None else StopSettings()


def _counted(world: World) -> Counted | None:
    slurm = world.subject.slurm if world.subject is not None else SlurmSettings()
    return Counted.of(_stop(world), slurm, in_job=_in_job(world))


def _reachable(world: World) -> Finding | None:
    if not is_here(world):
        return None
    failure = ""
    try:
        ask(world)
    except Unasked as error:
        failure = str(error) if has_scontrol(world) else ""
    return judge_reachable(scontrol=has_scontrol(world), in_job=_in_job(world), failure=failure)


def _requeue(cluster: Cluster, world: World) -> Finding:
    wanted = world.subject is None or world.subject.slurm.requeue is not Requeue.never
    return judge_requeue(cluster, wanted=wanted, in_job=_in_job(world))


def _signals(world: World) -> Finding | None:
    if not _in_job(world):
        return None
    return judge_signals(above(os.getppid(), _TO_SCRIPT, world.proc))


def _bad_exit(cluster: Cluster, world: World) -> Finding:
    told = world.environment.get("SLURM_JOB_NUM_NODES", "")
    nodes = world.subject.slurm.nodes if world.subject is not None else 1
    return judge_bad_exit(cluster, int(told) if told.isdecimal() else nodes)


def _shared(cluster: Cluster, world: World) -> Finding:
    if world.subject is not None and world.subject.remote.enabled:
        return ok("there is a remote tier, which other nodes find too")
    place = world.nearest().resolve()
    known = mounts.parse((world.proc / "self/mountinfo").read_text(errors="replace"))
    return judge_shared(mounts.mount_of(place, known), str(world.run_root), cluster)


def _check(name: str, explains: str, look: Look) -> Check:
    return Check(f"slurm.{name}", explains, look, seconds=3 * SECONDS + 5)


CHECKS = (
    _check("reachable", "whether SLURM can be asked from here", _reachable),
    _check("requeue", "whether the job comes back", _asked(_requeue)),
    _check(
        "preemption",
        "what a preemption does, and how soon",
        _asked(lambda cluster, world: judge_preemption(cluster, _counted(world))),
    ),
    _check(
        "kill_wait",
        "how long a job has at its time limit",
        _asked(lambda cluster, world: judge_kill_wait(cluster, _counted(world))),
    ),
    _check(
        "time",
        "how long this job may run",
        _asked(lambda cluster, world: judge_time(cluster, _stop(world)), in_job=True),
    ),
    _check("signals", "whether SLURM's signals reach this process", _signals),
    _check("bad_exit", "what the end of one process does to the others", _asked(_bad_exit)),
    _check("orphans", "whether a process can outlive its job", _asked(lambda cluster, _world: judge_orphans(cluster))),
    _check("cores", "whether jobs have cores of their own", _asked(lambda cluster, _world: judge_confinement(cluster))),
    _check("shared", "whether other nodes have the run directory", _asked(_shared)),
)
