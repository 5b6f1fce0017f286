from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.conftest import make_workspace, shared_memory
from tests.run.harness import Workspace


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
