"""The dataset in a rebuilt loader: the user's, with generators that are seeded for each batch."""

from __future__ import annotations

from typing import Any

from torch.utils.data import Dataset
from torch.utils.data import get_worker_info as current_worker

from resilient.worker.rng import seed_cpu, seeded
from resilient.worker.samplers import Ticket


class SeededDataset(Dataset[Any]):
    """Fetches what a ticket names, with the generators seeded by the ticket. Everything else is the user's dataset."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __len__(self) -> int:
        return len(self._inner)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_inner":  # while unpickling, `_inner` is not there yet
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_inner":
            object.__setattr__(self, name, value)
        else:  # a `worker_init_fn` that configures `get_worker_info().dataset` means the user's dataset
            setattr(self._inner, name, value)

    def __getitem__(self, ticket: Ticket) -> Any:
        return self._seeded(ticket, lambda: self._inner[ticket.index])

    def __getitems__(self, ticket: Ticket) -> Any:
        return self._seeded(ticket, lambda: self._fetch_batch(ticket.index))

    def _fetch_batch(self, indexes: Any) -> Any:
        if callable(getattr(self._inner, "__getitems__", None)):
            return self._inner.__getitems__(indexes)
        return [self._inner[index] for index in indexes]

    @staticmethod
    def _seeded(ticket: Ticket, fetch: Any) -> Any:
        if current_worker() is not None:  # a DataLoader worker's generators serve the dataset alone
            seed_cpu(ticket.seed)
            return fetch()
        with seeded(ticket.seed):
            return fetch()
