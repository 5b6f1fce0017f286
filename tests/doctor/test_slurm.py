"""SLURM: what it prints on real clusters, and what follows from it."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.doctor import slurm
from resilient.doctor.ancestors import Ancestor, Line, above
from resilient.doctor.cluster import (
    Cluster,
    Unasked,
    ask,
    codes_of,
    parse_rows,
    parse_settings,
    seconds_of,
    wanted_partition,
)
from resilient.doctor.examination import examine
from resilient.doctor.finding import Level
from resilient.doctor.mounts import Mount
from resilient.doctor.slurm import (
    Counted,
    judge_bad_exit,
    judge_kill_wait,
    judge_orphans,
    judge_preemption,
    judge_reachable,
    judge_requeue,
    judge_shared,
    judge_signals,
    judge_time,
)
from resilient.doctor.world import World
from resilient.policy.state import StopSettings
from resilient.slurm.settings import SlurmSettings
from tests.doctor.worlds import check, look

SETTINGS = """\
Configuration data as of 2026-11-28T17:45:40
AccountingStorageTRES   = cpu,mem,energy,node,billing,fs/disk,vmem,pages
JobRequeue              = 1
KillOnBadExit           = 0
KillWait                = 30 sec
MaxBatchRequeue         = 5
PreemptMode             = GANG,REQUEUE
PreemptType             = preempt/partition_prio
ProctrackType           = proctrack/cgroup
RequeueExit             = 1,75-77
RequeueExitHold         = (null)
SlurmctldHost[0]        = head(10.0.0.1)
SlurmctldParameters     = (null)
TaskPlugin              = task/cgroup,task/affinity

