"""The network: in a namespace where nothing is up, and with names that lead elsewhere."""

from __future__ import annotations

import errno
import socket
import subprocess
from pathlib import Path

import pytest

from resilient.doctor.examination import examine
from resilient.doctor.finding import Level
from resilient.doctor.network import judge_hostname, judge_master
from resilient.doctor.world import World
from tests.doctor.seccomp import Refused, under
from tests.doctor.worlds import check, doctor, look


def test_ranks_can_meet_here() -> None:
    assert look(check("network.loopback"), World()).level is Level.OK


def test_a_machine_whose_loopback_is_down(tmp_path: Path) -> None:
    if subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs the right to make a network namespace")
    code, found = doctor("--only", "network.loopback", cwd=tmp_path, before=["unshare", "--net"])
    assert (code, found["network.loopback"]["level"]) == (88, "problem")


def test_a_name_without_an_address() -> None:
    def resolve(name: str) -> str:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    finding = judge_hostname("node7", resolve, lambda _address: True)
    assert (finding.level, "node7" in finding.sentence) == (Level.WARNING, True)


def test_a_name_that_leads_elsewhere() -> None:
    assert judge_hostname("node7", lambda _name: "192.0.2.1", lambda _address: False).level is Level.WARNING
    assert judge_hostname("node7", lambda _name: "10.1.2.3", lambda _address: True).level is Level.OK


def test_no_master_is_needed_on_one_machine() -> None:
    assert examine([check("network.master")], World(environment={})) == []


def test_a_master_that_listens_or_not_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert judge_master("127.0.0.1", port).sentence.endswith("can be reached")
    assert "nobody listens" in judge_master("127.0.0.1", port).sentence
    assert judge_master("127.0.0.1", None).level is Level.OK


def test_a_master_without_an_address() -> None:
    world = World(environment={"MASTER_ADDR": "no-such-host.invalid", "MASTER_PORT": "29500"})
    assert look(check("network.master"), world).level is Level.PROBLEM


def test_a_master_that_cannot_be_reached() -> None:
    world = World(environment={"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"})
    finding = look(under(check("network.master"), Refused("connect", errno.EHOSTUNREACH)), world)
    assert (finding.level, "firewall" in finding.sentence) == (Level.WARNING, True)
