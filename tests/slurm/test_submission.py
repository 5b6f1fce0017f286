"""One submission, with programs in the place of SLURM's that answer what they are told: what is called and left."""

from __future__ import annotations

import fcntl
import json
import os
import resource
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from resilient.errors import JobQueued, RunDirectoryNotWritable, RunLocked, SchedulerRefused, SchedulerSilent
from resilient.protocol.lock import RunLock
from resilient.protocol.paths import RunPaths
from resilient.slurm.asking import JobRun, batch_of, request_of
from resilient.slurm.batch import Batch
from resilient.slurm.jobs import QueuedJob, Submission, comment_of, submissions
from resilient.slurm.partitions import Request
from resilient.slurm.sbatch import Client
from resilient.slurm.settings import SlurmSettings
from resilient.slurm.submission import submit

_PARTITION = "PartitionName=low Default=YES MaxNodes=UNLIMITED MaxTime=01:00:00 State=UP TotalNodes=2"
_PROGRAM = """#!/bin/bash
name=$(basename "$0")
echo "$name $*" >> "{record}"
[ "$name" = sbatch ] && {{ env > "{record}.env"; cp "${{@: -1}}" "{record}.file"; }}
cat "{answers}/$name.out"
cat "{answers}/$name.err" >&2
exit "$(cat "{answers}/$name.code")"
"""


@dataclass
class Commands:
    """SLURM's commands, and what they answer."""

    directory: Path

    def answers(self, name: str, out: str = "", err: str = "", code: int = 0) -> None:
        for kind, text in (("out", out), ("err", err), ("code", str(code))):
            (self.directory / f"{name}.{kind}").write_text(text)

    def called(self) -> list[str]:
        record = self.directory / "record"
        return [line.split()[0] for line in record.read_text().splitlines()] if record.exists() else []

    def client(self, **environment: str) -> Client:
        return Client({"PATH": f"{self.directory / 'bin'}:{os.environ['PATH']}", **environment}, 30.0)

    def environment_of_sbatch(self) -> list[str]:
        return (self.directory / "record.env").read_text().splitlines()


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    directory = tmp_path / "commands"
    (directory / "bin").mkdir(parents=True)
    made = Commands(directory)
    for name in ("sbatch", "squeue", "scontrol", "sinfo"):
        program = directory / "bin" / name
        program.write_text(_PROGRAM.format(record=directory / "record", answers=directory))
        program.chmod(0o755)
        made.answers(name)
    made.answers("scontrol", _PARTITION)
    made.answers("sbatch", "12;cluster\n")
    return made


def _home(tmp_path: Path) -> RunPaths:
    return RunPaths.of(tmp_path / "runs", "a")


def _runs(tmp_path: Path, *indices: int) -> list[JobRun]:
    if not indices:
        return [JobRun(_home(tmp_path), "worker: {}\n")]
    return [JobRun(RunPaths.of(tmp_path / "runs", f"a-{index}"), f"task: {index}\n", index) for index in indices]


def _submit(
    tmp_path: Path, client: Client, *indices: int, settings: SlurmSettings | None = None, patience: float = 60.0
) -> str:
    settings = settings or SlurmSettings()
    runs, home = _runs(tmp_path, *indices), _home(tmp_path)
    batch = batch_of(home, runs, settings, directory=tmp_path, program=["resilient"])
    request = request_of(settings)
    return submit(client, home, runs, batch, request=request, clock=lambda: 5.0, patience=patience).job


def _files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_job_that_is_taken_is_written_down(commands: Commands, tmp_path: Path) -> None:
    assert _submit(tmp_path, commands.client()) == "12"
    home = _home(tmp_path)
    assert commands.called() == ["squeue", "scontrol", "sbatch"]
    assert submissions(home) == [Submission("12", None, 5.0)]
    assert (home.slurm / "config.yaml").read_text() == "worker: {}\n"
    assert (commands.directory / "record.file").read_bytes() == (home.slurm / "job.sbatch").read_bytes()


def test_the_runs_of_an_array_know_their_tasks_and_have_their_logs(commands: Commands, tmp_path: Path) -> None:
    _submit(tmp_path, commands.client(), 0, 3)
    home = _home(tmp_path)
    for run in _runs(tmp_path, 0, 3):
        assert submissions(run.paths) == [Submission("12", run.index, 5.0)]
        assert (home.slurm / "tasks" / str(run.index)).resolve() == run.paths.slurm
        assert run.file.read_text() == run.configuration
    assert "--array=0,3\n" in (home.slurm / "job.sbatch").read_text()


@pytest.mark.parametrize("name", ["sbatch", "squeue", "scontrol"])
def test_a_refusal_leaves_nothing_behind(commands: Commands, tmp_path: Path, name: str) -> None:
    commands.answers(name, err="sbatch: error: Batch job submission failed: Invalid qos specification", code=1)
    with pytest.raises(SchedulerRefused, match="Invalid qos"):
        _submit(tmp_path, commands.client(), 0, 1)
    assert not (tmp_path / "runs").exists()


