"""Storage of terms for tests: one that dies at a chosen operation, and one in memory where others may go first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from resilient.protocol.term_files import TermFiles

WRITING = ("write", "link", "replace", "clean", "sync", "overwrite")


class Killed(Exception):  # noqa: N818  it is no error
    """SIGKILL: nothing that follows is done, not even what a ``finally`` would."""


class DyingFiles(TermFiles):
    """Real files, of a node that is killed before its operation number ``dies_at``."""

    def __init__(self, directory: Path, node: str, dies_at: int) -> None:
        super().__init__(directory, node)
        self.left = dies_at

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in WRITING:
            return found
        if self.left <= 0:
            raise Killed(name)
        self.left -= 1
        return found


class Shared:
    """What is in a directory that several nodes share."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.fresh: dict[str, bytes] = {}


class RacingFiles(TermFiles):
    """The same in memory. Before each operation anything may happen elsewhere, as to a process that is not scheduled.

    Whether the answer of the server to a ``link`` is lost, so that it is asked again, is asked of ``loses``.
    """

    def __init__(self, shared: Shared, node: str, before: Callable[[str], None], loses: Callable[[], bool]) -> None:
        super().__init__(Path("terms"), node)
        self._shared, self._name, self._before, self._loses = shared, node, before, loses

    def create(self) -> None:
        pass

    def names(self) -> list[str]:
        self._before(self._name)
        return list(self._shared.files)

    def read(self, name: str) -> bytes | None:
        self._before(self._name)
        return self._shared.files.get(name)

    def write(self, name: str, data: bytes) -> None:
        self._before(self._name)
        self._shared.fresh[f"{name}.{self._name}"] = data

    def link(self, name: str) -> None:
        self._before(self._name)
        if name in self._shared.files:
            raise FileExistsError(name)
        self._shared.files[name] = self._shared.fresh[f"{name}.{self._name}"]
        if self._loses():
            raise FileExistsError(name)

    def replace(self, name: str) -> None:
        self._before(self._name)
        self._shared.files[name] = self._shared.fresh.pop(f"{name}.{self._name}")

    def clean(self, name: str) -> None:
        self._before(self._name)
        self._shared.fresh.pop(f"{name}.{self._name}", None)

    def sync(self) -> None:
        self._before(self._name)

    def overwrite(self, name: str, data: bytes) -> None:
        self._before(self._name)
        self._shared.files[name] = data
