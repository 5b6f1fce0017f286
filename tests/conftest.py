"""What all tests share: the option that turns skips into failures, and a check that nothing is left behind."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.buckets import s3_server

# How long an example takes says nothing on a machine with other work.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Containers often have Python write no bytecode. Then each of the many processes that the tests start would compile all
# that it imports of this package again, which is a fifth of all that a short run does.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-skips", action="store_true", help="a test that would be skipped fails instead")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """All that is imported stays, and looking for garbage in it takes a third of the time of importing it."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one process of several
        from tests.distribution import arrange

        arrange(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from tests.distribution import LongestFirst

    return LongestFirst(config, log) if config.getoption("dist") == "loadfile" else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    strict = item.config.getoption("--no-skips") and not hasattr(report, "wasxfail")
    # a GPU cannot be installed by a script; everything else that a test needs must be there
    if report.skipped and strict and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"skipped where skips are failures: {report.longrepr}"
    return report


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Say how it ended: whoever tries failed tests again must know that all the others have run."""
    if not hasattr(session.config, "workerinput") and session.config.cache is not None:
        session.config.cache.set("ended_with", int(exitstatus))


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A real S3 server on loopback."""
    with s3_server() as endpoint:
        yield endpoint
