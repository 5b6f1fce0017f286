"""What partitions allow, as a real `scontrol` shows them, and what cannot start in them."""

from __future__ import annotations

import math

import pytest

from resilient.slurm.partitions import Partition, Request, as_time, objection, parse_partitions, parse_time

# As printed by SLURM 22.05, shortened where nothing of it is read.
SHOWN = """\
PartitionName=low AllowGroups=ALL AllowAccounts=ALL AllowQos=ALL Default=YES MaxNodes=UNLIMITED MaxTime=UNLIMITED \
Nodes=n[1-2] PreemptMode=REQUEUE State=UP TotalCPUs=8 TotalNodes=2 TRES=cpu=8,mem=4000M,node=2,billing=8
PartitionName=short AllowGroups=ALL AllowAccounts=ALL AllowQos=normal,long Default=NO MaxNodes=UNLIMITED \
MaxTime=00:05:00 Nodes=n[1-2] State=UP TotalNodes=2
PartitionName=small AllowGroups=ALL AllowAccounts=vip,staff Default=NO MaxNodes=1 MaxTime=1-12:00:00 Nodes=n1 \
State=DOWN TotalNodes=8

PartitionName=paid AllowGroups=ALL DenyAccounts=guest Default=NO MaxNodes=UNLIMITED MaxTime=UNLIMITED \
State=UP TotalNodes=1
"""
PARTITIONS = parse_partitions(SHOWN)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400),
        ("90:30", 5430),
        ("8:00:00", 28800),
        ("2-12", 216000),
        ("2-12:30", 217800),
        ("2-12:30:15", 217815),
        ("UNLIMITED", math.inf),
        ("infinite", math.inf),
        ("abc", None),
        ("1:2:3:4", None),
        ("-5", None),
        ("1-", None),
    ],
)
def test_times_are_read_as_slurm_does(text: str, seconds: float | None) -> None:
    assert parse_time(text) == seconds


@pytest.mark.parametrize("text", ["00:05:00", "23:59:59", "1-00:00:00", "30-12:00:01"])
def test_times_are_written_as_slurm_does(text: str) -> None:
    seconds = parse_time(text)
    assert seconds is not None
    assert as_time(seconds) == text


def test_partitions_are_read() -> None:
    low, short, small, paid = PARTITIONS
    assert low == Partition("low", is_default=True, nodes=2)
    assert short == Partition("short", nodes=2, seconds=300, qos=frozenset({"normal", "long"}))
    assert small == Partition("small", nodes=1, seconds=129600, accounts=frozenset({"vip", "staff"}), state="DOWN")
    assert paid == Partition("paid", nodes=1, denied_accounts=frozenset({"guest"}))
    assert str(small) == "small (1 node, up to 1-12:00:00, down)"


@pytest.mark.parametrize(
    ("request_", "setting", "text"),
    [
        (Request(("lo",)), "partition", "there is no partition lo, did you mean low?"),
        (Request(("low", "zzz")), "partition", "there is no partition zzz"),
        (Request(nodes=3), "nodes", "partition low can have 2, and not 3"),
        (Request(("small",), nodes=2, account="vip"), "nodes", "can have 1, and not 2"),
        (Request(("short",), seconds=600), "time", "00:05:00 at the most, and not 00:10:00"),
        (Request(("short",), seconds=math.inf), "time", "and not no limit"),
        (Request(("small",), account="other"), "account", "is for staff, vip, and not for account other"),
        (Request(("paid",), account="guest"), "account", "closed to account guest"),
        (Request(("short",), qos="express"), "qos", "allows long, normal, and not express"),
    ],
)
def test_what_could_never_start_is_objected_to(request_: Request, setting: str, text: str) -> None:
    found = objection(request_, PARTITIONS)
    assert found is not None
    assert found.setting == setting
    assert text in found.problem


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(("low",), nodes=2, seconds=math.inf),
        Request(("short",), seconds=300, qos="long"),
        Request(("small",), account="vip"),
        Request(("short", "low"), seconds=600),  # the second one has room for it
        Request(("paid",), account="me"),
    ],
)
def test_what_may_start_is_not(request_: Request) -> None:
    assert objection(request_, PARTITIONS) is None


def test_a_user_without_a_named_account_may_have_the_right_one_by_default() -> None:
    assert objection(Request(("small",)), PARTITIONS) is None


def test_a_cluster_without_a_default_partition_wants_one_named() -> None:
    found = objection(Request(), [partition for partition in PARTITIONS if not partition.is_default])
    assert found is not None
    assert found.setting == "partition"


def test_where_nothing_is_known_nothing_is_objected_to() -> None:
    assert objection(Request(("anything",), nodes=99), []) is None
