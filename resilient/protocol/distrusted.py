"""``distrusted.json``: machines that computed wrong results, on which the run is not to be started again.

The supervisor that found it out writes it; every supervisor of the run reads it at its start, and so can whoever
chooses machines. Distrust expires, for machines are repaired and names are used again. Two machines that are found out
in the same moment may write over each other; the one that is lost will be found out again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from resilient.errors import UntrustedNode
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.small_file import read_bounded, replace_durably

FORMAT = 1
LASTS_SECONDS = 7 * 86400.0
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Distrusted:
    """One machine.

    :param host: its short name.
    :param reason: what was computed wrong, in a sentence.
    :param incident: number of the incident with the evidence.
    :param since: seconds since the epoch.
    :param until: likewise; it is trusted again from then on.
    """

    host: str
    reason: str
    incident: int
    since: float
    until: float

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Distrusted:
        since, until = float(body["since"]), float(body["until"])
        if not (math.isfinite(since) and math.isfinite(until)):
            raise ValueError("a time is not finite")
        return cls(str(body["host"]), str(body["reason"]), int(body["incident"]), since, until)


def distrusted(paths: RunPaths, now: float | None = None) -> tuple[Distrusted, ...]:
    """The machines that the run must keep off, the one found out first being first.

    :param now: seconds since the epoch; whoever has expired by then is not among them.
    :raises ValueError: the file is not one that this release has written.
    """
    now = time.time() if now is None else now
    return tuple(found for found in _read(paths) if found.until > now)


def distrust(
    paths: RunPaths, reason: str, incident: int, *, seconds: float = LASTS_SECONDS, now: float | None = None
) -> Distrusted:
    """Keep the run off this machine; durable when this returns. A file that cannot be read is kept beside the new one.

    :param incident: its number.
    :param seconds: for so long.
    :raises RunDirectoryNotWritable: it cannot be written down.
    """
    now = time.time() if now is None else now
    found = Distrusted(hostname(), reason, incident, now, now + seconds)
    try:
        known = _read(paths)
    except ValueError:
        known = ()
        paths.distrusted.replace(paths.distrusted.with_suffix(".unreadable"))
    others = [asdict(other) for other in known if other.host != found.host and other.until > now]
    nodes = [*others, asdict(found)]
    replace_durably(paths.distrusted, json.dumps({"format": FORMAT, "nodes": nodes}, indent=1, allow_nan=False))
    return found


def require_trust(paths: RunPaths, now: float | None = None) -> None:
    """Nothing, on a machine that nobody distrusts.

    :raises UntrustedNode: this one computed wrong results.
    :raises ValueError: the file is not one that this release has written.
    """
    for found in distrusted(paths, now):
        if found.host == hostname():
            until = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.until))
            raise UntrustedNode(
                f"{found.host} computes wrong results: {found.reason} (incident {found.incident}); "
                f"run {paths.run_id} is kept off it until {until}",
                "start the same command on another machine; run.trust_node=true starts it here all the same, and "
                f"without this machine in {paths.distrusted} it is trusted again",
            )


def _read(paths: RunPaths) -> tuple[Distrusted, ...]:
    data = read_bounded(paths.distrusted, _MOST_BYTES)
    if data is None:
        return ()
    try:
        body = json.loads(data)
        if body["format"] != FORMAT:
            raise ValueError(f"format {body['format']}, not {FORMAT}")
        return tuple(map(Distrusted.from_json, body["nodes"]))
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(f"{paths.distrusted} is no list of distrusted machines: {error!r}") from error
