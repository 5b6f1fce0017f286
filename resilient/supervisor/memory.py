"""The shared memory of a run on this node: boards and arenas of its ranks, owned by the supervisor.

It is found by name, so what a killed supervisor leaves is its successor's.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from resilient.errors import ConfigurationError, StorageFull
from resilient.protocol.arena import Arena, Loan, Slot
from resilient.protocol.board import SIZE, Board, Word
from resilient.protocol.pages import FULL
from resilient.protocol.past import Past
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.plan import RoundPlan
from resilient.protocol.scratch import Scratch
from resilient.protocol.spill import Spill
from resilient.protocol.tenancy import LOCK, Tenancy, Tenant, boot_id
from resilient.supervisor.ranks import clear_other_ranks

_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  a private directory is made in it, with mode 0700


class RunMemory:
    """Boards and arenas of ``ranks`` workers: the first so many, or these.

    Where it is these, the run has others on other nodes, and what is there of others stays: it may be needed there.
    """

    def __init__(
        self, directory: Path, ranks: int | range, slots: int, identity: str, root: Path | None = None
    ) -> None:
        """Open what is there, make what is not.

        :param identity: of the run. What is there of another run, whose directory was deleted and made anew, is
            thrown away: it would bring back a state that somebody wanted to be rid of. So is what was there when the
            machine was switched off, which may be on disk in parts.
        :param root: the run's directory, which takes what there is no room for in ``directory``; without one, having
            no room is an error.
        :raises ConfigurationError: it holds the state of another number of ranks.
        :raises StorageFull: there is not even room for the boards.
        :raises RunLocked: a live process is using this memory for another run.
        """
        self.directory = directory
        self._identity = identity
        self._root = root
        self._slots = slots
        self._ranks = range(ranks) if isinstance(ranks, int) else ranks
        self._spill = Spill(RunPaths(root).memory) if root is not None else None
        self._tenancy: Tenancy | None = None
        try:
            self._claim()
            if isinstance(ranks, int):
                clear_other_ranks(directory, ranks, self._spill)
            self.boards = {rank: self._board(rank) for rank in self._ranks}
        except ConfigurationError:
            if self._tenancy is not None:
                self._tenancy.leave()
            raise
        except OSError as error:
            raise StorageFull(
                f"no shared memory in {directory}: {error.strerror}", "make it larger, or set snapshot.memory_dir"
            ) from error
        self.arenas = {rank: self._arena(rank) for rank in self._ranks}
        self._remove_unlinked()

    @classmethod
    def place(cls, paths: RunPaths, memory_dir: str) -> Path:
        """The directory for this run's memory."""
        parent = Path(memory_dir) if memory_dir else _SHARED_MEMORY
        return (parent if parent.is_dir() else paths.root) / paths.memory_name

    def _claim(self) -> None:
        while not self._claimed():
            pass  # it was removed the moment before, by one that had looked at it before this run was there

    def _claimed(self) -> bool:
        self.directory.mkdir(mode=0o700, exist_ok=True)
        if self.directory.stat().st_uid != os.getuid():
            raise ConfigurationError(
                f"{self.directory} belongs to another user", "set snapshot.memory_dir to a directory of your own"
            )
        if self._tenancy is None or not (self.directory / LOCK).exists():
            try:
                fresh = Tenancy(self.directory)
            except FileNotFoundError:
                return False
            if self._tenancy is not None:
                self._tenancy.leave()
            self._tenancy = fresh
            self._clear_unless_ours()
            self._tenancy.share()
        self._clear_unless_ours()
        return True

    def _clear_unless_ours(self) -> None:
        mark, tenant = self.directory / "identity", Tenant.read(self.directory)
        there = mark.read_text() if mark.exists() else ""
        known = there == self._identity
        if there and not known:  # of a run that is no more: nobody else would ask for it by its name again
            Scratch(there).remove()
        if not known or (tenant is not None and tenant.boot != boot_id()):
            for path in self.directory.iterdir():
                if path.name != LOCK:
                    path.unlink()
            mark.write_text(self._identity)
        if self._root is not None and (tenant is None or tenant.owner.pid != os.getpid()):
            Tenant.current(self._root, hostname()).write(self.directory)

    def keep_linked(self) -> None:
        """Bring back what somebody has removed from the directory while we had it open. Only while no worker is up."""
        self._claim()
        for rank in self._ranks:
            arena = self.arenas[rank]
            try:
                for slot in arena.slots:
                    slot.keep_linked()
            except StorageFull:  # an older image will have to do
                arena.close()
                self.arenas[rank] = self._arena(rank)

    def _arena(self, rank: int) -> Arena:
        return Arena.shared(self.directory, rank, self._slots, self._spill)

    def _slot_paths(self) -> list[Path]:
        return [slot.path for rank in self._ranks for slot in self.arenas[rank].slots]

    def _remove_unlinked(self) -> None:
        """Files on disk that a slot was moving to when its worker was killed, or that the machine was switched off
        under.
        """
        if self._spill is not None:
            self._spill.remove([path.name for path in self._slot_paths() if not path.is_symlink()])

    def _board(self, rank: int) -> Board:
        path = self._board_path(rank)
        try:
            return Board.open(path)
        except (OSError, ValueError):
            return self._new_board(rank)

    def _new_board(self, rank: int) -> Board:
        """A fresh board in the place of the old one; on disk, if somebody has filled shared memory meanwhile."""
        path = self._board_path(rank)
        path.unlink(missing_ok=True)
        try:
            return Board.create(path)
        except OSError as error:
            if self._spill is None or error.errno not in FULL:
                raise
        os.close(self._spill.take(path, SIZE))
        self._spill.link(path)
        return Board.create(path)

    def write_plan(self, plan: RoundPlan) -> Path:
        """Leave the plan where the workers can read it."""
        path = self.directory / "plan.json"
        try:
            plan.write(path)
        except OSError as error:
            if self._root is None or error.errno not in FULL:
                raise
            path = RunPaths(self._root).round_logs(plan.round) / path.name
            plan.write(path)
        return path

    def _board_path(self, rank: int) -> Path:
        return self.directory / f"rank-{rank:05d}.board"

    def renew_boards(self) -> None:
        """Fresh boards for a new round; what was unread on the old ones must have been collected."""
        for rank in self._ranks:
            self.boards[rank].close()
            self.boards[rank] = self._new_board(rank)

    def newest_step(self) -> int | None:
        """The newest step of which every rank holds a complete image."""
        return max(self.whole_steps(), default=None)

    def whole_steps(self) -> set[int]:
        """Steps of which every rank holds a complete image."""
        steps = [
            {info.step for info in (slot.info() for slot in arena.slots) if info.complete}
            for arena in self.arenas.values()
        ]
        return set.intersection(*steps)

    @property
    def newest_in_part(self) -> int | None:
        """Where nothing is whole: the newest step of which something is here that could be whole together with what
        other nodes have, who are not there.
        """
        return None

    def slots_of(self, step: int) -> dict[int, Slot] | None:
        """Each rank's slot with the image of ``step``, or None if one has none."""
        found = {rank: arena.find(step) for rank, arena in self.arenas.items()}
        whole = {rank: slot for rank, slot in found.items() if slot is not None}
        return whole if len(whole) == len(found) else None

    def held_slots(self, step: int) -> dict[int, Slot] | None:
        """Each rank's slot with the image of ``step``, or with as much as there is of one that goes to disk while it is
        written; None if a rank has neither.
        """
        found: dict[int, Slot] = {}
        for rank, arena in self.arenas.items():
            infos = [(slot.info(), slot) for slot in arena.held()]
            matching = [(info.complete, info.sequence, slot) for info, slot in infos if info.step == step]
            if not matching:
                return None
            found[rank] = max(matching, key=lambda each: each[:2])[-1]
        return found

    def held_steps(self) -> list[int]:
        """Steps that all ranks want made durable, oldest first. What they hold of them may still be growing."""
        common: set[int] | None = None
        for arena in self.arenas.values():
            steps = {slot.info().step for slot in arena.held()}
            common = steps if common is None else common & steps
            if not common:  # nearly always, and then the others need not be looked at
                return []
        return sorted(common or ())

    # --- what is looked at all the time, and must cost next to nothing where very many ranks are on other nodes

    def moved(self) -> AbstractSet[int]:
        """Ranks whose boards may not be as they were at the last call."""
        return set(self._ranks)

    def some_terminated(self) -> bool:
        """Whether SIGTERM has reached a worker by itself."""
        return any(self.boards[rank][Word.TERMINATED] for rank in self._ranks)

    def some_held(self) -> bool:
        """Whether a slot may be held."""
        return any(slot.may_be_held for rank in self._ranks for slot in self.arenas[rank].slots)

    def hold(self, step: int) -> None:
        for slot in (self.slots_of(step) or {}).values():
            slot.hold()

    def release(self, step: int) -> None:
        """The image of ``step`` is durable, or never will be: its slots may be written again."""
        for _, arena in sorted(
            self.arenas.items(), reverse=True
        ):  # rank 0 last: it takes the others to be free when it is
            for slot in arena.held():
                if slot.info().step == step:
                    slot.release()

    def release_all(self) -> None:
        for arena in self.arenas.values():
            for slot in arena.slots:
                slot.release()
        for slot in (slot for rank in self._ranks for slot in self.arenas[rank].slots):
            slot.lend(Loan.NONE, slot.info().begun)

    def keep_only(self, step: int) -> None:
        """The run goes on from ``step``, and from what was written last of it: nothing else is a snapshot any more."""
        for arena in self.arenas.values():
            kept = arena.find(step)
            for slot in arena.slots:
                if slot is not kept and not slot.info().held:
                    slot.void()

    def forget_newer(self, step: int | None) -> None:
        """The run goes on from ``step``: what some ranks have of later ones must never be taken together with what the
        others are going to have of them. Only while no worker is up.
        """
        for arena in self.arenas.values():
            for slot in arena.slots:
                if step is None or slot.info().step > step:
                    slot.void()

    def free_slots(self) -> dict[int, Slot]:
        """For each rank a slot that may be written while no worker is up; the newest common image stays."""
        newest = self.newest_step()
        return {
            rank: arena.next_free(lambda info: info.step == newest) or arena.next_free() or arena.slots[0]
            for rank, arena in self.arenas.items()
        }

    def next_sequence(self) -> int:
        """A number for an image that is to count as the newest."""
        return 1 + max(slot.info().sequence for arena in self.arenas.values() for slot in arena.slots)

    @property
    def ranks(self) -> range:
        """Those on this node."""
        return self._ranks

    def belongs_to(self, world: int) -> bool:
        """Whether what is in memory was taken with so many ranks in all, or nothing is known of that. To another number
        of ranks it means nothing.
        """
        past = self.past
        return past is None or past.world == world

    @property
    def past(self) -> Past | None:
        """Of what is in memory, where that is known; in runs of several nodes."""
        return Past.read(self.directory)

    def mark(self, past: Past) -> None:
        """From now on, what is in memory is of this past."""
        past.write(self.directory)

    def mark_foreign(self, step: int) -> None:
        """Images of ``step`` will be read into memory from elsewhere."""
        if (past := self.past) is not None:
            self.mark(past.with_foreign(step))

    def remove_strangers(self) -> None:
        """What is there of ranks that other nodes have now is not needed any more: a round begins."""
        known = {f"rank-{rank:05d}" for rank in self._ranks}
        paths = [path for path in self.directory.glob("rank-*") if path.name.partition(".")[0] not in known]
        for path in paths:
            path.unlink(missing_ok=True)
        if self._spill is not None and paths:
            self._spill.remove([path.name for path in paths])

    def void_growing(self, rank: int | None = None) -> None:
        """The worker of ``rank``, or every worker, is dead: what it had not finished is nothing."""
        for arena in self.arenas.values() if rank is None else [self.arenas[rank]]:
            arena.void_growing()

    def void(self) -> None:
        """Nothing in memory is a snapshot any more."""
        for arena in self.arenas.values():
            arena.void()

    def close(self) -> None:
        """Leave everything where it is, for the next supervisor."""
        self._close_all()
        if self._tenancy is not None:
            self._tenancy.leave()

    def _close_all(self) -> None:
        for board in self.boards.values():
            board.close()
        for arena in self.arenas.values():
            arena.close()

    def remove(self) -> None:
        """Give the memory back; nothing is left of it."""
        self._close_all()
        if self._spill is not None:
            names = [self._board_path(rank).name for rank in self._ranks]
            self._spill.remove([*names, *(path.name for path in self._slot_paths())])
        if self._tenancy is not None:
            with suppress(FileNotFoundError):
                self._tenancy.remove()
            self._tenancy.leave()
