"""The worker's side of a stack dump: be ready to say where one is, in this process and in all that it forks."""

from __future__ import annotations

import faulthandler
import os
from contextlib import suppress

from resilient.protocol.stack_dumps import DUMP_SIGNAL, MEMORY_FILE

_answer: int | None = None  # descriptor of this process's anonymous file


def answer_with_stacks() -> None:
    """Answer :data:`DUMP_SIGNAL` with the stacks of all threads from now on."""
    _register()
    os.register_at_fork(after_in_child=_register)


def _register() -> None:
    """A forked process inherits the handler, and gets a file of its own to answer in."""
    global _answer
    with suppress(OSError):  # no descriptors left, and nothing to fail for
        fresh = os.memfd_create(MEMORY_FILE)
        faulthandler.register(DUMP_SIGNAL, file=fresh, all_threads=True)
        inherited, _answer = _answer, fresh
        if inherited is not None:
            os.close(inherited)