def test_a_refusal_leaves_an_earlier_submission_as_it_was(commands: Commands, tmp_path: Path) -> None:
    _submit(tmp_path, commands.client(), 0, 1)
    before = _files(tmp_path / "runs")
    commands.answers("sbatch", err="sbatch: error: Batch job submission failed: Invalid qos specification", code=1)
    with pytest.raises(SchedulerRefused):
        _submit(tmp_path, commands.client(), 0, 2, settings=SlurmSettings(qos="x"))
    assert _files(tmp_path / "runs") == before
    assert sorted(path.name for path in (_home(tmp_path).slurm / "tasks").iterdir()) == ["0", "1"]


def test_where_it_is_not_known_whether_the_job_was_taken_its_files_stay(commands: Commands, tmp_path: Path) -> None:
    commands.answers("sbatch", err="sbatch: error: Socket timed out on send/recv operation", code=1)
    with pytest.raises(SchedulerSilent, match="did not answer"):
        _submit(tmp_path, commands.client())
    assert (_home(tmp_path).slurm / "config.yaml").exists()


@pytest.mark.parametrize("by", ["id", "comment"])
def test_a_run_that_is_queued_is_refused_before_anything_is_changed(
    commands: Commands, tmp_path: Path, by: str
) -> None:
    _submit(tmp_path, commands.client())
    before = _files(tmp_path / "runs")
    if by == "id":
        commands.answers("squeue", "12|12|N/A|PENDING|something else\n")
    else:
        commands.answers("squeue", f"99|99|N/A|RUNNING|{comment_of(_home(tmp_path))}\n")
    with pytest.raises(JobQueued, match=r"has a job already: job (12 \(pending|99 \(running)"):
        _submit(tmp_path, commands.client(), settings=SlurmSettings(account="x"))
    assert _files(tmp_path / "runs") == before
    assert commands.called().count("sbatch") == 1


def test_a_run_that_is_a_task_of_a_queued_array_is_refused(commands: Commands, tmp_path: Path) -> None:
    _submit(tmp_path, commands.client(), 0, 1)
    commands.answers("squeue", "14|12|1|RUNNING|x\n")
    with pytest.raises(JobQueued, match=r"run a-1 has a job already: job 12_1"):
        _submit(tmp_path, commands.client(), 1, 2)
    assert _submit(tmp_path, commands.client(), 2) == "12"  # the others are not in its way


def test_who_interrupts_while_slurm_is_asked_may_have_a_job(commands: Commands, tmp_path: Path) -> None:
    class Interrupted(Client):
        def submit(self, batch: Batch, partitions: object) -> str:
            raise KeyboardInterrupt

        def queue(self) -> list[QueuedJob]:
            if self.seconds > 30:
                raise KeyboardInterrupt
            return []

    for seconds, left in ((60.0, False), (30.0, True)):
        with pytest.raises(KeyboardInterrupt):
            _submit(tmp_path, Interrupted(commands.client().environment, seconds))
        assert (_home(tmp_path).slurm / "config.yaml").exists() is left


def test_a_node_with_too_few_cores_is_no_node(commands: Commands, tmp_path: Path) -> None:
    commands.answers("sinfo", "n1|low|4\nn2|low|8\nn3|high|64\nbad|line\n")
    assert _submit(tmp_path, commands.client(), settings=SlurmSettings(cpus_per_task=8)) == "12"
    with pytest.raises(SchedulerRefused, match=r"slurm\.cpus_per_task: a node in partition low has 8, and not 9"):
        _submit(tmp_path, commands.client(), settings=SlurmSettings(cpus_per_task=9))


def test_what_a_user_likes_to_see_of_the_queue_hides_nothing(commands: Commands, tmp_path: Path) -> None:
    (commands.directory / "bin" / "squeue").write_text("#!/bin/bash\nenv > $RECORD\n")
    record = str(tmp_path / "env")
    _submit(tmp_path, commands.client(SQUEUE_STATES="R", SQUEUE_FORMAT="%i", RECORD=record))
    assert "SQUEUE" not in Path(record).read_text()


@pytest.mark.parametrize(("state", "waits"), [("UP", ()), ("DOWN", ("low",))])
def test_a_partition_that_is_down_is_named(
    commands: Commands, tmp_path: Path, state: str, waits: tuple[str, ...]
) -> None:
    commands.answers("scontrol", _PARTITION.replace("State=UP", f"State={state}"))
    runs, home = _runs(tmp_path), _home(tmp_path)
    batch = batch_of(home, runs, SlurmSettings(), directory=tmp_path, program=["resilient"])
    taken = submit(commands.client(), home, runs, batch, request=Request(), clock=lambda: 5.0)
    assert taken.waits_for == waits


