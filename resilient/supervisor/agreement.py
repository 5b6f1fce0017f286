"""The supervisor's part in what the ranks agree on: it passes on what one of them knows, and takes back what one of
them cannot keep.

The other part, and the reasons, are in the workers' ``group`` module.
"""

from __future__ import annotations

from resilient.protocol.arena import SlotInfo
from resilient.protocol.board import Command, Word
from resilient.supervisor.memory import RunMemory


def pass_on_termination(memory: RunMemory) -> None:
    """SIGTERM that has reached one worker alone makes all of them leave, and at one step."""
    if memory.some_terminated():
        for board in memory.boards.values():
            if board[Word.COMMAND] != Command.LEAVE:  # for one on another node it is a message
                board[Word.COMMAND] = Command.LEAVE


def release_unfulfilled(memory: RunMemory) -> list[int]:
    """Let go of what some ranks hold for the disk and another has no image of; rank 0 is to try again. Returns the
    steps.
    """
    steps = unfulfilled(memory)
    for step in steps:
        again = any(slot.info().step == step for slot in memory.arenas[0].held())  # or it knows, and does so anyway
        memory.release(step)
        if again:
            memory.boards[0][Word.RETRIES] += 1
    return steps


def unfulfilled(memory: RunMemory) -> list[int]:
    """Steps that some ranks hold and another has passed without holding them."""
    if not memory.some_held():
        return []
    # The boards first: a rank that has passed a step has begun its image before, or never will.
    passed = {rank: board[Word.STEP] for rank, board in memory.boards.items()}
    found = {rank: [slot.info() for slot in arena.slots] for rank, arena in memory.arenas.items()}
    held = {info.step for infos in found.values() for info in infos if _counts(info) and info.held}
    return sorted(
        step
        for step in held
        if any(passed[rank] >= step and not _may_come(found[rank], step) for rank in memory.arenas)
    )


def _counts(info: SlotInfo) -> bool:
    return info.complete or info.growing


def _may_come(infos: list[SlotInfo], step: int) -> bool:
    return any(info.step == step and (info.held or info.writing) for info in infos if info.complete or info.writing)
