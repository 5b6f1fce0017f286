"""Which other devices there are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resilient.protocol.environment import PLACE
from resilient.verify.places import Surroundings, elsewhere, graphics_devices

ONE: dict[str, Any] = {"worker": {"ranks": 1}}


def other(
    tree: dict[str, Any], environ: dict[str, str], gpus: int = 0, cores: tuple[int, ...] = (0, 1, 2, 3)
) -> Surroundings | None:
    return elsewhere(tree, environ, lambda: [str(number) for number in range(gpus)], cores)


@pytest.mark.parametrize(
    ("environ", "gpus", "rotated"),
    [
        ({}, 4, "1,2,3,0"),
        ({"CUDA_VISIBLE_DEVICES": "2,5"}, 8, "5,2"),
        ({"CUDA_VISIBLE_DEVICES": " GPU-a, GPU-b "}, 8, "GPU-b,GPU-a"),
    ],
)
def test_each_rank_takes_its_neighbours_gpu(environ: dict[str, str], gpus: int, rotated: str) -> None:
    found = other(ONE, environ, gpus)
    assert found is not None
    assert found.environment == {PLACE: "elsewhere", "CUDA_VISIBLE_DEVICES": rotated}
    assert found.overrides == ()
    assert not found.cores


def test_devices_that_the_configuration_names_are_rotated_there() -> None:
    found = other({"worker": {"env": {"CUDA_VISIBLE_DEVICES": "0,1"}}}, {"CUDA_VISIBLE_DEVICES": "7"}, 8)
    assert found is not None
    assert found.overrides == ("worker.env.CUDA_VISIBLE_DEVICES='1,0'",)


@pytest.mark.parametrize(("environ", "gpus"), [({}, 1), ({"CUDA_VISIBLE_DEVICES": "3"}, 4)])
def test_with_one_gpu_there_is_no_other_and_cores_do_not_count(environ: dict[str, str], gpus: int) -> None:
    assert other(ONE, {**environ, "OMP_NUM_THREADS": "1"}, gpus) is None


@pytest.mark.parametrize("visible", ["", "-1"])
def test_without_a_gpu_it_is_other_cores(visible: str) -> None:
    found = other(ONE, {"CUDA_VISIBLE_DEVICES": visible, "OMP_NUM_THREADS": "2"}, 4)
    assert found is not None
    assert found.cores == {2, 3}
    assert found.environment == {PLACE: "elsewhere"}


@pytest.mark.parametrize(
    ("tree", "environ", "cores"),
    [
        (ONE, {}, (0, 1, 2, 3)),
        (ONE, {"OMP_NUM_THREADS": "many"}, (0, 1, 2, 3)),
        (ONE, {"OMP_NUM_THREADS": "0"}, (0, 1, 2, 3)),
        (ONE, {"OMP_NUM_THREADS": "3"}, (0, 1, 2, 3)),
        (ONE, {"OMP_NUM_THREADS": "1"}, (0,)),
        ({"worker": {"ranks": 2}}, {}, (0, 1, 2)),
    ],
)
def test_cores_are_only_others_where_the_same_number_of_threads_has_room(
    tree: dict[str, Any], environ: dict[str, str], cores: tuple[int, ...]
) -> None:
    assert other(tree, environ, cores=cores) is None


def test_ranks_have_one_thread_each_unless_the_configuration_says_otherwise() -> None:
    found = other({"worker": {"ranks": 2}}, {}, cores=(3, 5, 7, 9))
    assert found is not None
    assert found.cores == {7, 9}
    assert other({"worker": {"ranks": 2, "env": {"OMP_NUM_THREADS": 2}}}, {}, cores=(3, 5, 7, 9)) is None
    found = other({"worker": {"env": {"OMP_NUM_THREADS": 1}}}, {}, cores=(0, 1, 2))
    assert found is not None
    assert found.cores == {2}


def test_devices_are_counted_by_their_files(tmp_path: Path) -> None:
    assert graphics_devices(tmp_path) == []
    for name in ("nvidia10", "nvidia2", "nvidia0", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert graphics_devices(tmp_path) == ["0", "2", "10"]
