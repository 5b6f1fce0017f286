"""The plan of a round and the launch of a worker, on their way from supervisor to worker and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ConfigurationError, StateError
from resilient.protocol.environment import PLAN, Rendezvous, WorkerEnvironment, launched_elsewhere, shared_by
from resilient.protocol.launch import LaunchSpec, WorkerError
from resilient.protocol.plan import RoundPlan
from resilient.protocol.settings import FingerprintSettings, SnapshotSettings

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# --- the plan


@given(
    train=st.dictionaries(st.text(), JSON, max_size=4),
    restore_step=st.none() | st.integers(0, 10**9),
    lineage=st.none() | st.text(),
)
def test_a_plan_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, train: dict[str, Any], restore_step: int | None, lineage: str | None
) -> None:
    snapshot = SnapshotSettings(memory_every_steps=2, every_steps=10, slots=4, allow_pickle=True)
    fingerprint = FingerprintSettings(gradients=True)
    plan = RoundPlan("x", "/runs/x", 3, "/dev/shm/x", restore_step, lineage, snapshot, train, fingerprint=fingerprint)
    path = tmp_path_factory.getbasetemp() / "plan.json"
    plan.write(path)
    assert RoundPlan.read(path) == plan


def test_a_plan_with_a_setting_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    RoundPlan("x", "/runs/x", 0, "/dev/shm/x").write(path)
    body = json.loads(path.read_text())
    body["snapshot"]["slots"] = 1
    path.write_text(json.dumps(body))
    with pytest.raises(ConfigurationError, match=r"snapshot\.slots"):
        RoundPlan.read(path)


# --- the settings in it


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory_every_steps", -1),
        ("overhead", 0),
        ("every_steps", -1),
        ("every_steps", 0),
        ("every_seconds", -0.5),
        ("slots", 1),
    ],
)
def test_a_setting_below_its_least_value_is_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"snapshot\.{field}"):
        SnapshotSettings(**{field: value})  # type: ignore[arg-type]  # one of the numbers, by name


def test_time_alone_may_decide() -> None:
    assert SnapshotSettings(every_steps=0, every_seconds=60).every_seconds == 60


def test_durable_snapshots_that_would_never_be_taken_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="no multiple") as raised:
        SnapshotSettings(memory_every_steps=3, every_steps=10)
    assert "multiple" in raised.value.remedy


# --- the launch


@given(
    arguments=st.lists(st.text()).map(tuple),
    environment=st.dictionaries(st.text(), st.text(), max_size=3),
    script=st.none() | st.text(),
)
def test_a_launch_survives_its_way_through_json(
    arguments: tuple[str, ...], environment: dict[str, str], script: str | None
) -> None:
    module = None if script is not None else "package.module"
    spec = LaunchSpec(1, script, module, arguments, "/work", environment, "/log", "/error")
    assert LaunchSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


# --- the environment


def test_a_worker_reads_from_its_environment_who_it_is() -> None:
    sent = WorkerEnvironment(
        Path("/plan.json"), rank=3, local_rank=1, world_size=8, local_world_size=2, group_rank=1, group_world_size=4
    )
    assert WorkerEnvironment.read(sent.variables(Rendezvous())) == sent


def test_the_variables_are_those_of_torchrun() -> None:
    rendezvous = Rendezvous("mine", port=4711, round=5, most_restarts=10)
    assert WorkerEnvironment(Path("/plan.json"), 3, 3, 8).variables(rendezvous) == {
        PLAN: "/plan.json",
        "RANK": "3",
        "LOCAL_RANK": "3",
        "WORLD_SIZE": "8",
        "LOCAL_WORLD_SIZE": "8",
        "GROUP_RANK": "0",
        "GROUP_WORLD_SIZE": "1",
        "ROLE_NAME": "default",
        "ROLE_RANK": "3",
        "ROLE_WORLD_SIZE": "8",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "4711",
        "TORCHELASTIC_RUN_ID": "mine",
        "TORCHELASTIC_RESTART_COUNT": "5",
        "TORCHELASTIC_MAX_RESTARTS": "10",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }


def test_ranks_that_share_the_cores_have_one_thread_each_unless_told_otherwise() -> None:
    assert shared_by(2, {}) == {"OMP_NUM_THREADS": "1"}
    assert shared_by(2, {"OMP_NUM_THREADS": "4"}) == {}
    assert shared_by(1, {}) == {}


@pytest.mark.parametrize(("environ", "processes"), [({}, 1), ({"WORLD_SIZE": "4"}, 4), ({"WORLD_SIZE": "big"}, 1)])
def test_how_many_processes_another_launcher_has_started(environ: dict[str, str], processes: int) -> None:
    assert launched_elsewhere(environ) == processes


def test_a_process_without_a_plan_is_no_supervised_worker() -> None:
    assert WorkerEnvironment.read({"RANK": "3", "WORLD_SIZE": "8"}) is None
    assert WorkerEnvironment.read({PLAN: "/plan.json"}) == WorkerEnvironment(Path("/plan.json"), 0, 0, 1)


# --- the error a worker leaves


def _raised(error: BaseException) -> WorkerError:
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001  whatever it is, it was made here
        return WorkerError.of(caught)


def test_an_error_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "error.json"
    error = _raised(StateError("the tensor at model.weight is sparse", "register dense ones"))
    error.write(path)
    assert WorkerError.read(path) == error


def test_an_error_names_its_type_with_all_bases_and_the_first_line_of_its_message() -> None:
    error = _raised(ModuleNotFoundError("No module named 'x'\nsecond line"))
    assert error.types == ("ModuleNotFoundError", "ImportError", "Exception", "BaseException")
    assert error.message == "No module named 'x'"
    assert "second line" in error.traceback
    assert "test_plan.py" in error.traceback


def test_an_error_without_message_has_an_empty_one() -> None:
    assert _raised(KeyboardInterrupt()).message == ""


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", '{"types": ["x"]}', '{"types": 3, "message": "", "traceback": ""}']
)
def test_an_error_file_cut_short_by_the_death_of_its_writer_is_no_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "error.json"
    path.write_text(text)
    assert WorkerError.read(path) is None


def test_no_error_file_is_no_error(tmp_path: Path) -> None:
    assert WorkerError.read(tmp_path / "none.json") is None
