"""STUB until the real one is merged."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Term:
    number: int
    node: str
    address: str
    token: str


@dataclass(frozen=True)
class Lead:
    term: Term


@dataclass(frozen=True)
class Follow:
    term: Term


class Terms:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def newest(self) -> Term | None:
        found = sorted(self.directory.glob("*.json"))
        return Term(**json.loads(found[-1].read_text())) if found else None

    def claim(self, term: Term) -> bool:
        fresh = self.directory / f".{term.node}"
        fresh.write_text(json.dumps(asdict(term)))
        try:
            os.link(fresh, self.directory / f"{term.number:06d}.json")
        except FileExistsError:
            return False
        return True

    def close(self, term: Term) -> None:
        (self.directory / f"{term.number:06d}.closed").touch()

    def reign(self, term: Term) -> Reign:
        return Reign(self, term)


class Reign:
    def __init__(self, terms: Terms, term: Term) -> None:
        self.terms, self.term, self.at, self.count = terms, term, 0.0, 0

    def renew(self) -> bool:
        if time.monotonic() - self.at > 0.5:
            self.at = time.monotonic()
            self.count += 1
            fresh = self.terms.directory / f".beat-{self.term.number}"
            fresh.write_text(str(self.count))
            fresh.replace(self.terms.directory / f"{self.term.number:06d}.beat")
            newest = self.terms.newest()
            return newest is not None and newest.number == self.term.number
        return True

    def began(self, step: int, round_number: int) -> None:
        fresh = self.terms.directory / f".began-{self.term.number}"
        fresh.write_text(json.dumps({"step": step, "round": round_number}))
        fresh.replace(self.terms.directory / f"{self.term.number:06d}.began")


class Election:
    def __init__(
        self, terms: Terms, node: str, address: str, token: str, *, lease_seconds: float, clock: Callable[[], float]
    ) -> None:
        self.terms, self.node, self.address, self.token, self.lease, self.clock = (
            terms,
            node,
            address,
            token,
            lease_seconds,
            clock,
        )
        self.beat, self.at = "", clock()

    def poll(self) -> Lead | Follow | str:
        newest = self.terms.newest()
        if (
            newest is not None
            and newest.node != self.node
            and not (self.terms.directory / f"{newest.number:06d}.closed").exists()
        ):
            beat = self.terms.directory / f"{newest.number:06d}.beat"
            text = f"{newest.number}-{beat.read_text() if beat.exists() else ''}"
            if text != self.beat:
                self.beat, self.at = text, self.clock()
            if self.clock() - self.at < self.lease:
                return Follow(newest)
        if newest is None and self.node != "n1":
            time.sleep(0.3)
            if self.terms.newest() is not None:
                return "wait"
        term = Term((newest.number if newest else 0) + 1, self.node, self.address, self.token)
        return Lead(term) if self.terms.claim(term) else "wait"
