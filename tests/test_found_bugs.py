"""What mutation and inspection found in the lower layers once; each test is the smallest case that showed it."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resilient.errors import ExitCode, SnapshotCorrupt, SnapshotError, StateError, UsageError
from resilient.policy import decisions as do
from resilient.policy import events as on
from resilient.policy.machine import decide
from resilient.policy.state import PolicySettings, RunState
from resilient.protocol.arena import Arena
from resilient.protocol.board import Metrics
from resilient.protocol.metrics_log import Entry, MetricsLog, read_metrics
from resilient.protocol.names import snapshot_name, snapshot_step
from resilient.snapshot import catalog, tree
from resilient.snapshot import manifest as manifests
from resilient.snapshot.commit import Draft, commit, remove_leftovers
from resilient.snapshot.hashing import digest
from resilient.snapshot.image import STATE, Layout, TensorSpec
from resilient.snapshot.storage import Storage
from resilient.supervisor import drain_process
from resilient.worker.capture import Capture, restore
from resilient.worker.data import positioned
from resilient.worker.leaves import TensorSource
from resilient.worker.reporting import Reporter


class Box:
    def __init__(self, state: Any = None) -> None:
        self.state = state

    def state_dict(self) -> Any:
        return self.state

    def load_state_dict(self, state: Any) -> None:
        self.state = state


def through_capture(value: Any) -> Any:
    arena = Arena.private(2)
    slot = arena.slots[0]
    Capture({"box": Box({"value": value, "anchor": torch.zeros(1)})}, allow_pickle=False).write(slot, 1)
    slot.complete(1, {}, hold=False)
    found = Box()
    restore(slot.image, {"box": found}, allow_pickle=False)
    return found.state["value"]


def build(*specs: TensorSpec) -> bytes:
    layout = Layout.plan(specs, 2)
    image = bytearray(layout.size)
    image[: len(layout.header)] = layout.header
    image[layout.state.offset : layout.state.end] = b"{}".ljust(layout.state.spec.size)
    return bytes(image)


def raw(text: bytes, data: bytes = b"x") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


def no_leaf(path: str, value: Any) -> None:
    return None


def no_tag(tag: str, payload: Any) -> Any:
    raise SnapshotCorrupt(tag)


def story(*events: on.Event, ranks: int = 1) -> tuple[RunState, tuple[do.Decision, ...]]:
    state, decisions = RunState(settings=PolicySettings(ranks=ranks)), ()
    for event in events:
        state, decisions = decide(state, event, 0.0)  # type: ignore[assignment]
    return state, decisions


# --- A1


def test_a1_two_empty_tensors_in_an_image() -> None:
    """tests/snapshot/test_image.py; then also let its SPECS draw shapes from integers(0, 5)."""
    parsed = Layout.parse(build(TensorSpec("a", "F32", (0,)), TensorSpec("b", "F32", (0, 3))))
    assert parsed.tensors["b"].spec.shape == (0, 3)


def test_a1_two_empty_tensors_in_a_state() -> None:
    """tests/worker/test_leaves.py"""
    found = through_capture({"a": torch.empty(0), "b": torch.empty(3, 0)})
    assert [tuple(found[name].shape) for name in "ab"] == [(0,), (3, 0)]


# --- A2


def test_a2_a_run_all_of_whose_snapshots_were_quarantined_does_not_start_over_at_the_next_start() -> None:
    """tests/policy/test_machine.py"""
    _, decisions = story(on.RunOpened(), on.SnapshotsListed(quarantined=2))
    assert isinstance(decisions[0], do.EndRun)
    assert decisions[0].exit_code is ExitCode.NO_SNAPSHOT


def test_a2_nor_does_a_plain_script(tmp_path: Path) -> None:
    """tests/run/test_standalone.py"""
    script = tmp_path / "train.py"
    script.write_text(
        "import torch, resilient\n"
        "model = torch.nn.Linear(2, 2)\n"
        "run = resilient.attach(model=model, run_id='x', snapshot=resilient.SnapshotSettings(every_steps=2))\n"
        "for step, _ in run.steps(total=4): pass\n"
    )

    def train() -> int:
        return subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=False, capture_output=True).returncode

    assert train() == 0
    for image in tmp_path.glob("runs/x/snapshots/step-*/rank-*"):
        image.write_bytes(b"damaged")
    assert train() != 0
    assert train() != 0, "the second start must not begin from scratch in silence"


# --- A7


class Counting:
    """A loader with a state of its own, as in tests/worker/test_data.py."""

    def __init__(self) -> None:
        self.position = 0

    def __iter__(self) -> Iterator[int]:
        while self.position < 4:
            self.position += 1
            yield self.position - 1
        self.position = 0

    def state_dict(self) -> dict[str, int]:
        return {"position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        self.position = state["position"]


def consume(loader: Any, count: int, state: Mapping[str, Any] | None = None) -> tuple[list[Any], Any]:
    data = positioned(loader, 5)
    if state is not None:
        data.load_state_dict(state)
    batches = [
        batch.tolist() if isinstance(batch, torch.Tensor) else batch
        for batch in islice(data.batches(lambda: None), count)
    ]
    return batches, data.state_dict()


def test_a7_a_stateful_loader_is_resumed_at_the_end_of_its_first_epoch() -> None:
    """tests/worker/test_data.py: lives (10, 5) of test_a_stateful_loader_is_resumed_by_its_own_state."""
    _, state = consume(Counting(), 4)
    assert consume(Counting(), 3, state)[0] == [0, 1, 2]


# --- A8: the end of the script


@pytest.mark.parametrize("overlap", [True, False])
def test_a8_a_script_that_ends_early_ends_cleanly_and_its_last_snapshot_is_whole(tmp_path: Path, overlap: bool) -> None:
    """tests/run/test_standalone.py"""
    script = tmp_path / "train.py"
    script.write_text(
        "import sys, torch, resilient\n"
        "model = torch.nn.Linear(8000, 6000)\n"
        "optimizer = torch.optim.SGD(model.parameters(), 0.1)\n"
        f"settings = resilient.SnapshotSettings(every_steps=2, overlap={overlap})\n"
        "run = resilient.attach(model=model, optimizer=optimizer, run_id='x', snapshot=settings)\n"
        "for step, _ in run.steps(total=4):\n"
        "    if step == 3: sys.exit(3)\n"
    )
    done = subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=False, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert catalog.committed_steps(tmp_path / "runs/x/snapshots") == (2,), done.stderr


# --- A10


def _two_ranks(directory: Path) -> None:
    commit(Storage(), directory, Draft("x", 5, 0, {rank: memoryview(b"image") for rank in (0, 1)}))


def test_a10_a_whole_snapshot_of_another_number_of_ranks_is_not_set_aside_as_corrupt(tmp_path: Path) -> None:
    """tests/supervisor. Starting a run with another number of workers sets aside all its snapshots, one by one."""
    snapshots, memory = tmp_path / "snapshots", tmp_path / "memory"
    snapshots.mkdir()
    memory.mkdir()
    _two_ranks(snapshots)
    slot = Arena.shared(memory, 0, 2).slots[0]
    with suppress(SnapshotError):
        drain_process.restore(Storage(), snapshots, {"step": 5, "slots": {"0": str(slot.path)}, "sequence": 1})
    assert catalog.committed_steps(snapshots) == (5,)


def test_a10_nor_by_a_plain_script(tmp_path: Path) -> None:
    """tests/run/test_standalone.py"""
    snapshots = tmp_path / "runs" / "x" / "snapshots"
    snapshots.mkdir(parents=True)
    _two_ranks(snapshots)
    script = "import resilient, torch; resilient.attach(model=torch.nn.Linear(2, 2), run_id='x')"
    assert (
        subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=False, capture_output=True).returncode == 1
    )
    assert catalog.committed_steps(snapshots) == (5,)


# --- B1


@pytest.mark.parametrize("field", ['"shape":[1e999],"data_offsets":[0,1]', '"shape":[1],"data_offsets":[0,Infinity]'])
def test_b1_an_infinite_number_in_a_header_is_corrupt(field: str) -> None:
    """tests/snapshot/test_image.py; then drop allow_infinity=False from its JSON strategy."""
    with pytest.raises(SnapshotCorrupt):
        Layout.parse(raw(f'{{"a":{{"dtype":"U8",{field}}}}}'.encode()))


@pytest.mark.parametrize("field", ['"shape":[1.9],"data_offsets":[0,1]', '"shape":"1","data_offsets":["0","1"]'])
def test_b1_a_number_that_is_no_integer_is_corrupt(field: str) -> None:
    """tests/snapshot/test_image.py"""
    with pytest.raises(SnapshotCorrupt):
        Layout.parse(raw(f'{{"a":{{"dtype":"U8",{field}}}}}'.encode()))


# --- B3


@pytest.mark.parametrize(
    "value",
    [
        np.array([1j]),
        np.array([1.0], dtype=">f4"),
        np.ma.array([1, 2], mask=[False, True]),
        torch.empty(2, device="meta"),
        np.str_(""),
    ],
    ids=["complex128", "big endian", "masked", "meta", "empty text"],
)
def test_b3_what_cannot_come_back_as_it_was_is_refused_by_its_path(value: Any) -> None:
    """tests/worker/test_leaves.py (an empty np.str_ is captured and then cannot be restored)"""
    with pytest.raises(StateError, match=r"box\.value"):
        through_capture(value)


# --- B4


@pytest.mark.parametrize(
    "wrap", [lambda value: OrderedDict(a=value), lambda value: OrderedDict({1: value})], ids=["text", "numbers"]
)
def test_b4_whatever_can_be_encoded_can_be_decoded(wrap: Any) -> None:
    """tests/snapshot/test_tree.py"""
    value: Any = 1
    for depth in range(250):  # noqa: B007  how deep it came is what is asserted
        value = wrap(value)
        try:
            encoded = tree.dumps(tree.encode(value, no_leaf))
        except StateError:
            break
        decoded = tree.decode(json.loads(encoded), no_tag)
    assert depth >= 49
    assert decoded


@pytest.mark.parametrize("body", [{"$complex": []}, {"$complex": ["1"]}, {"$float": 10**400}], ids=str)
def test_b4_a_malformed_payload_is_corrupt(body: Any) -> None:
    """tests/snapshot/test_tree.py"""
    with pytest.raises(SnapshotCorrupt):
        tree.decode(body, no_tag)


# --- B5


@pytest.mark.parametrize(("tag", "payload"), [("$dtype", "nonsense"), ("$device", "nonsense")])
def test_b5_a_malformed_leaf_is_corrupt(tag: str, payload: str) -> None:
    """tests/worker/test_leaves.py"""
    image = memoryview(bytearray(build()))
    with pytest.raises(SnapshotCorrupt):
        TensorSource(image, Layout.parse(image))(tag, payload)


# --- B6


def test_b6_what_is_written_after_a_torn_line_is_read(tmp_path: Path) -> None:
    """tests/protocol/test_metrics_log.py"""
    path = tmp_path / "host.jsonl"
    for step in (1, 2):
        log = MetricsLog(path)
        log.write([Entry(0, 0, Metrics(step, 0.0, {"loss": 1.0}))])
        log.close()
        if step == 1:
            path.write_bytes(path.read_bytes() + b'{"round": 0, "ra')
    assert [entry.metrics.step for entry in read_metrics(path)] == [1, 2]


# --- B7


def test_b7_a_capture_whose_slot_is_closed_does_not_bring_the_process_down() -> None:
    """tests/worker/test_capture.py"""
    script = (
        "import torch\n"
        "from resilient.protocol.arena import Arena\n"
        "from resilient.worker.capture import Capture\n"
        "arena = Arena.private(2)\n"
        "box = torch.nn.Linear(500, 500)\n"
        "capture = Capture({'box': box}, allow_pickle=False)\n"
        "capture.write(arena.slots[0], 1)\n"
        "views = capture._views[0][2]\n"
        "arena.close()\n"
        "print(float(views[0].sum()))\n"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False, capture_output=True).returncode == 0


# --- B8


class BrokenStorage(Storage):
    """The directory's flush fails, as with a flaky network disk."""

    def sync_directory(self, path: Path) -> None:
        raise OSError(5, "Input/output error")


