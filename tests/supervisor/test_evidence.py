"""What the supervisor gathers about a failure: cgroup, kernel log, memory curve, error files, logs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resilient.policy.failures import FailureClass, classify
from resilient.protocol.launch import WorkerError
from resilient.protocol.paths import RunPaths
from resilient.protocol.torch_error import read_torch_error
from resilient.supervisor import processes
from resilient.supervisor.cgroup import MemoryCgroup
from resilient.supervisor.incident_files import IncidentFiles, tail
from resilient.supervisor.kernel_log import KernelLog
from resilient.supervisor.memory_curve import MemoryCurve
from resilient.supervisor.surroundings import surroundings, variables
from resilient.supervisor.witness import Witness

# --- cgroups, in the real formats of both versions

EVENTS = "low 0\nhigh 12\nmax 40\noom 3\noom_kill {}\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_version_2_is_read_where_the_process_is(tmp_path: Path) -> None:
    me = write(tmp_path / "cgroup", "0::/user.slice/job_7\n")
    place = tmp_path / "mount" / "user.slice" / "job_7"
    events = write(place / "memory.events", EVENTS.format(2))
    write(place / "memory.current", "1048576\n")
    write(place / "memory.max", "2097152\n")
    cgroup = MemoryCgroup(me, tmp_path / "mount")
    assert cgroup.oom_kills() == 2
    events.write_text(EVENTS.format(3))
    assert cgroup.oom_kills() == 3
    assert (cgroup.use().used, cgroup.use().limit) == (1048576, 2097152)


def test_version_1_is_read_where_the_process_is(tmp_path: Path) -> None:
    me = write(tmp_path / "cgroup", "9:name=systemd:/\n4:cpu,memory:/slurm/uid_0/job_7\n0::/\n")
    place = tmp_path / "mount" / "memory" / "slurm" / "uid_0" / "job_7"
    write(place / "memory.oom_control", CONTROL.format(4))
    write(place / "memory.usage_in_bytes", "4096\n")
    write(place / "memory.limit_in_bytes", "9223372036854771712\n")
    cgroup = MemoryCgroup(me, tmp_path / "mount")
    assert cgroup.oom_kills() == 4
    assert (cgroup.use().used, cgroup.use().limit) == (4096, None)


def test_in_a_container_the_path_of_the_host_leads_to_what_is_mounted(tmp_path: Path) -> None:
    me = write(tmp_path / "cgroup", "0::/kubepods/pod1/c0ffee\n")
    write(tmp_path / "mount" / "memory.events", EVENTS.format(1))
    assert MemoryCgroup(me, tmp_path / "mount").oom_kills() == 1


@pytest.mark.parametrize("text", ["", "nonsense\n", "0::/\n", "4:memory:/x\n"])
def test_without_a_memory_controller_nothing_is_known(tmp_path: Path, text: str) -> None:
    cgroup = MemoryCgroup(write(tmp_path / "cgroup", text), tmp_path / "mount")
    assert cgroup.oom_kills() == 0
    assert cgroup.use().used is None


def test_a_cgroup_that_goes_away_is_no_error(tmp_path: Path) -> None:
    me = write(tmp_path / "cgroup", "0::/\n")
    events = write(tmp_path / "mount" / "memory.events", EVENTS.format(1))
    cgroup = MemoryCgroup(me, tmp_path / "mount")
    events.unlink()
    assert cgroup.oom_kills() == 0


# --- the kernel's log


def test_only_what_the_kernel_says_after_the_rounds_start_is_told(tmp_path: Path) -> None:
    log = write(tmp_path / "kmsg", "6,1,100,-;NVRM: Xid (PCI:0000:3b:00): 79, of an earlier run\n")
    kernel = KernelLog(log)
    assert kernel.lines() == ()
    with log.open("a") as stream:
        stream.write(
            "3,2,200,-;oom-kill:constraint=CONSTRAINT_MEMCG\n SUBSYSTEM=memory\n3,3,201,-;Killed process 7 (x)\n"
        )
    assert kernel.lines() == ("oom-kill:constraint=CONSTRAINT_MEMCG", "Killed process 7 (x)")
    assert kernel.lines() == ("oom-kill:constraint=CONSTRAINT_MEMCG", "Killed process 7 (x)"), "all ranks see it"
    kernel.forget()
    assert kernel.lines() == ()
    kernel.close()


def test_a_kernel_log_that_cannot_be_read_has_said_nothing(tmp_path: Path) -> None:
    kernel = KernelLog(tmp_path / "none")
    assert not kernel.readable
    kernel.forget()
    assert kernel.lines() == ()
    kernel.close()


def test_the_real_kernel_log_is_read_without_waiting() -> None:
    kernel = KernelLog()
    words = f"resilient test {os.getpid()} {time.time_ns()}"
    try:
        with Path("/dev/kmsg").open("w") as stream:
            stream.write(words + "\n")  # without its end the kernel waits for more of the line
    except OSError:
        assert kernel.lines() == ()
        return
    assert not kernel.readable or words in kernel.lines()
    kernel.close()


# --- memory


@pytest.fixture
def family() -> Iterator[int]:
    """A process with a child; both end with the test."""
    script = "import subprocess, sys, time; subprocess.Popen(['sleep', '60']); print('up', flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()
    yield process.pid
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_the_curve_counts_the_whole_tree_and_remembers_it(family: int) -> None:
    now = 0.0
    curve = MemoryCurve(MemoryCgroup(), lambda: now)
    curve.watch({0: family})
    curve.watch({0: family})
    assert len(curve.samples()) == 1, "not before a second has passed"
    now = 1.1
    curve.watch({0: family})
    first, second = curve.samples()
    assert len(curve.trees[0]) == 2
    assert dict(first.ranks)[0] > processes.resident(family) / 2 > 0
    assert second.available is not None
    assert second.available > 0
    now = 2.2
    curve.watch({0: 1 << 22})  # there is no such process: the tree of the one that has just gone stays known
    assert len(curve.trees[0]) == 2


def test_a_process_is_described_without_what_looks_like_a_secret() -> None:
    command = [sys.executable, "-c", "import time; time.sleep(60)", "--api-key=hunter2", "--lr=3"]
    process = subprocess.Popen(command)
    try:
        while "--lr=3" not in Path(f"/proc/{process.pid}/cmdline").read_text():
            assert process.poll() is None
        record = processes.describe(process.pid)
        assert record is not None
        assert "hunter2" not in record.command
        assert "--lr=3" in record.command
        assert record.parent == os.getpid()
    finally:
        process.kill()
        process.wait()
    assert processes.describe(process.pid) is None


def test_variables_are_shown_from_a_list_and_never_secrets() -> None:
    environment = {
        "NCCL_DEBUG": "INFO",
        "RANK": "3",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "SLURM_JWT": "eyJhb",
        "TORCH_API_KEY": "hunter2",
        "NCCL_AUTH_TOKEN": "hunter2",
        "HOME": "/root",
        "AWS_SECRET_ACCESS_KEY": "hunter2",
        "WANDB_API_KEY": "hunter2",
        "TORCH_HOME": "https://user:hunter2@host/x",
    }
    shown = variables(environment)
    assert "hunter2" not in json.dumps(shown)
    assert "eyJhb" not in json.dumps(shown)
    assert (shown["NCCL_DEBUG"], shown["RANK"], shown["CUDA_VISIBLE_DEVICES"]) == ("INFO", "3", "0,1")
    assert "HOME" not in shown
    assert surroundings({"NCCL_X": "1"}, {"torch": "2"})["variables"]["NCCL_X"] == "1"


# --- error files, ours and torch's

RECORDED = """
import sys
from torch.distributed.elastic.multiprocessing.errors import record

