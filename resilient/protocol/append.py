"""Append-only files that survive a full disk, or one that does not answer: what cannot be written now is kept, and
written before the rest.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

AWAY = frozenset(
    {
        errno.EAGAIN,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
    }
)
"""What a filesystem says that does not answer at the moment."""
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What a filesystem says that is full, or full for this user."""
LATER = AWAY | NO_ROOM | {errno.EIO, errno.EROFS}
"""What a filesystem says that is full, or has another trouble of its own: no reason to end a training."""
_MOST_KEPT = 64 << 20  # bytes; a disk that stays full for longer than that loses the log, not the training


class AppendOnly:
    """A file to which whole lines are appended, each in one ``write`` where possible."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
        self._kept = b"" if _ends_with_a_line(path) else b"\n"  # else the next line would be glued to one cut short

    def write(self, lines: bytes) -> None:
        """Append ``lines``; where the disk is full or does not answer, keep them for later."""
        data = self._kept + lines
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as error:
            if error.errno not in LATER:
                raise
        self._kept = data if len(data) <= _MOST_KEPT else b""

    def close(self) -> None:
        self.write(b"")
        os.close(self._descriptor)


def _ends_with_a_line(path: Path) -> bool:
    if not path.is_file() or not path.stat().st_size:
        return True
    with path.open("rb") as stream:
        stream.seek(-1, os.SEEK_END)
        return stream.read(1) == b"\n"
