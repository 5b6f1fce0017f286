"""Terms: who leads a run of several nodes, one after the other, with the run's directory as the arbiter.

========================  =============================================================================================
``000007.json``           the claim of term 7: who leads, where it listens and the secret of its connections; made once
``000007.beat``           its sign of life: other bytes each second
``000007.began``          the lowest step at which a round of the term began; snapshots of earlier terms that are newer
                          do not count
``000007.closed``         it ended in good order, so that nobody need wait for its next sign of life
========================  =============================================================================================

A claim is written whole under another name and then linked, so there is never a part of one, and never two of one
number. Who leads is whoever has the highest. Nothing is ever removed: what a leader that was cut off does later is
judged by it (:mod:`resilient.snapshot.fencing`).
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from resilient.errors import TermUnreadable
from resilient.protocol.term_files import TermFiles

LEASE_SECONDS = 10.0
"""How long a leader may show no sign of life, where nothing else is said."""

_BEAT_SECONDS = 1.0
_CLAIM = re.compile(r"(\d{6,12})\.json")
_NODE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_ADDRESS = re.compile(r"[A-Za-z0-9._:%\[\]-]{1,255}:\d{1,5}")
_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,256}")


@dataclass(frozen=True)
class Term:
    """One leader's reign.

    :param number: they are counted from 1.
    :param node: who leads.
    :param address: where it listens, as ``host:port``.
    :param token: the secret that who connects has to know; whoever can read the claim does.
    """

    number: int
    node: str
    address: str
    token: str

    def to_json(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes) -> Term:
        """:raises ValueError: it is no term."""
        try:
            body = json.loads(data)
            term = cls(body["number"], body["node"], body["address"], body["token"])
        except (KeyError, TypeError, RecursionError) as error:
            raise ValueError(f"not a term: {error!r}") from error
        if type(term.number) is not int or not 0 < term.number < 10**12:
            raise ValueError(f"{term.number!r} is no number of a term")
        for name, pattern in (("node", _NODE), ("address", _ADDRESS), ("token", _TOKEN)):
            value = getattr(term, name)
            if not isinstance(value, str) or not pattern.fullmatch(value):
                raise ValueError(f"its {name} is none")
        return term

    def file(self, suffix: str) -> str:
        return f"{self.number:06d}.{suffix}"


class Terms:
    """The terms of one run, as one node sees and makes them."""

    def __init__(self, directory: Path, node: str = "", files: TermFiles | None = None) -> None:
        """Make the directory where there is none.

        :param node: who looks.
        :raises RunDirectoryNotWritable: it cannot be made.
        """
        self.files = files or TermFiles(directory, node)
        self.files.create()

    def newest(self) -> Term | None:
        """The term that was claimed last; None before the first.

        :raises TermUnreadable: its claim is not one of ours.
        :raises OSError: the directory cannot be read.
        """
        claims = [match for name in self.files.names() if (match := _CLAIM.fullmatch(name))]
        newest = max(claims, key=lambda claim: int(claim[1]), default=None)
        return None if newest is None else self._read(newest[0], int(newest[1]))

    def _read(self, name: str, number: int) -> Term | None:
        data = self.files.read(name)
        if data is None:
            return None
        try:
            term = Term.from_json(data)
            if term.number != number:
                raise ValueError(f"it says that it is of term {term.number}")
        except ValueError as error:
            raise TermUnreadable(
                f"{self.files.directory / name} is no claim of a term: {error}",
                "a claim is never written in part, so somebody else wrote it: find out who did, and remove it",
            ) from error
        return term

    def claim(self, term: Term) -> bool:
        """Begin a term, unless somebody else has.

        :raises OSError: it cannot be written.
        :raises RunDirectoryNotWritable: the filesystem cannot be used for it.
        """
        name = term.file("json")
        self.files.write(name, term.to_json())
        try:
            self.files.link(name)
        except FileExistsError:
            if self._read(name, term.number) != term:
                return False
        finally:
            self.files.clean(name)
        self.files.sync()
        return True

    def beat(self, term: Term, count: int) -> None:
        """Show a sign of life.

        :param count: another one each time.
        """
        self.files.overwrite(term.file("beat"), f"{count:020d}\n".encode())

    def sign_of_life(self, term: Term) -> bytes:
        """What its leader has shown last; empty before the first."""
        return self.files.read(term.file("beat")) or b""

    def close(self, term: Term) -> None:
        """The term is over, in good order: nobody need wait for its leader."""
        self._write(term.file("closed"), b"{}\n")

    def is_closed(self, term: Term) -> bool:
        return self.files.read(term.file("closed")) is not None

    def begin(self, term: Term, step: int, round_number: int) -> None:
        """Write down, durably, at which step the term begins."""
        self._write(term.file("began"), json.dumps({"step": step, "round": round_number}).encode() + b"\n")

    def reign(
        self, term: Term, *, lease_seconds: float = LEASE_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> Reign:
        """What its leader does in it."""
        return Reign(self, term, lease_seconds=lease_seconds, clock=clock)

    def _write(self, name: str, data: bytes) -> None:
        self.files.write(name, data)
        self.files.replace(name)
        self.files.sync()


class Reign:
    """A leader's side of its term."""

    def __init__(self, terms: Terms, term: Term, *, lease_seconds: float, clock: Callable[[], float]) -> None:
        self.term = term
        self._terms = terms
        self._lease = lease_seconds
        self._clock = clock
        self._count = 0
        self._renewed = clock()  # when it was begun, the last time that it succeeded
        self._tried: float | None = None
        self._lowest: int | None = None

    def renew(self) -> bool:
        """Show a sign of life, and look whether the term is still the newest; to be called often, done once a second.

        :returns: False when it is over: nothing that needs a leader may be done any more. Also where that cannot be
            found out for as long as it takes others to begin a new one.
        """
        now = self._clock()
        if self._tried is not None and now - self._tried < _BEAT_SECONDS:
            return now - self._renewed < self._lease
        self._tried = now
        with suppress(OSError):
            newest = self._terms.newest()
            if newest is None or newest != self.term:
                return False
            self._count += 1
            self._terms.beat(self.term, self._count)
            self._renewed = now
        return now - self._renewed < self._lease

    def began(self, step: int, round_number: int) -> None:
        """A round of the term begins at this step. Only the lowest is written: what is newer than that, and of an
        earlier term, is not of this one's past.
        """
        if self._lowest is None or step < self._lowest:
            self._terms.begin(self.term, step, round_number)
            self._lowest = step