@record
def main():
    raise {error}

main()
"""


def test_the_error_file_of_torchs_record_is_understood(tmp_path: Path) -> None:
    script = write(tmp_path / "t.py", RECORDED.format(error="ConnectionResetError(104, 'Connection reset by peer')"))
    file = tmp_path / "error.json"
    environment = {**os.environ, "TORCHELASTIC_ERROR_FILE": str(file)}
    before = time.time()
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, check=False)
    assert done.returncode == 1
    error = read_torch_error(file)
    assert error is not None
    assert error.types == ("ConnectionResetError",)
    assert error.message == "[Errno 104] Connection reset by peer"
    assert "Traceback" in error.traceback
    assert before - 1 <= error.time <= time.time()


@pytest.mark.parametrize(
    ("text", "types", "message"),
    [
        ('{"message": "RuntimeError: no\\nmore"}', ("RuntimeError",), "no"),
        ('{"message": {"message": "KeyError: 1", "extraInfo": {"timestamp": "x"}}}', ("KeyError",), "1"),
        ('{"message": {"message": "it broke: really"}}', ("Error",), "it broke: really"),
        ('{"message": {"message": "torch.cuda.OutOfMemoryError: no"}}', ("OutOfMemoryError",), "no"),
        ('{"message": {"message": "KeyboardInterrupt: "}}', ("KeyboardInterrupt",), ""),
    ],
)
def test_both_forms_of_the_message_are_read(tmp_path: Path, text: str, types: tuple[str, ...], message: str) -> None:
    error = read_torch_error(write(tmp_path / "e.json", text))
    assert error is not None
    assert (error.types, error.message) == (types, message)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"message": 3}', '{"message": {}}', '{"other": 1}', '"x"'])
def test_what_is_no_error_file_says_nothing(tmp_path: Path, text: str) -> None:
    assert read_torch_error(write(tmp_path / "e.json", text)) is None
    assert WorkerError.read(write(tmp_path / "e.json", text)) is None


def test_our_error_file_keeps_the_causes(tmp_path: Path) -> None:
    try:
        try:
            raise MemoryError("too big")
        except MemoryError as inner:
            raise RuntimeError("epoch failed\nbadly") from inner
    except RuntimeError as caught:
        WorkerError.of(caught).write(tmp_path / "e.json")
    error = WorkerError.read(tmp_path / "e.json")
    assert error is not None
    assert error.causes == ("MemoryError: too big",)
    assert (error.message, error.detail) == ("epoch failed", "epoch failed\nbadly")
    assert abs(error.time - time.time()) < 60


def test_of_a_long_message_both_ends_are_kept() -> None:
    frames = [f'  File "deep.py", line {number}, in call' for number in range(400)]
    error = WorkerError.of(RuntimeError("\n".join(["a process raised:", *frames, "KeyError: 'model'"])))
    lines = error.detail.splitlines()
    assert (lines[0], lines[-1]) == ("a process raised:", "KeyError: 'model'")
    assert len(error.detail) < 5000
    assert all(line.startswith("  ") for line in lines[1:-1]), "no line is cut"


# --- the tail of a log


def test_the_tail_begins_with_a_whole_line_and_not_before_this_round(tmp_path: Path) -> None:
    log = write(tmp_path / "log", "an earlier round\n")
    start = log.stat().st_size
    with log.open("a") as stream:
        stream.write("first\nsecond\nthird\n")
    assert tail(log, 1 << 16, start) == b"first\nsecond\nthird\n"
    assert tail(log, 16, start) == b"second\nthird\n"
    assert tail(log, 1 << 16) == log.read_bytes()
    assert tail(log, 100, start=10_000) == log.read_bytes(), "it was replaced by a shorter one meanwhile"
    assert tail(tmp_path / "none", 100) == b""


# --- the witness


class Scene:
    """A run directory, a witness, and workers that exist on paper."""

    def __init__(self, root: Path, ranks: int = 2) -> None:
        self.paths = RunPaths(root)
        self.now, self.wall = 100.0, time.time()
        self.said: list[str] = []
        self.files = IncidentFiles(self.paths, self.said.append)
        self.cgroup = write(root / "cgroup", "0::/\n")
        self.events = write(root / "mount" / "memory.events", EVENTS.format(5))
        self.kernel = write(root / "kmsg", "")
        self.witness = Witness(
            self.paths,
            self.files,
            clock=lambda: self.now,
            wall=lambda: self.wall,
            cgroup=MemoryCgroup(self.cgroup, root / "mount"),
            kernel=KernelLog(self.kernel),
        )
        self.paths.round_logs(0).mkdir(parents=True)
        self.witness.begin_round(0, range(ranks))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.witness.close()


def test_minus_nine_with_a_count_that_rose_is_lack_of_memory_and_without_is_a_kill(scene: Scene) -> None:
    assert classify(scene.witness.testify(0, -9).evidence).failure_class is FailureClass.KILLED
    scene.events.write_text(EVENTS.format(6))
    assert classify(scene.witness.testify(1, -9).evidence).failure_class is FailureClass.HOST_OOM
    scene.witness.begin_round(1, [0])
    assert classify(scene.witness.testify(0, -9).evidence).failure_class is FailureClass.KILLED


def test_lines_of_an_earlier_round_are_no_evidence(scene: Scene) -> None:
    log = write(scene.paths.log(3, 0), "CUDA error: an illegal memory access was encountered\n")
    scene.witness.begin_round(3, [0])
    assert classify(scene.witness.testify(0, -6).evidence).failure_class is FailureClass.CRASH
    with log.open("a") as stream:
        stream.write("CUDA error: device-side assert triggered\n")
    assert classify(scene.witness.testify(0, -6).evidence).failure_class is FailureClass.DEVICE_ASSERT


def test_error_files_of_an_earlier_round_are_removed(scene: Scene) -> None:
    write(scene.paths.torch_error_file(2, 0), '{"message": "KeyError: 1"}')
    scene.witness.begin_round(2, [0])
    assert scene.witness.testify(0, 1).evidence.error_type == ()


def test_an_error_is_dated_when_it_was_raised(scene: Scene) -> None:
    scene.now, scene.wall = 160.0, time.time()
    WorkerError(("KeyError",), "1", time=scene.wall - 20.0).write(scene.paths.error_file(0, 0))
    assert scene.witness.testify(0, -9).at == pytest.approx(140.0)
    WorkerError(("KeyError",), "1", time=scene.wall - 9000.0).write(scene.paths.error_file(0, 0))
    assert scene.witness.testify(0, -9).at == 100.0, "not before the round began"
    WorkerError(("KeyError",), "1", time=scene.wall + 9000.0).write(scene.paths.error_file(0, 0))
    assert scene.witness.testify(0, -9).at == 160.0, "and not later than now"
    assert scene.witness.testify(1, -9).at is None


def test_torchs_whole_seconds_are_made_precise_by_the_file(scene: Scene) -> None:
    file = write(scene.paths.torch_error_file(0, 1), "")
    stamp = int(scene.wall) - 10
    body = {"message": {"message": "KeyError: 1", "extraInfo": {"py_callstack": "", "timestamp": str(stamp)}}}
    file.write_text(json.dumps(body))
    os.utime(file, (stamp + 0.75, stamp + 0.75))
    scene.now = 160.0
    at = scene.witness.testify(1, -9).at
    assert at == pytest.approx(160.0 - (scene.wall - stamp - 0.75), abs=0.01)
