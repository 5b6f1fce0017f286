"""The batch file as text, and as what bash makes of it; what `sbatch` makes of it is tested on the cluster."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resilient.errors import ConfigurationError
from resilient.slurm.batch import Batch, Option, Task, directive, path_pattern, render
from resilient.supervisor.status import Status

HOSTILE = "a b'c\"d $(touch pwned) `touch pwned` ; touch pwned # % %j & | \\ *"
_RECORDER = """#!/bin/bash
printf '%s\\0' "$(basename "$0")" "$@" >> "$RECORD"
printf '\\n' >> "$RECORD"
[ "$(basename "$0")" = srun ] || exit 0
[ -z "$STATUS_IS_NEW" ] || touch "$STATUS_IS_NEW"
exit "${SRUN_EXITS:-0}"
"""


def _batch(configuration: Path = Path("/runs/a/slurm/config.yaml")) -> Batch:
    return Batch(
        path=Path("/runs/a/slurm/job.sbatch"),
        options=(Option("job-name", "a"), Option("partition", "gpu", "slurm.partition", "Where it runs.")),
        log="/runs/a/slurm/%j.log",
        program=("/venv/bin/resilient",),
        tasks=(Task("a", configuration),),
        steps=("--ntasks=1",),
    )


def _array(*configurations: Path) -> Batch:
    tasks = tuple(Task(f"a-{2 * index}", path, 2 * index) for index, path in enumerate(configurations))
    return replace(_batch(), tasks=tasks)


def _executed(text: str, directory: Path, **environment: str) -> tuple[int, list[list[str]]]:
    """The exit code of a batch file in bash, and the commands of SLURM that it called."""
    programs, record = directory / "programs", directory / "record"
    programs.mkdir(exist_ok=True)
    for name in ("srun", "scontrol"):
        (programs / name).write_text(_RECORDER)
        (programs / name).chmod(0o755)
    record.unlink(missing_ok=True)
    variables = {"PATH": f"{programs}:{os.environ['PATH']}", "RECORD": str(record), "SLURM_JOB_ID": "12"}
    file = directory / "job.sbatch"
    file.write_bytes(os.fsencode(text))
    done = subprocess.run(["bash", str(file)], env={**variables, **environment}, cwd=directory, check=False)
    called = record.read_bytes().split(b"\0\n") if record.exists() else []
    return done.returncode, [list(map(os.fsdecode, call.split(b"\0"))) for call in called if call]


def test_the_job_is_asked_for_before_the_first_command() -> None:
    lines = render(_batch()).splitlines()
    assert lines[0] == "#!/bin/bash"
    last = max(index for index, line in enumerate(lines) if line.startswith("#SBATCH"))
    assert all(line.startswith("#") or not line for line in lines[:last])
    assert [line for line in lines if line.startswith("#SBATCH")] == [
        "#SBATCH --job-name=a",
        "#SBATCH --partition=gpu",
        "#SBATCH --output=/runs/a/slurm/%j.log",
        "#SBATCH --open-mode=append",
    ]
    assert lines[lines.index("#SBATCH --partition=gpu") - 1] == "# Where it runs."


def test_the_supervisor_is_started_as_a_step(tmp_path: Path) -> None:
    code, called = _executed(render(_batch()), tmp_path)
    assert code == 0
    assert called == [
        ["srun", "--ntasks=1", "/venv/bin/resilient", "train", "conf=/runs/a/slurm/config.yaml"],
    ]


@pytest.mark.parametrize("code", [0, 80, 143])
def test_a_run_that_is_over_ends_the_job_with_its_exit_code(tmp_path: Path, code: int) -> None:
    ended, called = _executed(render(_batch()), tmp_path, SRUN_EXITS=str(code))
    assert ended == code
    assert [call[0] for call in called] == ["srun"]


def test_a_run_that_is_to_go_on_has_its_job_requeued(tmp_path: Path) -> None:
    ended, called = _executed(render(_batch()), tmp_path, SRUN_EXITS="75")
    assert ended == 75
    assert called[1:] == [["scontrol", "requeue", "12"]]


def test_a_job_that_must_not_be_requeued_is_not(tmp_path: Path) -> None:
    ended, called = _executed(render(replace(_batch(), requeues=False)), tmp_path, SRUN_EXITS="75")
    assert ended == 75
    assert [call[0] for call in called] == ["srun"]


@pytest.mark.parametrize(
    ("srun", "ended", "new", "code"),
    [
        pytest.param(137, 0, True, 0, id="one was lost, and the others have finished"),
        pytest.param(137, 75, True, 75, id="one was lost, and the run is to go on"),
        pytest.param(137, None, True, 137, id="all were lost"),
        pytest.param(78, 75, False, 78, id="none has begun, and that is how it ended the last time"),
        pytest.param(80, 80, True, 80, id="all are of one mind"),
    ],
)
def test_how_a_run_of_several_nodes_ended_is_not_what_became_of_one(
    tmp_path: Path, srun: int, ended: int | None, new: bool, code: int
) -> None:
    batch = replace(_batch(tmp_path / "slurm" / "config.yaml"), nodes=2)
    (tmp_path / "slurm").mkdir()
    status = tmp_path / "status.json"
    Status("ended", 9, 9, 0, ended, 'it said "exit_code": 4').write(status)
    os.utime(status, (time.time() - 3600,) * 2)
    found, called = _executed(render(batch), tmp_path, SRUN_EXITS=str(srun), STATUS_IS_NEW=str(status) if new else "")
    assert found == code
    assert [call[0] for call in called] == (["srun", "scontrol"] if code == 75 else ["srun"])


def test_each_task_of_an_array_has_its_own_run(tmp_path: Path) -> None:
    text = render(_array(tmp_path / "first.yaml", tmp_path / "second.yaml"))
    for index, name in ((0, "first"), (2, "second")):
        _, called = _executed(text, tmp_path, SLURM_ARRAY_TASK_ID=str(index))
        assert called[0][-1] == f"conf={tmp_path / name}.yaml"


def test_a_task_that_has_no_run_starts_nothing(tmp_path: Path) -> None:
    assert _executed(render(_array(tmp_path / "first.yaml")), tmp_path, SLURM_ARRAY_TASK_ID="1") == (78, [])


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=20))
def test_no_path_is_taken_for_a_command(tmp_path: Path, name: str) -> None:
    for text in (render(_batch(Path("/runs", name))), render(_array(Path("/runs", name)))):
        _, called = _executed(text, tmp_path, SLURM_ARRAY_TASK_ID="0")
        assert [call[-1] for call in called] == [f"conf={Path('/runs', name)}"]


def test_hostile_words_reach_the_command_as_they_are(tmp_path: Path) -> None:
    hostile = f"{HOSTILE}\n#SBATCH --wrap=id\n$(touch pwned)"
    batch = replace(_batch(Path(f"/{hostile}")), program=(hostile,), steps=(hostile,), path=Path(f"/{hostile}"))
    _, called = _executed(render(batch), tmp_path)
    assert called == [["srun", hostile, hostile, "train", f"conf=/{hostile}"]]
    assert not (tmp_path / "pwned").exists()
    assert "\n#SBATCH --wrap" not in render(batch).partition("\nconfiguration=")[0]


def test_a_plain_value_stands_as_it_is_and_others_are_quoted() -> None:
    assert directive(Option("gres", "gpu:a100:4")) == "#SBATCH --gres=gpu:a100:4"
    assert directive(Option("requeue")) == "#SBATCH --requeue"
    assert directive(Option("comment", 'a "b" \\ #c')) == '#SBATCH --comment="a \\"b\\" \\\\ #c"'


@pytest.mark.parametrize("value", ["a\nb", "a\n#SBATCH --uid=0", "a\x1b[2J", "a\0b", "a\u2028b"])
def test_a_value_that_would_end_its_line_is_refused_by_the_name_of_its_setting(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"slurm\.account"):
        directive(Option("account", value, "slurm.account"))


@pytest.mark.parametrize("name", ["", "a b", "x=1 --wrap", "a\nb", "-x", "A"])
def test_what_is_no_option_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be an option"):
        directive(Option(name, "1", f"slurm.extra.{name}"))


def test_a_percent_sign_in_a_path_is_no_pattern() -> None:
    assert path_pattern(Path("/runs/50%/a")) == "/runs/50%%/a"


@pytest.mark.parametrize("path", ["/a\\b", "/a\nb"])
def test_a_directory_in_which_slurm_cannot_write_a_log_is_refused(path: str) -> None:
    with pytest.raises(ConfigurationError, match=r"backslash"):
        path_pattern(Path(path))
