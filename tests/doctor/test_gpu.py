"""GPUs: what nvidia-smi prints on real machines, from a program of that name on PATH."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from resilient.doctor import nvidia
from resilient.doctor.examination import examine
from resilient.doctor.finding import Level
from resilient.doctor.gpu import judge_driver, judge_health, judge_torch, judge_visible
from resilient.doctor.program import Answer
from resilient.doctor.world import World
from resilient.supervisor.settings import WorkerSettings
from tests.doctor.worlds import check, look, subject

TWO = """\
0, GPU-3e1b4c55-0d3b-8f0c-6d0c-0a3c4f7b1a11, NVIDIA H100 80GB HBM3, 81559, 4, 0, Default
1, GPU-9f21a7d0-5c8e-11d2-b4a6-77c1b2d3e4f5, NVIDIA H100 80GB HBM3, 81559, 4, 0, Default
"""
GEFORCE = "0, GPU-1c2d3e4f-aaaa-bbbb-cccc-0123456789ab, NVIDIA GeForce RTX 3090, 24576, 410, [N/A], Default\n"
NO_DRIVER = (
    "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. Make sure that the latest NVIDIA "
    "driver is installed and running.\n"
)
MISMATCH = "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.161\n"
LOST_CONTAINER = "Failed to initialize NVML: Unknown Error\n"
LOST = (
    "Unable to determine the device handle for GPU 0000:02:00.0: GPU is lost.  Reboot the system to recover this GPU\n"
)
XID = "NVRM: Xid (PCI:0000:3b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus."

Smi = Callable[..., Mapping[str, str]]


@pytest.fixture
def smi(tmp_path: Path) -> Smi:
    """Puts an nvidia-smi on PATH that prints and exits as it is told; returns the environment."""

    def put(output: str = "", code: int = 0, body: str = "") -> Mapping[str, str]:
        place = tmp_path / "bin"
        place.mkdir()
        (place / "said").write_text(output)
        (place / "nvidia-smi").write_text(f"#!/bin/sh\n{body}\ncat {place}/said\nexit {code}\n")
        (place / "nvidia-smi").chmod(0o755)
        return {**os.environ, "PATH": f"{place}:{os.environ['PATH']}"}

    return put


def test_gpus_as_they_are_listed(smi: Smi) -> None:
    finding = look(check("gpu.driver"), World(environment=smi(TWO)))
    assert (finding.level, finding.sentence) == (Level.OK, "2 × NVIDIA H100 80GB HBM3")


def test_a_gpu_without_ecc(smi: Smi) -> None:
    (gpu,) = nvidia.parse(GEFORCE)
    assert (gpu.total, gpu.used, gpu.errors) == (24576, 410, None)
    assert look(check("gpu.health"), World(environment=smi(GEFORCE), kernel_log=Path("/none"))).level is Level.OK


@pytest.mark.parametrize(
    ("said", "code", "remedy"),
    [
        (NO_DRIVER, 9, "not loaded"),
        (MISMATCH, 18, "restarted"),
        (LOST_CONTAINER, 255, "daemon-reload"),
        (LOST, 15, "fallen off the bus"),
        ("No devices were found\n", 6, "--gres=gpu"),
        ("Segmentation fault\n", 139, "run nvidia-smi"),
    ],
)
def test_a_driver_that_does_not_work(smi: Smi, said: str, code: int, remedy: str) -> None:
    finding = look(check("gpu.driver"), World(environment=smi(said, code)))
    assert finding.level is Level.PROBLEM
    assert said.splitlines()[0] in finding.sentence
    assert remedy in finding.next_step


def test_a_driver_that_hangs(smi: Smi) -> None:
    finding = look(replace(check("gpu.driver"), seconds=1.0), World(environment=smi(body="exec sleep 600")))
    assert (finding.level, "hangs" in finding.sentence) == (Level.PROBLEM, True)


def test_no_gpu_is_a_note(tmp_path: Path) -> None:
    world = World(environment={"PATH": str(tmp_path)}, devices=tmp_path)
    assert look(check("gpu.driver"), world).level is Level.NOTE
    assert examine([check("gpu.health"), check("gpu.visible")], world) == []
    (tmp_path / "nvidiactl").touch()
    assert "no nvidia-smi" in look(check("gpu.driver"), world).sentence


def test_more_ranks_than_gpus(smi: Smi, tmp_path: Path) -> None:
    examined = subject(tmp_path, WorkerSettings(script="train.py", ranks=8))
    finding = look(check("gpu.driver"), World(examined, environment=smi(TWO)))
    assert (finding.level, "8 ranks" in finding.sentence) == (Level.WARNING, True)


def test_a_gpu_that_is_used_or_closed() -> None:
    gpus = nvidia.parse(TWO)
    assert judge_driver([gpus[0], replace(gpus[1], used=70000)], 2).level is Level.WARNING
    assert judge_driver([gpus[0], replace(gpus[1], compute_mode="Prohibited")], 2).level is Level.PROBLEM
    assert judge_driver([], 1).level is Level.PROBLEM


def test_errors_and_faults_of_gpus(tmp_path: Path, smi: Smi) -> None:
    gpus = nvidia.parse(TWO)
    assert judge_health(gpus, []).level is Level.OK
    assert "GPU 1" in judge_health([gpus[0], replace(gpus[1], errors=3)], []).sentence
    (tmp_path / "kmsg").write_text(f"6,1,2,-;usb 1-1: new device\n3,2,3,-;{XID}\n")
    finding = look(check("gpu.health"), World(environment=smi(TWO), kernel_log=tmp_path / "kmsg"))
    assert (finding.level, XID in finding.sentence) == (Level.WARNING, True)


@pytest.mark.parametrize(
    ("value", "level"),
    [
        (None, Level.OK),
        ("0,1", Level.OK),
        ("1,GPU-3e1b4c55", Level.OK),
        ("MIG-1c2d3e4f,0", Level.OK),
        ("", Level.PROBLEM),
        ("-1", Level.PROBLEM),
        ("0,7", Level.PROBLEM),
        ("GPU-ffff,0", Level.PROBLEM),
        ("0,0", Level.PROBLEM),
        ("1", Level.WARNING),
    ],
)
def test_visible_devices(value: str | None, level: Level) -> None:
    assert judge_visible(value, nvidia.parse(TWO), ranks=2).level is level


def test_the_configuration_may_set_what_is_visible(smi: Smi, tmp_path: Path) -> None:
    examined = subject(tmp_path, WorkerSettings(script="train.py", env={"CUDA_VISIBLE_DEVICES": "5"}))
    world = World(examined, environment={**smi(TWO), "CUDA_VISIBLE_DEVICES": "0"})
    assert "no GPU 5" in look(check("gpu.visible"), world).sentence


OLD_DRIVER = (
    "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\n"
    "  return torch._C._cuda_getDeviceCount() > 0\n"
)


@pytest.mark.parametrize(
    ("answer", "has_gpus", "level"),
    [
        (Answer(0, '["2.6.0+cu124", "12.4", true, 8]\n', ""), True, Level.OK),
        (Answer(0, '["2.6.0+cpu", null, false, 0]\n', ""), False, Level.NOTE),
        (Answer(0, '["2.6.0+cpu", null, false, 0]\n', ""), True, Level.PROBLEM),
        (Answer(0, '["2.6.0+cu124", "12.4", false, 0]\n', OLD_DRIVER), True, Level.PROBLEM),
        (Answer(1, "", "ImportError: libcudnn.so.9: cannot open shared object file\n"), True, Level.PROBLEM),
        (Answer(-11, "", ""), False, Level.PROBLEM),
    ],
)
def test_what_torch_says_of_itself(answer: Answer, has_gpus: bool, level: Level) -> None:
    assert judge_torch(answer, has_gpus=has_gpus).level is level


def test_torch_is_really_asked() -> None:
    finding = look(check("gpu.torch"), World())
    asked = [sys.executable, "-c", "import torch; print(torch.__version__)"]
    version = subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()
    assert f"torch {version}" in finding.sentence


def test_a_torch_that_cannot_be_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('libtorch_cpu.so: cannot enable executable stack')")
    finding = look(check("gpu.torch"), World(environment={**os.environ, "PYTHONPATH": str(tmp_path)}))
    assert (finding.level, "executable stack" in finding.sentence) == (Level.PROBLEM, True)
