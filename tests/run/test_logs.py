"""Workers' logs in real runs: rotated without losing a line, on the terminal in part, and on a disk that is full."""

from __future__ import annotations

from resilient.drill.faults import KillWorker
from resilient.protocol.log_pieces import piece_numbers, piece_path
from tests.mounts import fill, mounted
from tests.run.harness import Workspace

_TALKER = """
import os, sys, time, torch, resilient
print("a line to be seen")
run = resilient.attach(model=torch.nn.Linear(1, 1))
for step, _ in run.steps(total=40):
    os.write(1, f"step {step}\\n".encode())
    print("talk " * 400)
    time.sleep(0.02)
print("done", file=sys.stderr)
"""


def test_logs_are_rotated_at_step_boundaries_and_the_terminal_follows(workspace: Workspace) -> None:
    script = workspace.directory / "talker.py"
    script.write_text(_TALKER)
    case = workspace.run("talker", f"worker.script={script}", "logs.max_bytes=10000", "logs.keep=20")
    running = case.start("console.prefix=always").wait_for_step(20)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    log = case.paths.log(1, 0)
    numbers = piece_numbers(log)
    assert len(numbers) > 2
    assert all(piece_path(log, number).stat().st_size < 20_000 for number in numbers)
    whole = "".join(path.read_text() for path in (*(piece_path(log, number) for number in numbers), log))
    steps = [line for line in whole.splitlines() if line.startswith("step")]
    assert steps[-1] == "step 40"
    assert len(steps) == len(set(steps))
    shown = [line.removeprefix("[0] ") for line in case.output().splitlines() if line.startswith("[0] ")]
    assert shown.count("a line to be seen") == 2, "once in each round"
    assert [line for line in shown if line.startswith("step")][-len(steps) :] == steps
    assert shown[-1] == "done"


def test_a_disk_that_is_full_for_a_while_ends_no_print(workspace: Workspace) -> None:
    script = workspace.directory / "talker.py"
    script.write_text(_TALKER.replace('os.write(1, f"step {step}\\n".encode())', "").replace("0.02", "0.04"))
    with mounted(workspace.directory / "small", "size=32m") as disk:
        (workspace.directory / "runs").symlink_to(disk)
        case = workspace.run("talker", f"worker.script={script}", "snapshot.every_steps=100")
        running = case.start().wait_for_step(10)
        ballast = fill(disk, but=0)
        running.wait_for_step(25)
        ballast.unlink()
        assert running.wait() == 0, case.output()
        assert case.incidents() == []
        log = case.paths.log(0, 0).read_text()
    assert "bytes of output are missing here: the disk was full" in log
    assert log.endswith("done\n")
