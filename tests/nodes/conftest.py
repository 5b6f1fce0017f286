from __future__ import annotations

import pytest

from tests.run.conftest import make_workspace, workspace
from tests.run.harness import RunCase

__all__ = ["workspace"]


@pytest.fixture(scope="session")
def one_node(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The same training by two ranks of one node, that nothing happened to."""
    case = make_workspace(tmp_path_factory.mktemp("one")).run("one", conf="ranks", ranks=2)
    assert case.finish() == 0, case.output()
    return case
