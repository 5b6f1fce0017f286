"""Figures for Prometheus, read with its own client's parser."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from resilient.errors import ExitCode
from resilient.policy.failures import FailureClass
from resilient.policy.lineage import Rollback
from resilient.protocol.tracker_settings import PrometheusSettings
from resilient.supervisor.status import Status
from resilient.trackers.exposition import Family, Sample, exposition
from resilient.trackers.lane import place_of
from resilient.trackers.prometheus import Prometheus
from tests.trackers.logs import Logs, Telling, tell, wait_until


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path / "run")


def figures(text: str) -> dict[str, float]:
    """By name and labels, without the run's."""
    found = {}
    for family in text_string_to_metric_families(text):
        assert family.type in {"counter", "gauge", "histogram"}
        assert family.documentation
        for sample in family.samples:
            labels = {name: value for name, value in sample.labels.items() if name != "run"}
            assert sample.labels["run"] == "run"
            found[sample.name + "".join(f" {name}={value}" for name, value in sorted(labels.items()))] = sample.value
    return found


def track(logs: Logs, tmp_path: Path) -> dict[str, float]:
    file = tmp_path / "run.prom"
    tell("prometheus", Prometheus, logs.context(prometheus=PrometheusSettings(textfile=str(file))))
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["run.prom"]
    return figures(file.read_text())


def test_the_figures_of_a_run(logs: Logs, tmp_path: Path) -> None:
    logs.open()
    logs.steps(1, 8)
    logs.persisted(5)
    logs.incident(1, 8)
    logs.incident(2, 8, FailureClass.HANG)
    logs.launch(1, 6)
    logs.steps(7, 9)
    logs.roll_back(Rollback(5, 9, 1))
    logs.launch(2, 5)
    logs.steps(6, 6, loss=0.25)
    Status("running", 6, 20, 2).write(logs.paths.status)
    found = track(logs, tmp_path)
    assert found["resilient_steps_total"] == 10  # 1 to 8, 9, and 6 of the new lineage
    assert found["resilient_repeated_steps_total"] == 2
    assert found["resilient_discarded_steps_total"] == 4
    assert found["resilient_rounds_total"] == 3
    assert found["resilient_rollbacks_total"] == 1
    assert found["resilient_incidents_total class=killed"] == 1
    assert found["resilient_incidents_total class=hang"] == 1
    assert found["resilient_snapshots_total tier=local"] == 1
    assert found["resilient_snapshot_step tier=local"] == 5
    assert found["resilient_snapshot_bytes tier=local"] == 1000
    assert found["resilient_metric metric=loss"] == 0.25
    assert found["resilient_phase phase=running"] == 1
    assert sum(value for name, value in found.items() if name.startswith("resilient_phase")) == 1
    assert (found["resilient_step"], found["resilient_target_steps"], found["resilient_up"]) == (6, 20, 1)
    assert (
        found["resilient_step_duration_seconds_count"] == found["resilient_step_duration_seconds_bucket le=+Inf"] == 9
    )


def test_counters_go_on_over_launches(logs: Logs, tmp_path: Path) -> None:
    logs.open()
    logs.steps(1, 4)
    logs.preempt()
    logs.end(ExitCode.REQUEUE)
    first = track(logs, tmp_path)
    assert (first["resilient_up"], first["resilient_exit_code"], first["resilient_preemptions_total"]) == (0, 75, 1)
    logs.open(last_round=0, step=4)
    logs.steps(5, 6)
    second = track(logs, tmp_path)
    assert (second["resilient_up"], second["resilient_steps_total"]) == (1, 6)
    assert "resilient_exit_code" not in second
    assert second["resilient_start_timestamp_seconds"] >= second["resilient_first_start_timestamp_seconds"]


def test_the_endpoint_is_this_machines_alone(logs: Logs, free_port: int) -> None:
    logs.open()
    logs.steps(1, 2)
    with Telling("prometheus", Prometheus, logs.context(prometheus=PrometheusSettings(port=free_port))):
        wait_until(lambda: place_of(logs.context(), "prometheus").exists())
        with urllib.request.urlopen(f"http://127.0.0.1:{free_port}/metrics", timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert figures(answer.read().decode())["resilient_steps_total"] == 2
        listening = Path("/proc/net/tcp").read_text().splitlines()
        (local,) = {line.split()[1] for line in listening if f":{free_port:04X} 00000000:0000 0A" in line}
        assert local.startswith("0100007F:")


def test_labels_and_numbers_are_written_as_the_format_wants_them() -> None:
    values = {
        "plain": 1.5,
        'a "quoted" \\ one\n': float("nan"),
        "up": float("inf"),
        "down": float("-inf"),
        "many": 1e22,
    }
    text = exposition(
        [
            Family("m", "gauge", "It.", tuple(Sample(value, {"metric": name}) for name, value in values.items())),
            Family("none", "gauge", "Left out.", ()),
        ]
    )
    (family,) = text_string_to_metric_families(text)
    found = {sample.labels["metric"]: sample.value for sample in family.samples}
    assert repr(found) == repr(values)
