"""Which test runs where and when, among several processes of pytest-xdist.

A file is one process's, for what its tests share; and all of ``tests/slurm`` is, because there is one cluster at a time
and others would only wait for it. What takes longest begins first: the many short files fill the gaps in the end.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadFileScheduling  # type: ignore[import-untyped]  # it brings no types

_CLUSTER = "tests/slurm/"
_LONGEST = (_CLUSTER, "tests/chaos/", "tests/integrations/", "tests/nodes/", "tests/run/", "tests/convert/")


class LongestFirst(LoadFileScheduling):  # type: ignore[misc]
    """Files, in the order in which they are collected: see :func:`arrange`."""

    def __init__(self, config: pytest.Config, log: object) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by their numbers of tests, the longest would come last

    def _split_scope(self, nodeid: str) -> str:
        return _CLUSTER if nodeid.startswith(_CLUSTER) else str(super()._split_scope(nodeid))


def arrange(items: list[pytest.Item]) -> None:
    """Put first what takes longest."""

    def place(item: pytest.Item) -> int:
        return next((number for number, start in enumerate(_LONGEST) if item.nodeid.startswith(start)), len(_LONGEST))

    items.sort(key=place)
