"""What SLURM 22.05 printed on a real cluster, word for word, and what is made of it."""

from __future__ import annotations

import time

import pytest

from resilient.slurm.scontrol import (
    Job,
    Site,
    parse_fields,
    parse_grace,
    parse_job,
    parse_seconds,
    parse_site,
    parse_time,
)

RUNNING = (
    "JobId=1 JobName=a b UserId=root(0) GroupId=root(0) MCS_label=N/A Priority=4294901759 Nice=0 Account=(null) "
    "QOS=(null) JobState=RUNNING Reason=None Dependency=(null) Requeue=1 Restarts=0 BatchFlag=1 Reboot=0 ExitCode=0:0 "
    "RunTime=00:00:45 TimeLimit=00:01:00 TimeMin=N/A SubmitTime=2026-11-28T17:30:01 EligibleTime=2026-11-28T17:30:01 "
    "AccrueTime=2026-11-28T17:30:01 StartTime=2026-11-28T17:30:02 EndTime=2026-11-28T17:31:02 Deadline=N/A "
    "PreemptEligibleTime=2026-11-28T17:30:02 PreemptTime=None SuspendTime=None SecsPreSuspend=0 "
    "LastSchedEval=2026-11-28T17:30:02 Scheduler=Backfill Partition=low AllocNode:Sid=localhost:3271 "
    "ReqNodeList=(null) ExcNodeList=(null) NodeList=n[1-2] BatchHost=n1 NumNodes=2 NumCPUs=2 NumTasks=2 CPUs/Task=1 "
    "ReqB:S:C:T=0:0:*:* TRES=cpu=2,node=2,billing=2 Command=/tmp/a b.sh WorkDir=/tmp Power= \n"
)
PARTITION = (
    "PartitionName=low AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL AllocNodes=ALL Default=YES QoS=N/A "
    "DefaultTime=NONE DisableRootJobs=NO ExclusiveUser=NO GraceTime=20 Hidden=NO MaxNodes=UNLIMITED State=UP"
)
CONFIG = """\
Configuration data as of 2026-11-28T17:43:55
KillOnBadExit           = 0
KillWait                = 15 sec
PreemptMode             = REQUEUE
RequeueExit             = 75,100-102
RequeueExitHold         = 200
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at vm is UP
"""


def test_a_running_job() -> None:
    end = time.mktime((2026, 11, 28, 17, 31, 2, 0, 0, -1))
    assert parse_job(RUNNING) == Job(1, "RUNNING", "None", ends=end, partition="low")


def test_a_preempted_one_and_one_on_its_way_back() -> None:
    preempted = parse_job(RUNNING.replace("PreemptTime=None", "PreemptTime=2026-11-28T17:30:42"))
    assert preempted.preempted == time.mktime((2026, 11, 28, 17, 30, 42, 0, 0, -1))
    back = parse_job(
        RUNNING.replace("JobState=RUNNING", "JobState=COMPLETING")
        .replace("Restarts=0", "Restarts=2")
        .replace("EndTime=2026-11-28T17:31:02", "EndTime=Unknown")
        .replace("ExcNodeList=(null)", "ExcNodeList=n[1,3]")
        .replace("Requeue=1", "Requeue=0")
        .replace("BatchFlag=1", "BatchFlag=0")
    )
    assert back == Job(
        1, "COMPLETING", "None", requeue=False, batch=False, restarts=2, excluded="n[1,3]", partition="low"
    )


def test_values_keep_their_blanks_and_equals_signs() -> None:
    fields = parse_fields(RUNNING)
    assert fields["JobName"] == "a b"
    assert fields["Command"] == "/tmp/a b.sh"
    assert fields["TRES"] == "cpu=2,node=2,billing=2"
    assert fields["AllocNode:Sid"] == "localhost:3271"


@pytest.mark.parametrize("text", ["", "No jobs in the system", "JobId=x JobState=RUNNING", "JobState=RUNNING"])
def test_anything_else_is_no_job(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse_job(text)


def test_the_grace_of_a_partition() -> None:
    assert parse_grace(PARTITION) == 20.0
    assert parse_grace(PARTITION.replace("GraceTime=20", "GraceTime=NONE")) == 0.0
    assert parse_grace(PARTITION.replace("GraceTime=20", "GraceTime=00:02:00")) == 120.0
    with pytest.raises(ValueError, match="duration"):
        parse_grace("Partition low not found")


def test_what_holds_for_the_cluster() -> None:
    assert parse_site(CONFIG) == Site(15.0, frozenset({75, 100, 101, 102}), "22.05.8")
    assert parse_site("") == Site()
    assert parse_site(CONFIG.replace("75,100-102", "(null)")).requeue_exits == frozenset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90.0), ("01:30", 90.0), ("00:01:30", 90.0), ("1-00:00:00", 86400.0), ("365-00:00:00", 31536000.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_seconds(text) == seconds


def test_times() -> None:
    assert parse_time("Unknown") is None
    assert parse_time("N/A") is None
    with pytest.raises(ValueError, match="relative"):
        parse_time("relative")
