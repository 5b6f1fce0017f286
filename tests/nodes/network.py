"""Two machines with a cable between them that can be cut: network namespaces, where we may make some."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

_NUMBERS = itertools.count()


def why_not() -> str:
    """Why there can be none here; empty if there can."""
    if shutil.which("ip") is None:
        return "there is no ip(8)"
    name = f"resilient-{os.getpid()}-probe"
    if subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode != 0:
        return "network namespaces cannot be made here"
    _ip("netns", "delete", name)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Cable:
    """Connects two namespaces by way of a third, in which there is a switch.

    :param names: of the namespaces, the switch's last.
    :param addresses: at the two ends.
    """

    names: tuple[str, str, str]
    addresses: tuple[str, str]

    def prefix(self, end: int) -> Sequence[str]:
        """What makes a command run at that end."""
        return ("ip", "netns", "exec", self.names[end], "env", f"GLOO_SOCKET_IFNAME=end{end}")

    def cut(self) -> None:
        """Nothing arrives any more, and nobody is told: neither end sees anything of its interface."""
        _ip("-n", self.names[2], "link", "set", "port1", "nomaster")

    def mend(self) -> None:
        _ip("-n", self.names[2], "link", "set", "port1", "master", "switch")


@contextmanager
def cable() -> Iterator[Cable]:
    """Namespaces and a cable, which are gone afterwards."""
    place = f"resilient-{os.getpid()}-{next(_NUMBERS)}"
    made = Cable((f"{place}-a", f"{place}-b", f"{place}-s"), ("10.213.0.1", "10.213.0.2"))
    switch = made.names[2]
    try:
        for name in made.names:
            _ip("netns", "add", name)
        _ip("-n", switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", switch, "link", "set", "switch", "up")
        for end, address in enumerate(made.addresses):
            name = made.names[end]
            _ip(
                "link", "add", f"end{end}", "netns", name, "type", "veth", "peer", "name", f"port{end}", "netns", switch
            )
            _ip("-n", switch, "link", "set", f"port{end}", "master", "switch", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", f"end{end}")
            _ip("-n", name, "link", "set", f"end{end}", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield made
    finally:
        for name in made.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)
