"""The network, as far as the ranks need it to find each other."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable

from resilient.doctor.check import Check
from resilient.doctor.finding import Finding, note, ok, problem, warning
from resilient.doctor.world import World

_CONNECT_SECONDS = 5.0
_INTERFACE = "add it to /etc/hosts, or name an interface: worker.env.GLOO_SOCKET_IFNAME=lo"
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT}


def _loopback(_world: World) -> Finding:
    """A port is bound, and somebody connects to it."""
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            server.settimeout(_CONNECT_SECONDS)
            with socket.create_connection(server.getsockname()[:2], _CONNECT_SECONDS):
                server.accept()[0].close()
    except OSError as error:
        return problem(
            f"a port of this machine cannot be used ({error.strerror or error}), and ranks meet at one",
            "bring the loopback interface up (ip link set lo up), or ask why it is down",
        )
    return ok("ports of this machine can be used")


def _hostname(_world: World) -> Finding:
    return judge_hostname(socket.gethostname(), socket.gethostbyname, _is_ours)


def judge_hostname(name: str, resolve: Callable[[str], str], is_ours: Callable[[str], bool]) -> Finding:
    """Whether the machine's own name leads to an address of it, as gloo expects."""
    try:
        address = resolve(name)
    except OSError:
        return warning(f"the machine's name, {name}, has no address: torch's gloo fails where ranks use it", _INTERFACE)
    if not is_ours(address):
        return warning(
            f"its name, {name}, leads to {address}, which is not this machine: torch's gloo fails where ranks use it",
            _INTERFACE,
        )
    return ok(f"this machine's name leads to it ({address})")


def _is_ours(address: str) -> bool:
    try:
        with socket.socket() as trial:
            trial.bind((address, 0))
    except OSError:
        return False
    return True


def _master(world: World) -> Finding | None:
    address = world.environment.get("MASTER_ADDR", "")
    if not address:
        return None
    port = world.environment.get("MASTER_PORT", "")
    return judge_master(address, int(port) if port.isdecimal() and int(port) < 65536 else None)


def judge_master(address: str, port: int | None) -> Finding:
    """Whether the machine at which ranks are to meet can be reached; nobody need listen there yet."""
    try:
        socket.getaddrinfo(address, port)
    except OSError as error:
        return problem(f"MASTER_ADDR={address} has no address ({error.strerror})", "correct it, or ask for its name")
    if port is None:
        return ok(f"MASTER_ADDR={address} has an address")
    try:
        socket.create_connection((address, port), _CONNECT_SECONDS).close()
    except ConnectionRefusedError:
        return ok(f"MASTER_ADDR={address} can be reached; nobody listens at port {port} yet")
    except OSError as error:
        if isinstance(error, TimeoutError) or error.errno in _NO_ROUTE:
            told = f"MASTER_ADDR={address} does not answer at port {port}"
            return warning(f"{told}: a firewall, or another network", "name an address that all nodes can reach")
        return note(f"MASTER_ADDR={address} could not be tried: {error}")
    return ok(f"MASTER_ADDR={address} can be reached")


CHECKS = (
    Check("network.loopback", "whether ranks can meet on this machine", _loopback),
    Check("network.hostname", "whether the machine's name leads to it", _hostname, seconds=20.0),
    Check("network.master", "whether MASTER_ADDR can be reached", _master, seconds=20.0),
)