def test_b8_a_commit_that_fails_for_whatever_reason_leaves_nothing(tmp_path: Path) -> None:
    """tests/snapshot/test_commit.py. The drain tries five times, for every snapshot: five copies each are left now."""
    for _ in range(5):
        with pytest.raises(OSError, match="Input/output"):
            commit(BrokenStorage(), tmp_path, Draft("x", 1, 0, {0: memoryview(b"image")}))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".tmp-")] == []


# --- B9


@pytest.mark.parametrize("name", ["step-0000000001", "step-٠٠٠٠٠٠٠٠١"])
def test_b9_only_the_name_that_we_give_is_the_name_of_a_step(name: str) -> None:
    """tests/protocol/test_names.py. committed_steps() lists step 1, but step-000000001 does not exist."""
    assert snapshot_step(name) is None


# --- B12


@pytest.mark.parametrize("value", [torch.tensor(1j), 10**400], ids=["complex", "huge"])
def test_b12_what_is_no_number_is_refused_when_it_is_reported(value: Any) -> None:
    """tests/worker/test_reporting.py"""
    with pytest.raises(UsageError):
        Reporter().add(1, {"loss": value})


# --- B14


def test_b14_every_incident_is_recorded() -> None:
    """tests/policy/test_machine.py"""
    state, decisions = story(
        on.RunOpened(), on.SnapshotsListed(), on.WorkerExited(0, 9, finished=True), on.WorkerExited(1, 9), ranks=2
    )
    assert state.incidents == sum(isinstance(decision, do.RecordIncident) for decision in decisions)


