"""The sources of batches: a loader that is rebuilt, one that keeps its own position, and none."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from resilient.errors import StateError
from resilient.worker.positions import Opened, no_batch
from resilient.worker.rng import jump
from resilient.worker.samplers import Course, Ticket, course_of
from resilient.worker.seeding import SeededDataset
from resilient.worker.skips import ENDLESS, Place, SkipSet
from resilient.worker.streams import send_back


class LoaderData:
    """A map-style ``DataLoader``, rebuilt so that it can begin at any position."""

    def __init__(self, loader: DataLoader[Any], seed: int) -> None:
        self._course = course_of(loader, seed)
        self._loader = _rebuild(loader, _Sampler(self._course, loader))

    @property
    def skips(self) -> SkipSet:
        return self._course.skips

    @skips.setter
    def skips(self, skips: SkipSet) -> None:
        self._course.skips = skips

    def batches(self, opened: Opened) -> Iterator[Any]:
        while True:
            for batch in self.epoch(opened):
                self.passed()
                yield batch
            self.end()

    def epoch(self, opened: Opened) -> Iterator[Any]:
        self._course.begin()
        with torch.device("cpu"):  # where the loader's generator is, whatever the script's default device is
            iterator = iter(self._loader)
        opened()
        yield from iterator

    def passed(self) -> None:
        self._course.passed()

    def end(self) -> None:
        self._course.end()

    def __len__(self) -> int:
        return len(self._loader)

    def resumed(self, step: int) -> None:
        self._course.resumed(step)

    def after(self, batches: int) -> Place:
        return self._course.after(batches)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": "loader", **self._course.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect("loader", state)
        self._course.load_state_dict(state)


class _Counted:
    """A stream whose batches are counted from the beginning of the run, those that are left out among them."""

    _KIND: str

    def __init__(self) -> None:
        self.count = 0
        self.skips = SkipSet("batches")

    def resumed(self, step: int) -> None:
        if self.count < 0:
            self.count = step

    def after(self, batches: int) -> Place:
        return (0, self.skips.kept(0, self.count, ENDLESS).at(batches - 1) + 1) if batches else (0, self.count)

    def state_dict(self) -> dict[str, Any]:
        return {"kind": self._KIND, "count": self.count, **self.skips.to_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        _expect(self._KIND, state)
        self.count = state.get("count", -1)  # of an older release: until it is said
        self.skips = self.skips.of_state(state)

    def _is_left_out(self) -> bool:
        """Whether the next batch is; it is counted by this."""
        place = (0, self.count)
        self.count += 1
        return self.skips.leave(place) != place


class StatefulData(_Counted):
    """A loader that keeps its own position, such as torchdata's ``StatefulDataLoader``. What is left out of it is read
    and dropped.
    """

    _KIND = "stateful"

    def __init__(self, loader: Any) -> None:
        super().__init__()
        self._loader = loader
        late = inspect.isgeneratorfunction(type(loader).__iter__)  # nothing has been made when it has been iterated
        if late and isinstance(loader, DataLoader) and loader.generator is None:
            # The seed of its workers would be drawn with the first batch, and be missing from what training draws.
            loader.generator = torch.Generator().manual_seed(torch.initial_seed())
        self._epoch = 0
        self._resumed = False
        self._handed: deque[dict[str, Any] | None] = deque()  # the place after each batch that waits to be used
        self._place: dict[str, Any] | None = None  # that of the last used one, where the loader has moved on from it

    def batches(self, opened: Opened) -> Iterator[Any]:
        while True:
            empty, resumed, self._resumed = True, self._resumed, False
            iterator = iter(self._loader)
            opened()
            for batch in iterator:
                empty = False
                if not self._is_left_out():
                    yield batch
            if empty and not resumed:  # resumed at the end of an epoch, there is rightly nothing left of it
                raise no_batch("check the dataset and its length")
            self._ended()

    def epoch(self, opened: Opened) -> Iterator[Any]:
        self._resumed = False
        iterator = iter(self._loader)
        opened()
        while True:
            if self._handed:
                self._handed[-1] = self._now()
            elif self._place is None:
                self._place = self._now()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            if not self._is_left_out():
                self._handed.append(None)
                yield batch

    def passed(self) -> None:
        self._place = self._handed.popleft()  # None: it is where the loader stands

    def end(self) -> None:
        self._ended()
        self._handed.clear()
        self._place = None

    def _ended(self) -> None:
        self._epoch += 1
        send_back(self._loader)

    def __len__(self) -> int:
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        return self._now() if self._place is None else self._place

    def _now(self) -> dict[str, Any]:
        return {**super().state_dict(), "epoch": self._epoch, "inner": self._loader.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._epoch, self._resumed = state["epoch"], True
        self._loader.load_state_dict(state["inner"])


class NoData(_Counted):
    """The script makes its own batches. Some can be left out where it goes by :attr:`Run.batch`, or draws them from the
    global generators: these jump, for else it would draw again what it had drawn.
    """

    _KIND = "none"

    def batches(self, opened: Opened) -> Iterator[None]:
        opened()
        left_out = False
        while True:
            if self._is_left_out():
                left_out = True
                continue
            if left_out:
                jump()
            left_out = False
            yield None


class _Sampler:
    """What the rebuilt loader iterates."""

    def __init__(self, course: Course, loader: DataLoader[Any]) -> None:
        self.course = course
        self._inner: Any = loader.batch_sampler if loader.batch_sampler is not None else loader.sampler

    def __len__(self) -> int:
        return len(self._inner)

    def __iter__(self) -> Iterator[Ticket]:
        return self.course.tickets()


def _rebuild(loader: DataLoader[Any], sampler: _Sampler) -> DataLoader[Any]:
    """The same loader around our sampler. Its own generator keeps iterator creation from drawing on the global one."""
    multiprocess: dict[str, Any] = {}
    if loader.num_workers > 0:
        multiprocess = {
            "prefetch_factor": loader.prefetch_factor,
            "persistent_workers": loader.persistent_workers,
            "multiprocessing_context": loader.multiprocessing_context,
            "timeout": loader.timeout,
            "worker_init_fn": loader.worker_init_fn,
        }
    one_by_one = loader.batch_sampler is None
    order: dict[str, Any] = {"batch_size": None, "sampler": sampler} if one_by_one else {"batch_sampler": sampler}
    return DataLoader(
        SeededDataset(loader.dataset),
        **order,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        generator=torch.Generator().manual_seed(sampler.course.seed),
        **multiprocess,
    )


def _expect(kind: str, state: Mapping[str, Any]) -> None:
    if state.get("kind") != kind:
        raise StateError(
            f"the snapshot's data position is of kind {state.get('kind')!r}, the script's data of kind {kind!r}",
            "keep the data as it was, or begin a new run with another run.id",
        )
