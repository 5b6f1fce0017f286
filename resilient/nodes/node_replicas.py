"""One node's part in peer memory: it does what the leader says with its own slots, its replicas and its helper.

Messages of the leader, each answered by one with ``peer_`` before its name, what it was about, and ``problem`` where it
could not be done:

=========== ===========================================================================================
``open``    say where this node's images can be had, and which there are
``lend``    the images of a step are to be copied: let the workers write them last
``pull``    copy images of other nodes' ranks here
``keep``    the images that were lent stay until there is another set, if they are still there
``settle``  the set counts; what is older may go (no answer)
``cancel``  nothing is lent or copied any more, and the set that counts still does (no answer)
``drop``    images of later steps than this one are none any more (no answer)
``fetch``   bring images of this node's ranks into their slots, while no worker is up
``resume``  all nodes have done so: these are the images that the run goes on from (no answer)
``abandon`` whoever fetches stands still: end it (no answer but that of the fetch)
=========== ===========================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from resilient.nodes.replica_fetch import Source
from resilient.nodes.replica_files import ReplicaFiles, Settled
from resilient.nodes.replicas import Done, Replicas, Wanted
from resilient.protocol.arena import Arena, Loan, Slot
from resilient.protocol.past import Past
from resilient.supervisor.memory import RunMemory

Message = dict[str, Any]

_MOST_DEATHS = 3  # of the helper in a row; then only what the leader wants starts it again


class NodeReplicas:
    """Acts on the memory of this node. It outlives leaders, and the memory of the ranks that the node has.

    :param directory: of the node's memory.
    :param spill: where slots lie for which there is no room in memory.
    :ivar send: takes the answers to the leader.
    :ivar before_lend: called before images are lent. What ranks have reported up to then has to be written down: when
        this node is lost, the run goes on behind that step, and nobody reports it again.
    """

    def __init__(self, directory: Path, replicas: Replicas, spill: Path | None = None) -> None:
        self._replicas = replicas
        self._files = ReplicaFiles(directory)
        self._spill = spill
        self.send: Callable[[Message], None] = lambda _message: None
        self.before_lend: Callable[[], None] = lambda: None
        self._memory: RunMemory | None = None
        self._token = ""
        self._asked: list[Message] = []  # what the helper is doing, the oldest first
        self._deaths = 0
        self._targets: dict[int, Slot] = {}  # where images were fetched to
        self._filled: dict[int, Mapping[str, Any]] = {}  # what was said of them, until the run goes on from them
        self.handlers: Mapping[str, Callable[[Message], None]] = {
            "open": self._open,
            "lend": self._lend,
            "pull": self._pull,
            "keep": self._keep,
            "settle": self._settle,
            "cancel": self._cancel,
            "drop": self._drop,
            "fetch": self._fetch,
            "resume": self._resume,
            "abandon": self._abandon,
        }

    @property
    def operations(self) -> list[str]:
        """What the leader's messages are called."""
        return [f"peer_{name}" for name in self.handlers]

    @property
    def pid(self) -> int:
        """Process number of the helper."""
        return self._replicas.pid

    def use(self, memory: RunMemory | None) -> None:
        """The node's ranks have their slots there; of a leader's, which knows all ranks, only those of this node count.

        :param memory: None while it has no ranks.
        """
        self._memory = memory
        self.adopt()

    def _arenas(self) -> dict[int, Arena]:
        return {} if self._memory is None else {rank: self._memory.arenas[rank] for rank in self._memory.ranks}

    def _slots(self) -> Iterator[Slot]:
        return (slot for arena in self._arenas().values() for slot in arena.slots)

    @property
    def connection(self) -> Any:
        """Readable when :meth:`receive` should be called."""
        return self._replicas.connection

    def adopt(self) -> None:
        """Keep what belongs to the set that counts; a predecessor may have been killed, and its loans ended."""
        record = self._files.settled()
        arenas = self._arenas()
        if record is None:
            return
        for rank, number in record.begun.items():
            for slot in arenas[rank].slots if rank in arenas else ():
                if slot.info().step == record.step:
                    slot.lend(Loan.KEPT, number)  # if it is the same image; there may be another of that step

    def hear(self, message: Message) -> None:
        """What the leader says; ``op`` is one of those above, with ``peer_`` before it."""
        self.handlers[str(message["op"]).removeprefix("peer_")](message)

    def poll(self) -> None:
        """Look after the helper. To be called often."""
        self._replicas.check()
        if self._asked and not self._replicas.busy:  # it was killed: it had been stopped, or hung
            self._give_up("the helper of peer memory did not answer")
        if self._token and not self._replicas.up and not self._asked and self._deaths < _MOST_DEATHS:
            self._deaths += 1
            self._serve({"op": "peer_open"})  # the leader has to know the new address

    def receive(self) -> None:
        """What the helper has to say."""
        done = self._replicas.receive()
        if done is not None:
            if done.answer:
                self._deaths = 0
            self._answer(self._asked.pop(0), done)

    def slots_of(self, step: int, ranks: Mapping[int, str]) -> dict[int, Slot] | None:
        """The images of a step that this node has of these ranks, its own or as replicas, for the drain to read; None
        if one is missing. They are the caller's to close.

        :param ranks: each with the set that its replica is of; empty for an image in the rank's own slots.
        """
        record = self._files.settled()
        begun = record.begun if record is not None and record.step == step else {}
        found = {
            rank: self._files.find(rank, step, replica_of=name, begun=None if name else begun.get(rank))
            for rank, name in ranks.items()
        }
        if any(image is None for image in found.values()):
            return None
        return {rank: Slot(image.path, 0) for rank, image in found.items() if image is not None}

    # --- what the leader wants

    def _open(self, message: Message) -> None:
        self._token = str(message["token"])
        self._replicas.cancel()
        self._serve(message)

    def _serve(self, message: Message) -> None:
        self._ask(message, lambda: self._replicas.serve(self._token))

    def _lend(self, message: Message) -> None:
        self.before_lend()
        arenas, begun = self._arenas(), {}
        for rank, arena in arenas.items():
            slot = arena.find(int(message["step"]))
            info = None if slot is None else slot.info()
            if slot is None or info is None or info.step != message["step"]:
                continue
            if slot.lend(Loan.KEPT if info.lent is Loan.KEPT else Loan.COPYING, info.begun):
                begun[str(rank)] = info.begun
        if not arenas or len(begun) != len(arenas):
            self._end_loans()
            self._reply(message, problem=f"not all ranks have an image of step {message['step']}")
        else:
            self._reply(message, begun=begun)

    def _pull(self, message: Message) -> None:
        sources = [Source.of(body) for body in message["images"]]
        rate = float(message["bytes_per_second"])
        pull = (sources, str(message["set"]), message["keep"])
        self._ask(message, lambda: self._replicas.pull(*pull, bytes_per_second=rate))

    def _keep(self, message: Message) -> None:
        begun = {int(rank): int(number) for rank, number in message["begun"].items()}
        if all(self._keeps(rank, int(message["step"]), number) for rank, number in begun.items()):
            self._reply(message)
        else:
            self._reply(message, problem="an image was overwritten before all copies of its step were complete")

    def _keeps(self, rank: int, step: int, begun: int) -> bool:
        arena = self._arenas().get(rank)
        slot = None if arena is None else arena.find(step)
        return slot is not None and slot.lend(Loan.KEPT, begun)

    def _settle(self, message: Message) -> None:
        record = Settled.of(message["record"])
        self._files.settle(record)
        mine = {int(rank) for rank in message["replicas"]}
        self._files.drop(lambda image: image.set == record.set or image.rank in mine)
        self._end_loans()

    def _cancel(self, _message: Message) -> None:
        self._replicas.cancel()
        self._end_loans()

    def _drop(self, message: Message) -> None:
        record, after = self._files.settled(), int(message["after"])
        if record is not None and record.step > after:
            self._files.settle(None)
        self._end_loans()
        self._files.drop(lambda image: image.step <= after)

    def _end_loans(self) -> None:
        """All but those of the set that counts."""
        record = self._files.settled()
        for slot in self._slots():
            info = slot.info()
            if info.lent is not Loan.NONE and (record is None or info.step != record.step):
                slot.lend(Loan.NONE, info.begun)

    def _fetch(self, message: Message) -> None:
        step, arenas = int(message["step"]), self._arenas()
        self._replicas.cancel()
        if self._memory is None or any(int(body["rank"]) not in arenas for body in message["images"]):
            self._reply(message, problem="it does not have these ranks")
            return
        self._memory.keep_linked()
        arenas = self._arenas()
        images = []
        for body in message["images"]:
            arena = arenas[int(body["rank"])]
            arena.void_growing()
            slot = arena.next_free(lambda info: info.step == step) or arena.next_free() or arena.slots[0]
            sources = [Source.of(source) for source in body["sources"]]
            own = body["own"] and arena.find(step) is not None
            images.append(Wanted(int(body["rank"]), str(slot.path), str(body["root"]), own, sources))
            self._targets[int(body["rank"])] = slot
        self._filled = {}
        self._ask(message, lambda: self._replicas.fetch(step, images, self._spill))

    def _resume(self, message: Message) -> None:
        sequence = 1 + max((slot.info().sequence for slot in self._slots()), default=0)
        for rank, arena in self._arenas().items():
            for slot in arena.slots:
                fetched = rank in self._filled
                other = slot is not self._targets[rank] if fetched else slot.info().step != message["step"]
                if other and not slot.info().held:
                    slot.void()  # the run goes on from there, and from that image
        if self._memory is not None:
            self._memory.mark(Past.from_json(message["past"]))
        for rank, meta in self._filled.items():
            self._targets[rank].complete(sequence, meta, hold=False)
        self._filled = {}
        record = self._files.settled()
        if record is not None and record.step == message["step"] and record.set == message["set"]:
            found = {rank: arena.find(record.step) for rank, arena in self._arenas().items()}
            begun = {rank: slot.info().begun for rank, slot in found.items() if slot is not None}
            self._files.settle(replace(record, begun=begun))
        self.adopt()

    def _abandon(self, _message: Message) -> None:
        self._replicas.restart()
        self.poll()

    # --- what comes of it

    def _ask(self, message: Message, request: Callable[[], None]) -> None:
        self._asked.append(message)
        request()

    def _answer(self, message: Message, done: Done) -> None:
        if done.problem:
            self._reply(message, problem=done.problem, damaged=done.damaged)
            return
        known = {name: value for name, value in done.answer.items() if name != "op"}
        if done.op == "serve":
            known.update(self._state())
        if done.op == "fetch":
            self._filled = {int(rank): meta for rank, meta in known.pop("filled").items()}
        self._reply(message, **known)

    def _state(self) -> Message:
        record = self._files.settled()
        images = [[image.rank, image.step, image.begun, image.set] for image in self._files.images()]
        past = Past.read(self._files.directory)
        told = {
            "record": None if record is None else record.to_json(),
            "past": None if past is None else past.to_json(),
        }
        return {"images": images, **told}

    def _give_up(self, problem: str) -> None:
        asked, self._asked = self._asked, []
        for message in asked:
            self._reply(message, problem=problem)

    def _reply(self, message: Message, **body: Any) -> None:
        about: Message = {name: message[name] for name in ("set", "step", "attempt") if name in message}
        self.send({**about, **body, "op": message["op"]})

    def close(self) -> None:
        self._replicas.close()
