"""What an adapter needs of a framework's inner parts, looked for before anything is changed in them.

No framework promises these names. A release without one of them would train on as if nothing were wrong, and resume as
something else; here it is told at the start.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from resilient.errors import UsageError


@dataclass(frozen=True)
class Known:
    """A framework as an adapter knows it.

    :param package: as pip calls it.
    :param tested: the releases that the adapter was tried with, as pip is told.
    """

    package: str
    tested: str

    def require(self, owner: Any, *paths: str) -> None:
        """:param paths: of attributes of ``owner``, with dots.
        :raises UsageError: one is not there.
        """
        for path in paths:
            found = owner
            for name in path.split("."):
                if not hasattr(found, name):
                    raise self._without(f"{type(owner).__name__}.{path}")
                found = getattr(found, name)

    def require_arguments(self, call: Callable[..., Any], names: Iterable[str]) -> None:
        """:raises UsageError: a function does not take them."""
        missing = [name for name in names if name not in inspect.signature(call).parameters]
        if missing:
            raise self._without(f"the argument {missing[0]} of {getattr(call, '__qualname__', call)}")

    def _without(self, what: str) -> UsageError:
        try:
            version = metadata.version(self.package)
        except metadata.PackageNotFoundError:  # it goes by another name, or is not installed but found
            version = "(of an unknown release)"
        return UsageError(
            f"{self.package} {version} has no {what}, which the adapter needs to resume exactly",
            f"it was tried with {self.package}{self.tested}: pip install '{self.package}{self.tested}'",
        )
