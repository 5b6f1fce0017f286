"""What a framework is given in the place of its own loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resilient.worker.outer_loop import Epochs


class InPlaceOf:
    """A loader that is iterated from where the run stands, and is the framework's own in everything else.

    :param epochs: what is iterated.
    :param loader: the framework's.
    """

    def __init__(self, epochs: Epochs, loader: Any) -> None:
        self._epochs = epochs
        self._loader = loader

    def __iter__(self) -> Iterator[Any]:
        return iter(self._epochs)

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name in {"_loader", "_epochs", "state_dict", "load_state_dict"}:
            raise AttributeError(name)  # its position is ours to know
        return getattr(self._loader, name)
