"""``resilient``, to which something happens at a chosen moment of a rollback: ``fatal.py SIGNAL MOMENT train …``.

A moment is ``before:SaveLineage:1``: before the first such decision of the first rollback is carried out. Or after it.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from resilient.cli import main
from resilient.supervisor.loop import Supervisor

_made = Supervisor.__init__


def _strike(number: signal.Signals, moment: str) -> None:
    when, name, count = moment.split(":")
    left = [int(count)]

    def wrap(self: Supervisor, handler: Callable[[Any], None]) -> Callable[[Any], None]:
        def carry_out(decision: Any) -> None:
            met = bool(self._state.lineage.rollbacks)
            left[0] -= met
            struck = met and left[0] == 0
            if struck and when == "before":
                os.kill(os.getpid(), number)
            handler(decision)
            if struck and when == "after":
                os.kill(os.getpid(), number)

        return carry_out

    def make(self: Supervisor, *arguments: Any, **named: Any) -> None:
        _made(self, *arguments, **named)
        for kind, handler in self._handlers.items():
            if kind.__name__ == name:
                self._handlers[kind] = wrap(self, handler)

    Supervisor.__init__ = make  # type: ignore[method-assign]  # what a test is for


if __name__ == "__main__":
    _strike(signal.Signals[sys.argv[1]], sys.argv[2])
    sys.exit(main(sys.argv[3:]))