Slurmctld(primary) at head is UP
"""
PARTITIONS = """\
PartitionName=low AllowGroups=ALL Default=YES GraceTime=120 MaxTime=UNLIMITED PreemptMode=REQUEUE State=UP TotalNodes=8
PartitionName=high AllowGroups=ALL Default=NO GraceTime=0 MaxTime=2-00:00:00 PreemptMode=OFF State=UP TotalNodes=8
"""
JOB = "JobId=41 JobName=my job UserId=me JobState=RUNNING Requeue=1 Restarts=2 RunTime=00:30:00 TimeLimit=01:00:00\n"
STOP = StopSettings()
COUNTED = Counted("stop.grace_seconds", 25.0)


@pytest.fixture
def cluster() -> Cluster:
    (job,) = parse_rows(JOB)
    return Cluster(parse_settings(SETTINGS), wanted_partition(parse_rows(PARTITIONS), ""), job)


def with_settings(cluster: Cluster, **settings: str) -> Cluster:
    return replace(cluster, settings={**cluster.settings, **settings})


def with_partition(cluster: Cluster, **fields: str) -> Cluster:
    return replace(cluster, partition={**cluster.partition, **fields})


def with_job(cluster: Cluster, **fields: str) -> Cluster:
    return replace(cluster, job={**cluster.job, **fields})


# --- what is printed


def test_the_settings_of_a_cluster(cluster: Cluster) -> None:
    assert (cluster.kill_wait, cluster.grace, cluster.preempt_mode) == (30, 120, "REQUEUE")
    assert cluster.requeues_on == {1, 75, 76, 77}
    assert cluster.holds_on == frozenset()
    assert cluster.settings["SlurmctldHost[0]"] == "head(10.0.0.1)"
    assert (cluster.job["JobName"], cluster.job["JobState"]) == ("my job", "RUNNING")


def test_the_partition_that_is_meant() -> None:
    rows = parse_rows(PARTITIONS)
    assert wanted_partition(rows, "")["PartitionName"] == "low"
    assert wanted_partition(rows, "high,low")["PartitionName"] == "high"
    assert wanted_partition(rows, "none") == {}


def test_what_is_not_understood_is_nothing() -> None:
    assert parse_settings("slurm_load_ctl_conf error: Unable to contact slurm controller\n") == {}
    assert parse_rows("\nInvalid job id specified\n") == []
    assert [seconds_of(text) for text in ("(null)", "NONE", "UNLIMITED", "90", "1-00:00:00")] == [
        *(None, None, None),
        *(90.0, 86400.0),
    ]
    assert codes_of("(null)") == frozenset()


# --- what follows from it


def test_a_job_that_comes_back(cluster: Cluster) -> None:
    plain = with_settings(cluster, MaxBatchRequeue="0")
    assert judge_requeue(plain, wanted=True, in_job=True).level is Level.OK
    assert "After 5" in judge_requeue(cluster, wanted=True, in_job=True).sentence
    assert "code 75 alone brings" in judge_requeue(plain, wanted=True, in_job=True).sentence
    unlisted = with_settings(plain, RequeueExit="(null)")
    assert "code 75 alone does not" in judge_requeue(unlisted, wanted=True, in_job=False).sentence


def test_a_job_that_must_not_be_requeued(cluster: Cluster) -> None:
    fixed = with_job(cluster, Requeue="0")
    finding = judge_requeue(fixed, wanted=True, in_job=True)
    assert (finding.level, "scontrol update jobid=41 requeue=1" in finding.next_step) == (Level.PROBLEM, True)
    assert judge_requeue(fixed, wanted=False, in_job=True).level is Level.OK


def test_a_cluster_that_requeues_nothing_unasked_or_holds(cluster: Cluster) -> None:
    never = with_settings(cluster, JobRequeue="0")
    assert judge_requeue(never, wanted=True, in_job=False).next_step == "sbatch --requeue"
    holding = with_settings(cluster, RequeueExitHold="75")
    assert judge_requeue(holding, wanted=True, in_job=False).level is Level.PROBLEM


@pytest.mark.parametrize(
    ("mode", "grace", "level", "word"),
    [
        ("REQUEUE", "120", Level.OK, "120 s"),
        ("REQUEUE", "0", Level.OK, "30 s"),  # KillWait
        ("REQUEUE", "20", Level.WARNING, "stop.grace_seconds is 25"),
        ("REQUEUE", "5", Level.WARNING, "too little"),
        ("CANCEL", "120", Level.WARNING, "not requeued"),
        ("SUSPEND", "120", Level.NOTE, "goes on later"),
        ("GANG,SUSPEND", "120", Level.NOTE, "goes on later"),
        ("OFF", "0", Level.OK, "not preempted"),
    ],
)
def test_a_preemption(cluster: Cluster, mode: str, grace: str, level: Level, word: str) -> None:
    finding = judge_preemption(with_partition(cluster, PreemptMode=mode, GraceTime=grace), COUNTED)
    assert (finding.level, word in finding.sentence) == (level, True), finding.sentence


def test_without_a_plugin_nothing_is_preempted(cluster: Cluster) -> None:
    assert judge_preemption(with_settings(cluster, PreemptType="preempt/none"), COUNTED).level is Level.OK


def test_the_time_from_sigterm_to_sigkill(cluster: Cluster) -> None:
    assert judge_kill_wait(cluster, COUNTED).level is Level.OK
    finding = judge_kill_wait(with_settings(cluster, KillWait="15 sec"), COUNTED)
    assert (finding.level, finding.next_step) == (Level.WARNING, "set stop.grace_seconds=10")
    assert judge_kill_wait(Cluster(), COUNTED).level is Level.NOTE


def test_inside_a_job_it_is_slurm_that_counts(cluster: Cluster) -> None:
    short = with_settings(cluster, KillWait="15 sec")
    assert Counted.of(STOP, SlurmSettings(), in_job=True) is None
    assert judge_kill_wait(short, None).level is Level.OK
    assert Counted.of(STOP, SlurmSettings(), in_job=False) == COUNTED
    wished = Counted.of(STOP, SlurmSettings(grace_seconds=60), in_job=True)
    assert judge_kill_wait(short, wished).next_step == "set slurm.grace_seconds=10"


@pytest.mark.parametrize(
    ("limit", "run", "level", "word"),
    [
        ("01:00:00", "00:30:00", Level.OK, "30.0 min"),
        ("01:00:00", "00:59:30", Level.WARNING, "30 s"),
        ("UNLIMITED", "1-00:00:00", Level.OK, "no time limit"),
        ("Partition_Limit", "00:00:01", Level.NOTE, "not known"),
    ],
)
def test_the_time_that_is_left(cluster: Cluster, limit: str, run: str, level: Level, word: str) -> None:
    finding = judge_time(with_job(cluster, TimeLimit=limit, RunTime=run), STOP)
    assert (finding.level, word in finding.sentence) == (level, True), finding.sentence


def test_orphans_and_the_end_of_one_process(cluster: Cluster) -> None:
    assert judge_orphans(cluster).level is Level.OK
    assert judge_orphans(with_settings(cluster, ProctrackType="proctrack/linuxproc")).level is Level.NOTE
    assert judge_orphans(with_settings(cluster, ProctrackType="proctrack/pgid")).level is Level.WARNING
    assert judge_bad_exit(cluster, 2).level is Level.OK
    killing = with_settings(cluster, KillOnBadExit="1")
    assert judge_bad_exit(killing, 1).level is Level.OK
    assert judge_bad_exit(killing, 2).level is Level.WARNING


@pytest.mark.parametrize(
    ("kind", "nodes", "level"),
    [
        ("ext4", "8", Level.WARNING),
        ("ext4", "1", Level.OK),
        ("nfs4", "8", Level.OK),
        ("lustre", "8", Level.OK),
        ("fuse.sshfs", "8", Level.OK),
    ],
)
def test_whether_other_nodes_have_the_run_directory(cluster: Cluster, kind: str, nodes: str, level: Level) -> None:
    there = with_partition(cluster, TotalNodes=nodes)
    assert judge_shared(Mount(Path("/"), kind), "/runs", there).level is level


def test_a_container_without_scontrol() -> None:
    assert judge_reachable(scontrol=False, in_job=True, failure="").level is Level.WARNING
    assert judge_reachable(scontrol=True, in_job=False, failure="scontrol fails: no").level is Level.NOTE
    assert judge_reachable(scontrol=True, in_job=True, failure="").level is Level.OK


@pytest.mark.parametrize(
    ("line", "level", "word"),
    [
        (Line(), Level.NOTE, "not known"),
        (Line("0", (Ancestor(7, "python"),)), Level.OK, "step of srun"),
        (Line("batch"), Level.WARNING, "batch script's place"),
        (Line("batch", (Ancestor(7, "slurm_script"),)), Level.WARNING, "slurm_script"),
        (Line("batch", (Ancestor(7, "slurm_script", frozenset({signal.SIGTERM})),)), Level.NOTE, "trap"),
    ],
)
def test_who_gets_the_signals(line: Line, level: Level, word: str) -> None:
    finding = judge_signals(line)
    assert (finding.level, word in finding.sentence) == (level, True), finding.sentence


# --- where the commands are not, or do not answer


def test_without_slurm_nothing_is_said(tmp_path: Path) -> None:
    assert examine(slurm.CHECKS, World(environment={"PATH": str(tmp_path)})) == []


def test_a_job_in_a_container_without_scontrol(tmp_path: Path) -> None:
    results = examine(slurm.CHECKS, World(environment={"PATH": str(tmp_path), "SLURM_JOB_ID": "41"}))
    assert {result.check.name: result.finding.level for result in results} == {
        "slurm.reachable": Level.WARNING,
        "slurm.signals": Level.NOTE,
    }


def world_with_scontrol(place: Path, body: str) -> World:
    (place / "scontrol").write_text(f"#!/bin/sh\n{body}\n")
    (place / "scontrol").chmod(0o755)
    return World(environment={"PATH": f"{place}:{os.environ['PATH']}", "SLURM_JOB_ID": "41"})


def test_a_controller_that_refuses(tmp_path: Path) -> None:
    world = world_with_scontrol(tmp_path, "echo 'Unable to contact slurm controller' >&2; exit 1")
    finding = look(check("slurm.reachable"), world)
    assert (finding.level, "Unable to contact" in finding.sentence) == (Level.WARNING, True)


def test_a_controller_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(Unasked, match="did not answer"):
        ask(world_with_scontrol(tmp_path, "exec sleep 600"), seconds=0.5)


def test_the_processes_above_this_one() -> None:
    line = above(os.getpid(), (signal.SIGTERM,))
    assert line.step == ""
    assert line.between[0].pid == os.getppid()