# --- B15


def test_b15_a_manifest_without_a_format_is_corrupt() -> None:
    """tests/snapshot/test_manifest.py"""
    body: dict[str, Any] = {"version": 1}
    data = json.dumps({**body, "manifest_xxh3_128": digest(manifests._dump(body))}).encode()
    with pytest.raises(SnapshotCorrupt):
        manifests.Manifest.from_bytes(data)


# --- B17


def test_b17_a_swap_cut_short_is_repaired_for_any_step(tmp_path: Path) -> None:
    """tests/snapshot/test_commit.py"""
    step = 1234567890
    commit(Storage(), tmp_path, Draft("x", step, 0, {0: memoryview(b"image")}))
    (tmp_path / snapshot_name(step)).rename(tmp_path / f".tmp-{snapshot_name(step)}-abcd1234.aside")
    remove_leftovers(Storage(), tmp_path)
    assert catalog.committed_steps(tmp_path) == (step,)


def test_b17_a_link_left_half_made_is_a_leftover(tmp_path: Path) -> None:
    """tests/snapshot/test_commit.py"""
    (tmp_path / ".latest.12345").symlink_to("step-000000001")
    remove_leftovers(Storage(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_b17_latest_names_a_snapshot_that_is_there(tmp_path: Path) -> None:
    """tests/snapshot/test_catalog.py"""
    for step in (1, 2):
        commit(Storage(), tmp_path, Draft("x", step, 0, {0: memoryview(b"image")}))
    catalog.quarantine(Storage(), tmp_path / "step-000000002")
    assert (tmp_path / "latest").resolve().exists()


# --- B18, B20


def test_b18_a_foreign_file_in_a_slots_place(tmp_path: Path) -> None:
    """tests/protocol/test_arena.py"""
    (tmp_path / "rank-00000.slot-0").write_bytes(b"\xff" * 10_000)
    arena = Arena.shared(tmp_path, 0, 2)
    slot = arena.next_free()
    assert slot is not None
    slot.begin(1, 4)
    slot.complete(arena.next_sequence(), {}, hold=False)


def test_b20_a_tensor_cannot_take_the_states_place() -> None:
    """tests/snapshot/test_image.py or test_capture.py: attach(resilient=…) with a tensor called state."""
    slot = Arena.private(2).slots[0]
    with pytest.raises(StateError):
        Capture({"resilient": Box({"state": torch.ones(3)})}, allow_pickle=False).write(slot, 1)
    assert STATE == "resilient.state"
