"""What an adversarial reviewer found once, and nobody is to find again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from resilient.drill.faults import KillForkserver, KillWorker, Preempt, flip_bit
from resilient.errors import ExitCode
from resilient.snapshot import catalog
from tests.run.harness import RunCase, Workspace


def write_script(workspace: Workspace, name: str, text: str) -> str:
    path = workspace.directory / name
    path.write_text(text)
    return f"worker.script={path}"


def test_preempted_is_not_finished_even_where_exit_0_is(workspace: Workspace, reference: RunCase) -> None:
    case = workspace.run("exit-code", "worker.finished_by=exit_code")
    running = case.start().wait_for_step(20)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0
    case.assert_equal_to(reference)


def test_attached_script_that_stops_on_purpose_is_finished_by_its_exit_code(workspace: Workspace) -> None:
    case = workspace.run("early", "train.stop_quietly_at=20", "worker.finished_by=exit_code")
    assert case.finish() == 0, case.output()
    assert len(case.losses()) == 19  # the step in whose middle it left is not complete


def test_script_without_attach_is_finished_by_its_exit_code(workspace: Workspace) -> None:
    script = write_script(workspace, "plain.py", "print('nothing to see')\n")
    case = workspace.run("plain", script, "worker.finished_by=exit_code")
    assert case.finish() == 0, case.output()
    other = workspace.run("unsaid", script)
    assert other.finish() == ExitCode.CRASH_LOOP
    assert "worker.finished_by=exit_code" in other.output()


def test_a_quarantined_snapshot_no_longer_counts_as_durable(workspace: Workspace) -> None:
    """Resumed from an older one and preempted before the same step: what was done since must be made durable."""
    case = workspace.run("false-durable", "run.allow_drift=true")
    running = case.start().wait_for_step(36)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    newest = max(catalog.committed_steps(case.paths.snapshots))
    flip_bit(case.paths.snapshot(newest) / "rank-00000.safetensors", 5000)
    running = case.start(f"train.hang_at={newest}", "stop.grace_seconds=4", "train.hang_always=true")
    running.wait_for_step(newest - 1)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert max(catalog.committed_steps(case.paths.snapshots)) == newest - 1


def test_sigterm_to_everything_while_the_forkserver_imports(workspace: Workspace) -> None:
    (workspace.directory / "slow_import.py").write_text("import time\ntime.sleep(600)\n")
    case = workspace.run("importing", "worker.preload=[torch,slow_import]", "stop.grace_seconds=2")
    running = case.start()
    while not any("slow_import" in process.cmdline() for process in workspace.processes()):
        time.sleep(0.01)
    for process in workspace.processes():
        process.terminate()
    assert running.wait() == ExitCode.REQUEUE, case.output()


def test_hanging_import_is_a_hang_and_not_the_end(workspace: Workspace) -> None:
    (workspace.directory / "slow_import.py").write_text("import time\ntime.sleep(600)\n")
    settings = ["worker.preload=[torch,slow_import]", "hang.startup_seconds=2", "restarts.crash_loop=2"]
    case = workspace.run("hanging-import", *settings)
    assert case.finish() != 0
    assert case.incidents()[0] == "hang"


def test_an_error_with_live_data_workers_ends_the_worker_at_once(workspace: Workspace) -> None:
    script = write_script(
        workspace,
        "raiser.py",
        "import torch, resilient\n"
        "from torch.utils.data import DataLoader\n"
        "loader = DataLoader(list(range(100)), batch_size=2, num_workers=2, persistent_workers=True)\n"
        "run = resilient.attach(model=torch.nn.Linear(1, 1), data=loader)\n"
        "iterator = iter(run.steps(total=20))\n"
        "next(iterator)\n"
        "raise TypeError('a bug with data workers alive')\n",
    )
    case = workspace.run("raiser", script)
    assert case.finish() == ExitCode.WORKER_ERROR, case.output()


def test_a_snapshot_that_does_not_fit_into_memory_is_not_called_corrupt_but_read_into_a_file(
    workspace: Workspace,
) -> None:
    case = workspace.run("no-room")
    running = case.start().wait_for_step(25)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE
    memory = workspace.directory / "tiny"
    memory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(memory)], check=True)
    try:
        ballast = memory / "ballast"
        with ballast.open("wb") as stream:
            stream.write(b"\0" * (80 << 10))
        assert case.finish(f"snapshot.memory_dir={memory}", "run.allow_drift=true") == 0, case.output()
        assert catalog.count_quarantined(case.paths.snapshots) == 0
        assert "too small" in case.output()
        assert case.incidents() == ["preemption"]
        assert not case.paths.memory.exists()
    finally:
        subprocess.run(["umount", "-l", str(memory)], check=True)


def test_what_a_forkserver_leaves_when_it_is_killed_is_ended_by_the_supervisor(workspace: Workspace) -> None:
    case = workspace.run("orphaned", "train.daemon=true")
    running = case.start().wait_for_step(10)
    daemon = next(process for process in workspace.processes() if process.cmdline()[-1] == "daemon")
    KillForkserver().inject(running.target)
    running.wait_for_step(20)
    assert not daemon.is_running()
    assert running.wait() == 0, case.output()


def test_output_that_nobody_reads_does_not_stop_the_supervisor(workspace: Workspace) -> None:
    script = write_script(
        workspace,
        "chatty.py",
        "import torch, resilient\n"
        "run = resilient.attach(model=torch.nn.Linear(1, 1))\n"
        "for step, _ in run.steps(total=200):\n"
        "    print('x' * 4000)\n",
    )
    case = workspace.run("chatty", script)
    read, write = os.pipe()
    command = [sys.executable, "-m", "resilient.cli", "train", f"conf={workspace.directory}/conf/small.yaml"]
    command += ["run.id=chatty", f"run.dir={workspace.directory}/runs", *case.settings]
    process = subprocess.Popen(
        command, stdout=write, stderr=subprocess.DEVNULL, env=workspace.environment(), start_new_session=True
    )
    try:
        assert process.wait(60) == 0
    finally:
        os.close(read)
        os.close(write)


def test_sighup_that_is_ignored_stays_ignored(workspace: Workspace, reference: RunCase) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        case = workspace.run("nohup")
        running = case.start().wait_for_step(10)
    finally:
        signal.signal(signal.SIGHUP, before)
    running.process.send_signal(signal.SIGHUP)
    assert running.wait() == 0, case.output()
    case.assert_equal_to(reference)


def test_variables_are_there_when_torch_is_imported(workspace: Workspace) -> None:
    script = write_script(workspace, "threads.py", "import torch\nprint('threads:', torch.get_num_threads())\n")
    case = workspace.run("threads", script, "worker.finished_by=exit_code", "+worker.env.OMP_NUM_THREADS='1'")
    assert case.finish() == 0, case.output()
    assert "threads: 1" in case.output()


def test_long_work_after_the_last_step_is_no_hang(workspace: Workspace) -> None:
    script = write_script(
        workspace,
        "after.py",
        "import time, torch, resilient\n"
        "run = resilient.attach(model=torch.nn.Linear(1, 1))\n"
        "for step, _ in run.steps(total=5):\n"
        "    pass\n"
        "time.sleep(4)\n",
    )
    case = workspace.run("after", script, "hang.min_seconds=1")
    assert case.finish() == 0, case.output()
    assert case.incidents() == []


def test_too_many_metric_names_do_not_end_training(workspace: Workspace) -> None:
    script = write_script(
        workspace,
        "many.py",
        "import torch, resilient\n"
        "run = resilient.attach(model=torch.nn.Linear(1, 1))\n"
        "for step, _ in run.steps(total=3):\n"
        "    run.report(**{f'metric_{number}': number for number in range(100)})\n",
    )
    case = workspace.run("many", script)
    assert case.finish() == 0, case.output()
    assert "more than 64 different metric names" in case.output()


def test_what_loading_may_keep_does_not_change_with_later_snapshots(workspace: Workspace) -> None:
    """A module that keeps what ``set_extra_state`` is given, and changes it in place."""
    script = write_script(
        workspace,
        "extra.py",
        "import time, torch, resilient\n"
        "class Average(torch.nn.Module):\n"
        "    def __init__(self): super().__init__(); self.value = torch.zeros(3)\n"
        "    def get_extra_state(self): return self.value\n"
        "    def set_extra_state(self, state): self.value = state\n"
        "average = Average()\n"
        "run = resilient.attach(model=average)\n"
        "for step, _ in run.steps(total=40):\n"
        "    average.value.mul_(0.9).add_(step)\n"
        "    run.report(loss=average.value.sum())\n"
        "    time.sleep(0.02)\n",
    )
    clean, killed = workspace.run("extra-clean", script), workspace.run("extra-killed", script)
    assert clean.finish() == 0
    running = killed.start()
    for step in (10, 20):
        running.wait_for_step(step)
        KillWorker().inject(running.target)
    assert running.wait() == 0
    assert killed.losses() == clean.losses()
    assert not killed.conflicting_losses()


def test_exit_code_255_is_no_signal(workspace: Workspace) -> None:
    case = workspace.run("255", write_script(workspace, "e255.py", "import sys\nsys.exit(255)\n"))
    assert case.finish() == ExitCode.CRASH_LOOP
    assert "exit 255" in case.output()


def test_missing_submodule_is_an_entry_point_that_does_not_exist(workspace: Workspace) -> None:
    package = Path(workspace.directory) / "pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    case = workspace.run("module", "worker.script=''", "worker.module=pkg.nope")
    assert case.finish() == ExitCode.NO_ENTRY_POINT


def test_a_script_that_says_finished_after_the_loop_in_any_case_is_not_finished_when_it_is_preempted(
    workspace: Workspace,
) -> None:
    script = write_script(
        workspace,
        "says.py",
        "import time, torch, resilient\n"
        "model = torch.nn.Linear(1, 1)\n"
        "run = resilient.attach(model=model)\n"
        "for step, _ in run.steps(total=60):\n"
        "    run.report(loss=float(step))\n"
        "    time.sleep(0.02)\n"
        "run.finish()\n",
    )
    case = workspace.run("says", script)
    running = case.start().wait_for_step(20)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert case.finish() == 0, case.output()
    assert len(case.losses()) == 60
