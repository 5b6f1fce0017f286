"""The port at which the workers of a round find each other.

Rank 0 opens the store there, not the supervisor, which does not know torch. Until it has done so the supervisor keeps
the port taken: it is bound here without listening, which keeps the kernel from giving it to anybody who asks for any
free one, and lets rank 0 have it, because both say ``SO_REUSEADDR``. Should somebody take it all the same, rank 0 fails
with "address already in use" and the next round has another one.
"""

from __future__ import annotations

import socket

_GUESS, _GUESSES = 29500, 1000  # from torchrun's own default on


class FreshPort:
    """Another port for each round."""

    def __init__(self) -> None:
        self._taken = 0
        self._kept: socket.socket | None = None

    def take(self) -> int:
        """A port that nobody has, and that is not the one of the round before.

        Where the system gives us none, because there is no network or all are taken, it is a guess: many a script needs
        none.
        """
        try:
            fresh = socket.socket()
            fresh.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            fresh.bind(("", 0))
        except OSError:
            self._taken += 1
            return _GUESS + self._taken % _GUESSES
        self.close()  # only now, or it might be given out again
        self._kept = fresh
        return int(fresh.getsockname()[1])

    def close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None
