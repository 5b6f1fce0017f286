"""Gives images of this node's memory to other nodes that have the group's token.

A thread for each connection, so that one that hangs delays no other; each ends when nothing has moved for too long.
"""

from __future__ import annotations

import mmap
import socket
import sys
import threading
from contextlib import suppress

from resilient.nodes.image_stream import CHUNK, send_image
from resilient.nodes.peer_link import Body, Link
from resilient.nodes.replica_files import Image, ReplicaFiles, untagged
from resilient.protocol.slot_header import HEADER, SlotInfo

_MOST_AT_ONCE = 64  # connections; a stranger cannot take more threads than these


class ReplicaServer:
    """Listens on ``host``, on a port of the kernel's choice."""

    def __init__(self, files: ReplicaFiles, host: str, timeout: float) -> None:
        """Listen.

        :param timeout: seconds without any progress after which a connection is given up.
        :raises OSError: this is no address of the machine.
        """
        self.token = ""
        self._files = files
        self._timeout = timeout
        self._room = threading.BoundedSemaphore(_MOST_AT_ONCE)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=_MOST_AT_ONCE)
        port = self._listener.getsockname()[1]
        self.address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        threading.Thread(target=self._accept, name="resilient-replicas", daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if not self.token or not self._room.acquire(blocking=False):
                connection.close()
                continue
            threading.Thread(target=self._serve, args=(connection,), name="resilient-replica", daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(self._timeout)
            link, request = Link.accept(connection, self.token)
            self._give(link, request)
        except (OSError, ValueError) as error:  # the other side will ask again, or somebody else
            print(f"an image was not given: {error}", file=sys.stderr, flush=True)
        finally:
            connection.close()
            self._room.release()

    def _give(self, link: Link, request: Body) -> None:
        rank, step, replica_of = int(request["rank"]), int(request["step"]), str(request["set"])
        begun = None if request["begun"] is None else int(request["begun"])
        image = self._files.find(rank, step, replica_of=replica_of, begun=begun)
        if image is None:
            link.answer({"problem": f"rank {rank} has no image of step {step} here"})
            return
        found = SlotInfo.peek_with_meta(image.path)
        if found is None or not _is_still(image, found[0]):
            link.answer({"problem": "it was overwritten"})
            return
        info, meta = found
        link.answer({"size": info.size, "begun": info.begun, "chunk": CHUNK, "meta": untagged(meta)})
        with image.path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as memory:
            whole = memoryview(memory)
            view = whole[HEADER : HEADER + info.size]
            try:
                send_image(link.connection, file, view, HEADER)
            finally:
                view.release()
                whole.release()
        link.answer({"whole": True} if _unchanged(image) else {"problem": "it was overwritten meanwhile"})


def _unchanged(image: Image) -> bool:
    info = None
    with suppress(OSError):
        info = SlotInfo.peek(image.path)
    return info is not None and _is_still(image, info)


def _is_still(image: Image, info: SlotInfo) -> bool:
    return info.complete and (info.step, info.begun) == (image.step, image.begun)
