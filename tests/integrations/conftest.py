from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run import harness
from tests.run.conftest import make_workspace, shared_memory
from tests.run.harness import Workspace

# Importing these libraries takes many seconds of a busy machine, and each round of a run may have to.
harness.TIMEOUT = 400.0


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.timeout(1200))


@pytest.fixture
def workspace(tmp_path: Path) -> Iterator[Workspace]:
    """A workspace; afterwards no process of it is alive and nothing of it is left in shared memory."""
    workspace = make_workspace(tmp_path)
    yield workspace
    left = workspace.wait_until_alone()
    for process in left:
        process.kill()
    assert not left
    assert not shared_memory(workspace)
