"""What a configuration names: its script, its remote tier, its run, its ranks."""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.doctor.examination import examine
from resilient.doctor.finding import Level, problem
from resilient.doctor.registry import CHECKS
from resilient.doctor.world import World
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import hostname
from resilient.protocol.remote_settings import RemoteSettings
from resilient.supervisor.settings import WorkerSettings
from tests.buckets import make_s3
from tests.doctor.worlds import check, look, subject, with_state

REMOTE = check("configuration.remote")


def test_without_a_configuration_there_is_nothing_to_say() -> None:
    checks = [each for each in CHECKS if each.group == "configuration"]
    (result,) = examine(checks, World())
    assert (result.check.name, result.finding.level) == ("configuration.loads", Level.NOTE)
    (result,) = examine(checks, World(fault=("bad", "mend it")))
    assert result.finding == problem("bad", "mend it")


def test_a_module_that_does_not_exist(tmp_path: Path) -> None:
    examined = subject(tmp_path, WorkerSettings(module="no.such.module"))
    assert look(check("configuration.script"), World(examined)).level is Level.PROBLEM


def test_a_run_that_is_being_trained(tmp_path: Path) -> None:
    examined = subject(tmp_path)
    examined.paths.root.mkdir()
    lock = RunLock(examined.paths.lock, hostname())
    try:
        assert look(check("configuration.owner"), World(examined)).level is Level.NOTE
    finally:
        lock.release()
    assert look(check("configuration.owner"), World(examined)).level is Level.OK


def test_a_run_of_other_ranks(tmp_path: Path) -> None:
    examined = with_state(subject(tmp_path, WorkerSettings(script="train.py", ranks=2)), 4096)
    examined.paths.identity()
    finding = look(check("configuration.ranks"), World(examined))
    assert (finding.level, "worker.ranks is 2" in finding.sentence) == (Level.PROBLEM, True)


def test_a_remote_tier_that_is_there(tmp_path: Path, s3_endpoint: str) -> None:
    assert examine([REMOTE], World(subject(tmp_path))) == []
    assert look(REMOTE, World(subject(tmp_path, remote=make_s3(s3_endpoint)))).level is Level.OK


def test_a_bucket_that_is_not_there(tmp_path: Path, s3_endpoint: str) -> None:
    wrong = replace(make_s3(s3_endpoint), url="s3://no-such-bucket/prefix")
    finding = look(REMOTE, World(subject(tmp_path, remote=wrong)))
    assert (finding.level, "no-such-bucket" in finding.sentence) == (Level.PROBLEM, True)


def test_a_service_that_is_not_up(tmp_path: Path, s3_endpoint: str) -> None:
    with socket.socket() as nobody:  # bound and not listening: connections are refused
        nobody.bind(("127.0.0.1", 0))
        good = make_s3(s3_endpoint)
        options = {**good.options, "endpoint_url": f"http://127.0.0.1:{nobody.getsockname()[1]}"}
        finding = look(REMOTE, World(subject(tmp_path, remote=replace(good, options=options))))
    assert finding.level is Level.PROBLEM


def test_a_service_that_does_not_answer(tmp_path: Path, s3_endpoint: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        good = make_s3(s3_endpoint)
        options = {**good.options, "endpoint_url": f"http://127.0.0.1:{silent.getsockname()[1]}"}
        world = World(subject(tmp_path, remote=replace(good, options=options)))
        finding = look(replace(REMOTE, seconds=3.0), world)
    assert (finding.level, "has not answered" in finding.sentence) == (Level.PROBLEM, True)


@pytest.mark.parametrize("url", ["s4://bucket", "gs://bucket"])
def test_a_filesystem_that_is_not_known_or_not_installed(tmp_path: Path, url: str) -> None:
    assert look(REMOTE, World(subject(tmp_path, remote=RemoteSettings(url=url)))).level is Level.PROBLEM
