"""The evidence of incidents on disk: complete, bounded, and never in the way of the run."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from resilient.policy.decisions import RecordIncident
from resilient.policy.events import Incident
from resilient.policy.failed_rounds import FailedRound, History
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.state import RunState
from resilient.protocol.launch import WorkerError
from resilient.protocol.paths import RunPaths
from resilient.supervisor.history import read_history
from resilient.supervisor.incident_files import Dossier, IncidentFiles
from resilient.supervisor.journal import Journal, read_journal
from resilient.supervisor.memory_curve import Sample
from resilient.supervisor.processes import ProcessRecord
from resilient.supervisor.witness import Witness

FAILURE = Failure(FailureClass.CODE, "KeyError: '#'", "KeyError: '3'", ("KeyError: '3'",))


class Kept:
    """Incident files of a run, and what was said about them."""

    def __init__(self, root: Path, **limits: int) -> None:
        self.paths = RunPaths(root)
        self.said: list[str] = []
        self.files = IncidentFiles(self.paths, self.said.append, **limits)

    def keep(self, dossier: Dossier) -> None:
        self.files.keep(dossier)
        self.files.close(30.0)

    def read(self, number: int, name: str = "incident.json") -> Any:
        return json.loads((self.paths.incident(number) / name).read_text())

    def log(self, number: int, rank: int, text: str) -> None:
        self.paths.round_logs(number).mkdir(parents=True, exist_ok=True)
        self.paths.log(number, rank).write_text(text)


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path)


def full(number: int = 1, ranks: int = 2) -> Dossier:
    return Dossier(
        number,
        {"number": number, "class": FailureClass.CODE},
        round=0,
        ranks=range(ranks),
        samples=[Sample(10.0, 500, 20, None, ((0, 7), (1, 8))), Sample(11.0, 400, 30, 99, ((0, 9),))],
        processes={0: [ProcessRecord(7, 1, "S", 4096, "python train.py")]},
        kernel=["NVRM: x"],
        surroundings={"host": "node1"},
    )


def test_all_of_it_is_there(kept: Kept) -> None:
    kept.log(0, 0, "first\nlast words\n")
    WorkerError(("KeyError",), "'3'").write(kept.paths.error_file(0, 0))
    kept.paths.torch_error_file(0, 1).write_text('{"message": "KeyError: 3"}')
    kept.keep(full())
    assert kept.read(1) == {"number": 1, "class": "code or configuration", "not_kept": []}
    place = kept.paths.incident(1)
    assert (place / "rank-00000.log").read_text() == "first\nlast words\n"
    assert not (place / "rank-00001.log").exists(), "that rank has written none"
    assert kept.read(1, "rank-00000.error.json")["types"] == ["KeyError"]
    assert kept.read(1, "rank-00001.torch-error.json") == {"message": "KeyError: 3"}
    assert kept.read(1, "processes.json")["0"][0]["command"] == "python train.py"
    assert kept.read(1, "environment.json") == {"host": "node1"}
    assert (place / "kernel.log").read_text() == "NVRM: x\n"
    with (place / "memory.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert (first["seconds"], first["rank_1"], first["cgroup_limit"]) == ("-1.0", "8", "")
    assert (second["seconds"], second["rank_0"], second["rank_1"]) == ("0.0", "9", "")
    assert kept.said == []


def test_what_others_have_put_there_stays(kept: Kept) -> None:
    """Stacks of a hang are written before the workers are killed."""
    kept.paths.incident(1).mkdir(parents=True)
    (kept.paths.incident(1) / "stacks.txt").write_text("here")
    kept.keep(full())
    assert (kept.paths.incident(1) / "stacks.txt").read_text() == "here"


def test_the_size_is_bounded_for_however_many_ranks(kept: Kept) -> None:
    ranks = 200
    for rank in range(ranks):
        kept.log(0, rank, "x" * 99 + "\n" * 1 + ("y" * 99 + "\n") * 900)
    (kept.paths.error_file(0, 0)).write_text("z" * (1 << 20))
    kept.keep(full(ranks=ranks))
    size = sum(path.stat().st_size for path in kept.paths.incident(1).iterdir())
    assert size < 5 << 20
    assert not (kept.paths.incident(1) / "rank-00000.error.json").exists()


def test_the_first_and_the_last_are_kept(tmp_path: Path) -> None:
    kept = Kept(tmp_path, keep_first=2, keep_last=3)
    for number in range(1, 10):
        kept.keep(Dossier(number, {"number": number}))
    assert sorted(path.name for path in kept.paths.incidents.iterdir()) == ["0001", "0002", "0007", "0008", "0009"]
    assert kept.paths.last_incident() == 9


def test_a_place_that_cannot_be_written_is_said_once_and_no_more(kept: Kept) -> None:
    kept.paths.incidents.write_text("a file where a directory should be")
    kept.keep(full())
    assert len(kept.said) == 1
    assert kept.said[0].startswith("incident 1: its evidence could not be kept")


def test_a_part_that_fails_leaves_the_rest(kept: Kept) -> None:
    kept.paths.incident(1).mkdir(parents=True)
    (kept.paths.incident(1) / "memory.csv").mkdir()
    kept.keep(full())
    assert kept.read(1, "environment.json") == {"host": "node1"}
    assert kept.read(1)["not_kept"][0].startswith("write curve: ")


def test_a_disk_that_does_not_answer_is_not_waited_for(kept: Kept) -> None:
    kept.paths.incident(1).mkdir(parents=True)
    silent = kept.paths.incident(1) / "memory.csv"
    os.mkfifo(silent)  # whoever opens it to write waits until somebody reads
    kept.files.keep(full())
    for number in range(2, 200):
        kept.files.keep(Dossier(number, {}))
    kept.files.close(0.05)
    assert any("has not answered for long" in said for said in kept.said)
    with silent.open() as stream:
        assert stream.readline().startswith("seconds")
    kept.files.close(30.0)
    assert kept.read(2) == {"not_kept": []}


# --- through the witness and the journal


@pytest.fixture
def witness(kept: Kept) -> Iterator[Witness]:
    witness = Witness(kept.paths, kept.files, clock=lambda: 1.0, versions={"torch": "2.13"})
    yield witness
    witness.close()


def test_the_incident_tells_class_root_evidence_remedy_and_what_was_tried(kept: Kept, witness: Witness) -> None:
    kept.log(0, 0, "last words\n")
    witness.begin_round(0, [0])
    kept.log(0, 0, "last words\n")
    witness.testify(0, 1)
    failed = FailedRound(FAILURE, 5, 5, 1.0)
    incident = Incident(4, 0, 0, 5, FAILURE, "stop: worker error", ("rank 1 after step 5: echo",))
    place = witness.record(RecordIncident(incident, failed), RunState(history=History((failed,))), of_workers=True)
    kept.files.close(30.0)
    body = kept.read(4)
    assert place == kept.paths.incident(4)
    assert (body["class"], body["signature"], body["message"]) == (
        "code or configuration",
        "KeyError: '#'",
        "KeyError: '3'",
    )
    assert (body["rank"], body["step"], body["round"], body["remedy"]) == (0, 5, 0, "stop: worker error")
    assert body["others"] == ["rank 1 after step 5: echo"]
    assert body["exit_codes"] == {"0": 1}
    assert body["tried"] == {"failures": 1, "without_progress": 1}
    assert body["charged"] is True
    assert kept.read(4, "environment.json")["versions"] == {"torch": "2.13"}


def test_an_incident_that_is_not_about_the_workers_has_none_of_their_logs(kept: Kept, witness: Witness) -> None:
    witness.begin_round(0, [0])
    kept.log(0, 0, "healthy\n")
    incident = Incident(1, 0, None, 5, Failure(FailureClass.PREEMPTION, "asked to leave"))
    witness.record(RecordIncident(incident), RunState(), of_workers=False)
    kept.files.close(30.0)
    assert sorted(path.name for path in kept.paths.incident(1).iterdir()) == ["environment.json", "incident.json"]


def test_failed_rounds_are_read_back_from_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    failed = FailedRound(FAILURE, 5, 7, 12.5, needed=2, lasted=True, rank=3)
    journal.record("decision", RecordIncident(Incident(9, 0, 3, 7, FAILURE), failed), 12.5)
    journal.record("decision", RecordIncident(Incident(10, 0, None, 7, FAILURE)), 12.5)
    journal.close()
    entries = list(read_journal(tmp_path / "j.jsonl"))
    history = read_history(entries)
    (found,) = history.failed.on_clock(1000.0, epoch=entries[0]["time"]).rounds
    assert found == FailedRound(FAILURE, 5, 7, 1000.0, needed=2, lasted=True, rank=3)
    assert found.failure.message == FAILURE.message
    assert history.incidents == 10, "numbers go on, though the first eight left no entry here"


@pytest.mark.parametrize(("code", "kept_over"), [(75, 1), (143, 1), (81, 0), (80, 0), (0, 0)])
def test_budgets_are_new_only_after_a_diagnosis(code: int, kept_over: int) -> None:
    charged = {
        "failure": {"failure_class": "killed", "signature": "SIGKILL"},
        "furthest": 1,
        "step": 1,
        "needed": 1,
        "lasted": False,
    }
    entries = [
        {"time": 1.0, "name": "RecordIncident", "data": {"incident": {"number": 1}, "charged": charged}},
        {"time": 2.0, "name": "EndRun", "data": {"exit_code": code}},
    ]
    assert len(read_history(entries).failed.history.rounds) == kept_over


def test_an_entry_of_another_version_is_no_error() -> None:
    entries = [
        {"time": 1.0, "name": "RecordIncident", "data": {"incident": {"number": 1}, "charged": {"failure": "old"}}},
        {
            "time": 1.0,
            "name": "RecordIncident",
            "data": {
                "incident": {"number": 2},
                "charged": {"failure": {"failure_class": "a class nobody knows", "signature": "x"}},
            },
        },
    ]
    history = read_history(entries)
    assert history.incidents == 2
    assert history.failed.history.rounds == ()
