from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run import conftest as runs
from tests.slurm.cluster import Cluster, only_one, started, why_not

workspace = runs.workspace
reference = runs.reference


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test may have to wait until another process is done with its cluster."""
    for item in items:
        if "cluster" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(scope="module")
def running_cluster() -> Iterator[Cluster]:
    """A cluster for the tests of one file. Others wait for it: see :func:`tests.slurm.cluster.only_one`."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    # a socket's name has at most 107 characters, which pytest's own directories use up
    with only_one(), tempfile.TemporaryDirectory(prefix="slurm-") as directory, started(Path(directory)) as cluster:
        yield cluster


@pytest.fixture
def cluster(running_cluster: Cluster) -> Iterator[Cluster]:
    """A cluster with two idle nodes; afterwards all jobs are ended."""
    yield running_cluster
    running_cluster.clear()
