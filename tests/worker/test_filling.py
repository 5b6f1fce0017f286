"""Filling tensors from a snapshot: any part of what is stored, across chunks, in any order and type."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from resilient.drill.faults import flip_bit
from resilient.errors import SnapshotCorrupt
from resilient.protocol import names
from resilient.protocol.arena import Arena
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.copies import LocalCopy
from resilient.snapshot.hashing import CHUNK
from resilient.snapshot.lying import Images, Lying
from resilient.snapshot.storage import Storage
from resilient.worker.capture import Capture
from resilient.worker.filling import Box, Wanted, fill


class _Box:
    """Its second tensor lies in two chunks of the image."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.state = {
            "a": torch.randn(CHUNK // 8, 2, generator=generator)[: CHUNK // 8 - 1000],
            "b": torch.randn(200, 50, 3, generator=generator),
            "c": torch.tensor(3.5),
            "d": torch.arange(7, dtype=torch.uint8),
            "e": torch.empty(0, 4),
        }

    def state_dict(self) -> dict[str, torch.Tensor]:
        return self.state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder, box, arena = tmp_path_factory.mktemp("filling"), _Box(), Arena.private(1)
    Capture({"box": box}, allow_pickle=False).write(arena.slots[0], 1)
    commit(Storage(), folder, Draft("demo", 1, 0, {0: arena.slots[0].image}))
    arena.close()
    return folder / names.snapshot_name(1), box.state


def _lying(copy: LocalCopy, name: str) -> Lying:
    return Images(copy).open(copy.manifest.files[0]).tensors[f"box.{name}"]


@pytest.mark.parametrize("shared", [False, True])
def test_every_part_comes_to_its_place(snapshot: tuple[Path, dict[str, torch.Tensor]], *, shared: bool) -> None:
    path, stored = snapshot
    copy = LocalCopy(path, shared=shared)
    place = _lying(copy, "b").place
    assert place.offset < CHUNK < place.end, "it lies in two chunks"
    cuts = [
        ("b", (0, 0, 0), (200, 50, 3)),
        ("b", (17, 0, 0), (120, 50, 3)),
        ("b", (3, 7, 1), (190, 20, 2)),  # in many pieces
        ("b", (199, 49, 2), (1, 1, 1)),
        ("a", (CHUNK // 8 - 1100, 1), (50, 1)),
        ("c", (), ()),
        ("d", (2,), (4,)),
        ("e", (0, 0), (0, 4)),
    ]
    wanted, expected = [], []
    for name, offsets, shape in cuts:
        part = stored[name][tuple(slice(first, first + length) for first, length in zip(offsets, shape, strict=True))]
        for target in (
            torch.zeros(shape, dtype=part.dtype),
            torch.zeros((*shape, 2), dtype=part.dtype)[..., 0],  # with gaps
            torch.zeros(shape, dtype=torch.float64),
        ):
            wanted.append(Wanted(_lying(copy, name), Box(offsets, shape), target))
            expected.append(part)
    assert sorted(fill(copy, wanted)) == list(range(len(wanted)))
    for each, part in zip(wanted, expected, strict=True):
        assert torch.equal(each.target, part.to(each.target.dtype))


def test_what_is_damaged_fills_nothing(snapshot: tuple[Path, dict[str, torch.Tensor]]) -> None:
    path, stored = snapshot
    copy, target = LocalCopy(path), torch.zeros(200, 50, 3)
    flip_bit(path / copy.manifest.files[0].name, 1000 * 4096)
    with pytest.raises(SnapshotCorrupt, match="checksum mismatch in bytes 0 to"):
        list(fill(copy, [Wanted.whole(_lying(copy, "b"), target)]))
    assert not target.any()
    flip_bit(path / copy.manifest.files[0].name, 1000 * 4096)
    assert list(fill(copy, [Wanted.whole(_lying(copy, "b"), target)])) == [0]
    assert torch.equal(target, stored["b"])
