"""A run that is up: its supervisor is asked, and answers when the rollback is written down."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from resilient.errors import NotInTime, RunDirectoryNotWritable, RunLocked, RunNotUp
from resilient.protocol import rollback_request as files
from resilient.protocol.paths import RunPaths
from resilient.rollback_cli.order import Plan
from resilient.supervisor.request import supervisor_of

_POLL_SECONDS = 0.05


def ask_supervisor(
    paths: RunPaths,
    plan: Plan,
    timeout: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Ask, and wait until the rollback is decided.

    :param timeout: seconds. A request that nobody has taken by then is withdrawn.
    :raises RunLocked: the supervisor has a reason against it, which is the message.
    :raises RunNotUp: the run ended before it answered.
    :raises NotInTime: there is no answer in time.
    """
    request = files.RollbackRequest(uuid.uuid4().hex, plan.target, plan.skip, plan.lr_factor)
    try:
        files.ask(paths, request)
    except OSError as error:
        raise RunDirectoryNotWritable(
            f"{paths.root} cannot be written: {error.strerror}", "free space there"
        ) from error
    deadline = clock() + timeout
    try:
        while True:
            up = supervisor_of(paths) is not None
            if (answer := files.read_answer(paths, request)) is not None:
                break
            if not up:
                raise RunNotUp(
                    f"the run {paths.run_id} ended before it answered", "the same command again rolls it back"
                )
            if clock() >= deadline:
                raise _too_late(paths, request, timeout)
            sleep(_POLL_SECONDS)
    finally:
        files.withdraw(paths, request)
    if not answer.accepted:
        raise RunLocked(f"the run {paths.run_id} is not rolled back: {answer.why}")


def _too_late(paths: RunPaths, request: files.RollbackRequest, timeout: float) -> NotInTime:
    problem = f"the supervisor of {paths.run_id} has not answered within {timeout:g} s"
    if files.withdraw(paths, request):
        return NotInTime(f"{problem}; the request is withdrawn", "ask again, or wait longer with --timeout")
    return NotInTime(f"{problem}, but it has taken the request", f"see {paths.journal} for what becomes of it")