def test_a_run_that_is_trained_at_this_moment_is_refused(commands: Commands, tmp_path: Path) -> None:
    home = _home(tmp_path)
    home.create()
    lock = RunLock(home.lock, "here")
    with pytest.raises(RunLocked, match="owned by process"):
        _submit(tmp_path, commands.client())
    lock.release()
    assert _submit(tmp_path, commands.client()) == "12"


def test_two_submissions_at_the_same_time_do_not_make_two_jobs(commands: Commands, tmp_path: Path) -> None:
    second: list[BaseException] = []

    class Slow(Client):
        def submit(self, batch: Batch, partitions: object) -> str:
            try:
                _submit(tmp_path, commands.client(), patience=0.0)
            except JobQueued as error:
                second.append(error)
            return super().submit(batch, [])

    slow = commands.client()
    assert _submit(tmp_path, Slow(slow.environment, slow.seconds)) == "12"
    assert "another submission" in str(second[0])
    assert commands.called().count("sbatch") == 1


def test_a_submission_waits_for_another_one(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    descriptor = os.open(tmp_path / "runs", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(_submit, tmp_path, commands.client())
        with pytest.raises(TimeoutError):
            waiting.result(0.3)
        os.close(descriptor)
        assert waiting.result() == "12"


def test_a_refusal_is_undone_before_the_next_submission_begins(commands: Commands, tmp_path: Path) -> None:
    """Else what the first takes away would be what the second has just laid out."""
    _submit(tmp_path, commands.client(), settings=SlurmSettings(account="first"))
    seen: list[bytes] = []

    class Watched(Client):
        def queue(self) -> list[QueuedJob]:
            seen.append((_home(tmp_path).slurm / "job.sbatch").read_bytes())
            return []

    client = commands.client()
    (commands.directory / "bin" / "sbatch").write_text("#!/bin/bash\nsleep 0.5\necho no >&2\nexit 1\n")
    with ThreadPoolExecutor(2) as pool:
        refused = [
            pool.submit(_submit, tmp_path, Watched(client.environment, 30.0), settings=SlurmSettings(account=name))
            for name in ("second", "third")
        ]
        assert all(isinstance(each.exception(), SchedulerRefused) for each in refused)
    assert [b"--account=first\n" in text for text in seen] == [True, True]


def test_an_array_may_have_more_runs_than_a_process_may_have_files(commands: Commands, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 40, hard))
    try:
        assert _submit(tmp_path, commands.client(), *range(100)) == "12"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_could_never_start_is_refused_with_the_setting(commands: Commands, tmp_path: Path) -> None:
    with pytest.raises(SchedulerRefused, match=r"slurm\.time: .*01:00:00 at the most(.|\n)*partitions here: low"):
        _submit(tmp_path, commands.client(), settings=SlurmSettings(time="2:00:00"))
    assert "sbatch" not in commands.called()
    assert not (tmp_path / "runs").exists()


def test_where_there_is_no_slurm_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SchedulerRefused, match="no squeue on this machine"):
        _submit(tmp_path, Client({"PATH": str(tmp_path / "empty")}, 5.0))
    assert not (tmp_path / "runs").exists()


def test_a_command_that_does_not_answer_is_given_up(commands: Commands, tmp_path: Path) -> None:
    (commands.directory / "bin" / "squeue").write_text("#!/bin/bash\nexec sleep 60\n")
    with pytest.raises(SchedulerRefused, match="squeue did not answer within"):
        _submit(tmp_path, replace(commands.client(), seconds=0.2))


def test_an_answer_that_is_no_job_is_no_success(commands: Commands, tmp_path: Path) -> None:
    commands.answers("sbatch", out="Submitted, thank you\n")
    with pytest.raises(SchedulerRefused):
        _submit(tmp_path, commands.client())
    assert not (tmp_path / "runs").exists()


def test_a_directory_that_cannot_be_written_is_named(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("not a directory")
    with pytest.raises(RunDirectoryNotWritable, match="runs"):
        _submit(tmp_path, commands.client())


def test_what_is_written_in_the_file_wins_over_the_environment(commands: Commands, tmp_path: Path) -> None:
    asked = {"SBATCH_PARTITION": "x", "SBATCH_TIMELIMIT": "1", "SBATCH_OUTPUT": "x", "SBATCH_NO_REQUEUE": "1"}
    client = commands.client(**asked, SBATCH_ACCOUNT="mine", HOME="/home")
    _submit(tmp_path, client, settings=SlurmSettings(partition="low", time="30"))
    left = {line.partition("=")[0] for line in commands.environment_of_sbatch()}
    assert not left & asked.keys()
    assert {"SBATCH_ACCOUNT", "HOME"} <= left  # nothing was said about the account


def test_the_record_is_plain_json(commands: Commands, tmp_path: Path) -> None:
    _submit(tmp_path, commands.client())
    assert json.loads(_home(tmp_path).submissions.read_text()) == {"job": "12", "task": None, "at": 5.0}
