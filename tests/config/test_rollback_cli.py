"""``resilient rollback``: of a run that is not up, and what it asks of one that is."""

from __future__ import annotations

import fcntl
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from resilient.cli import main
from resilient.drill.faults import flip_bit
from resilient.errors import ExitCode
from resilient.policy.divergence.known_good import KnownGood
from resilient.policy.lineage import Fork, Lineage, Rollback, RollbackCause
from resilient.protocol import names
from resilient.protocol.board import Metrics
from resilient.protocol.lineage_file import read_lineage, write_lineage
from resilient.protocol.lock import Owner, RunLock
from resilient.protocol.metrics_log import Entry, MetricsLog
from resilient.protocol.paths import RunPaths, hostname
from resilient.protocol.rollback_request import RollbackAnswer, RollbackRequest, answer, take_request
from resilient.snapshot import catalog
from resilient.snapshot.commit import Draft, commit
from resilient.snapshot.storage import Storage
from resilient.supervisor.journal import Journal
from resilient.supervisor.status import Status

KNOWN = KnownGood().taken(10, 0).taken(20, 0).advanced(30, 10).taken(30, 0)


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunPaths:
    """The run ``demo`` in ./runs: four snapshots of rounds 0 and 1, of which those of steps 10 and 20 are good; it has
    come to step 47.
    """
    monkeypatch.chdir(tmp_path)
    paths = RunPaths.of("runs", "demo")
    paths.create()
    for step in (10, 20, 30, 40):
        commit(Storage(), paths.snapshots, Draft("demo", step, step // 30, {0: memoryview(bytes(5000))}))
    paths.config.write_text("snapshot: {memory_dir: ''}\n")
    paths.round_logs(1).mkdir()
    Journal(paths.journal).close()
    log = MetricsLog(paths.metrics)
    log.write(Entry(round_number, 0, Metrics(step, 1.0, {"loss": 1.0})) for round_number, step in ((0, 60), (1, 47)))
    log.close()
    write_lineage(paths, Lineage(known=KNOWN))
    return paths


def rollback(*arguments: str) -> int:
    return main(["rollback", "run=demo", *arguments])


def parsed(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    assert rollback(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


# --- a run that is not up


def test_it_is_written_down_as_pending_and_nothing_else_is_touched(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback("step=20") == 0
    assert read_lineage(paths).rollbacks == (
        Rollback(20, 47, 1, None, None, 1.0, RollbackCause.REQUEST, "a person asked for it while the run was not up"),
    )
    assert read_lineage(paths).target == 20
    assert catalog.steps_on(paths.snapshots, read_lineage(paths)) == (10, 20)
    assert catalog.committed_steps(paths.snapshots) == (10, 20, 30, 40)
    told = capsys.readouterr().out
    assert "run demo goes on, when it is started again, from step 20" in told
    assert "steps 21 to 47 are discarded" in told
    assert "the same data follow" in told
    assert Owner.read(paths.lock) is None


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (("to=good",), (20, None, 1.0)),
        (("step=good",), (20, None, 1.0)),
        (("step=latest",), (40, None, 1.0)),
        (("to=START",), (0, None, 1.0)),
        (("step=10", "skip=all"), (10, (11, 47), 1.0)),
        (("step=10", "skip=12..15", "lr=0.5"), (10, (12, 15), 0.5)),
        (("step=10", "skip=12"), (10, (12, 12), 1.0)),
        (("step=10", "skip=none", "lr=2"), (10, None, 2.0)),
    ],
)
def test_what_is_asked_for(
    paths: RunPaths,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    wanted: tuple[int, tuple[int, int] | None, float],
) -> None:
    target, skip, factor = wanted
    found = parsed(capsys, *arguments)
    expected = {"run": "demo", "target": target, "reached": 47, "lr_factor": factor, "live": False}
    assert {key: found[key] for key in expected} == expected
    assert found["skip"] == (list(skip) if skip else None)
    last = read_lineage(paths).rollbacks[-1]
    assert (last.target, last.skip, last.lr_factor) == (target, skip, factor)


def test_the_learning_rate_is_multiplied_by_what_it_is_already(paths: RunPaths) -> None:
    for _ in range(2):
        assert rollback("step=20", "lr=0.5") == 0
    assert read_lineage(paths).lr_factor == 0.25


def test_a_finished_run_is_finished_no_more(paths: RunPaths) -> None:
    done = Status("ended", 50, 50, 1, ExitCode.FINISHED, "All 50 steps are done.")
    done.write(paths.status)
    assert rollback("step=20") == 0
    status = Status.read(paths.status)
    assert status is not None
    assert not status.finished
    assert (status.step, status.total, status.state) == (20, 50, "rolled back")
    assert "goes on from step 20" in status.diagnosis
    assert read_lineage(paths).rollbacks[-1].reached == 50


def test_of_one_that_ended_otherwise_the_diagnosis_stays(paths: RunPaths) -> None:
    Status("ended", 47, 50, 1, ExitCode.DIVERGED, "It diverged.").write(paths.status)
    assert rollback("step=20") == 0
    status = Status.read(paths.status)
    assert status is not None
    assert status.diagnosis == "It diverged."


def test_what_a_rollback_that_has_not_begun_was_to_leave_out_is_left_out_still(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback("step=20", "skip=25..30") == 0
    assert "as an earlier rollback, which has not begun yet, had it" in parsed(capsys, "step=10")["notes"][0]
    assert read_lineage(paths).unresolved == ((25, 30),)
    assert parsed(capsys, "step=10", "skip=20..47")["reached"] == 47
    assert read_lineage(paths).unresolved == ((20, 47),)
    assert parsed(capsys, "step=10", "skip=none")["skip"] is None
    assert read_lineage(paths).unresolved == ()


def test_the_start_of_a_fork_is_what_it_began_with(paths: RunPaths) -> None:
    write_lineage(paths, Lineage(forked_from=Fork("other", 10, "0" * 32)))
    assert rollback("to=START") == 0
    assert read_lineage(paths).target == 10
    write_lineage(paths, Lineage(forked_from=Fork("other", 5, "0" * 32)))
    assert rollback("to=START") == ExitCode.NOT_FOUND  # retention has deleted it


def test_a_round_that_only_another_hosts_journal_knows_is_discarded_too(paths: RunPaths) -> None:
    journal = Journal(paths.root / "journal" / "elsewhere.jsonl")
    journal.write("decision", "LaunchRound", 0.0, data={"round": 7})
    journal.close()
    assert rollback("step=20") == 0
    assert read_lineage(paths).rollbacks[-1].round == 7


def test_the_retention_of_the_meantime_leaves_the_target_alone(paths: RunPaths) -> None:
    assert rollback("step=10") == 0
    assert main(["snapshots", "prune", "run=demo", "retention.last=1"]) == 0
    assert 10 in catalog.committed_steps(paths.snapshots)


# --- what cannot be done


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        ((), ExitCode.USAGE, "which snapshot?"),
        (("step=20", "to=good"), ExitCode.USAGE, "both step= and to="),
        (("to=better",), ExitCode.USAGE, "to=good"),
        (("step=newest",), ExitCode.USAGE, "step=latest"),
        (("step=25",), ExitCode.NOT_FOUND, "10, 20, 30, 40"),
        (("step=0",), ExitCode.NOT_FOUND, "to=START"),
        (("step=20", "skip=30..25"), ExitCode.USAGE, "skip=25..30"),
        (("step=20", "skip=some"), ExitCode.USAGE, "skip=140..155"),
        (("step=20", "skip=15..25"), ExitCode.USAGE, "begin with 21"),
        (("step=20", "skip=25..48"), ExitCode.USAGE, "end with 47"),
        (("step=20", "lr=0"), ExitCode.USAGE, "lr=0.5"),
        (("step=20", "lr=nan"), ExitCode.USAGE, "lr=0.5"),
        (("step=20", "lr=half"), ExitCode.USAGE, "lr=0.5"),
        (("step=20", "skp=3"), ExitCode.USAGE, "did you mean skip=?"),
    ],
)
def test_mistakes_are_named_and_change_nothing(
    paths: RunPaths, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], code: ExitCode, text: str
) -> None:
    assert rollback(*arguments) == code
    assert text in capsys.readouterr().err
    assert read_lineage(paths) == Lineage(known=KNOWN)


def test_no_such_run(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollback", "run=demmo", "to=good"]) == ExitCode.NOT_FOUND
    assert "did you mean demo?" in capsys.readouterr().err
    assert main(["rollback", "to=good"]) == ExitCode.USAGE
    assert "resilient rollback run=demo" in capsys.readouterr().err


def test_no_good_one_is_known(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    write_lineage(paths, Lineage())
    assert rollback("to=good") == ExitCode.NOT_FOUND
    assert "known to be good" in capsys.readouterr().err


@pytest.mark.parametrize("aside", [False, True])
def test_one_that_is_off_the_lineage(paths: RunPaths, capsys: pytest.CaptureFixture[str], aside: bool) -> None:
    lineage = Lineage(known=KNOWN).rolled_back(Rollback(20, 47, 1)).launched()
    write_lineage(paths, lineage)
    if aside:
        catalog.set_aside(Storage(), paths.snapshots, lineage)
    assert rollback("step=30") == ExitCode.NOT_FOUND
    error = capsys.readouterr().err
    assert "off the lineage" in error
    assert "10, 20" in error


@pytest.mark.parametrize("how", ["flipped", "cut", "no manifest"])
def test_one_that_is_corrupt(paths: RunPaths, capsys: pytest.CaptureFixture[str], how: str) -> None:
    image = paths.snapshot(20) / names.image_name(0)
    damages: dict[str, Callable[[], object]] = {
        "flipped": lambda: flip_bit(image, 777),
        "cut": lambda: image.write_bytes(b"short"),
        "no manifest": (paths.snapshot(20) / "manifest.json").unlink,
    }
    damages[how]()
    assert rollback("step=20") == ExitCode.NO_SNAPSHOT
    assert "snapshot of step 20 cannot be loaded" in capsys.readouterr().err
    assert not read_lineage(paths).pending
    assert rollback("step=10") == 0


def test_a_lineage_that_cannot_be_read_is_not_written_over(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    paths.lineage.write_text('{"format": 99}')
    assert rollback("step=20") == ExitCode.UNREADABLE
    assert str(paths.lineage) in capsys.readouterr().err
    assert paths.lineage.read_text() == '{"format": 99}'


def test_what_was_never_supervised_is_not_rolled_back(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    paths.journal.unlink()
    assert rollback("step=20") == ExitCode.USAGE
    assert "never supervised" in capsys.readouterr().err


def test_a_run_that_is_up_on_another_machine(paths: RunPaths, capsys: pytest.CaptureFixture[str]) -> None:
    lock = paths.root / "supervisor-elsewhere.lock"
    lock.write_text(json.dumps(asdict(Owner(1, 1.0, "elsewhere"))))
    with lock.open("rb") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        assert rollback("step=20") == ExitCode.RUN_LOCKED
        assert "run this command on elsewhere" in capsys.readouterr().err
    assert not read_lineage(paths).pending
    assert rollback("step=20") == 0  # that machine's supervisor was killed


# --- a run that is up


class Supervisor(threading.Thread):
    """Takes one request and answers it, as the supervisor of the run does."""

    def __init__(self, paths: RunPaths, reply: RollbackAnswer) -> None:
        super().__init__(daemon=True)
        self.paths, self.reply = paths, reply
        self.taken: RollbackRequest | None = None

    def run(self) -> None:
        while self.taken is None:
            self.taken = take_request(self.paths)
            time.sleep(0.005)
        answer(self.paths, replace(self.reply, id=self.taken.id))


@pytest.fixture
def supervised(paths: RunPaths) -> Iterator[RunLock]:
    lock = RunLock(paths.lock, hostname())
    yield lock
    lock.release()


def test_the_supervisor_is_asked_and_nothing_is_written_beside_it(
    paths: RunPaths, supervised: RunLock, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(paths, RollbackAnswer("", accepted=True, target=20))
    supervisor.start()
    found = parsed(capsys, "to=good", "skip=all", "lr=0.5")
    supervisor.join()
    assert (found["live"], found["target"], found["skip"]) == (True, 20, [21, 47])
    assert supervisor.taken == RollbackRequest(supervisor.taken.id if supervisor.taken else "", 20, (21, 47), 0.5)
    assert read_lineage(paths) == Lineage(known=KNOWN)


def test_a_refusal_is_told_in_the_supervisors_words(
    paths: RunPaths, supervised: RunLock, capsys: pytest.CaptureFixture[str]
) -> None:
    supervisor = Supervisor(paths, RollbackAnswer("", accepted=False, why="a rollback to step 10 is under way"))
    supervisor.start()
    assert rollback("step=20") == ExitCode.RUN_LOCKED
    supervisor.join()
    assert "is not rolled back: a rollback to step 10 is under way" in capsys.readouterr().err


def test_a_request_that_nobody_takes_is_withdrawn(
    paths: RunPaths, supervised: RunLock, capsys: pytest.CaptureFixture[str]
) -> None:
    assert rollback("step=20", "--timeout", "0.1") == ExitCode.TIMED_OUT
    assert "withdrawn" in capsys.readouterr().err
    assert take_request(paths) is None


def test_a_request_of_a_run_that_ends_meanwhile_is_withdrawn(
    paths: RunPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = RunLock(paths.lock, hostname())

    def end() -> None:
        while not paths.rollback_request.exists():
            time.sleep(0.005)
        lock.release()

    thread = threading.Thread(target=end)
    thread.start()
    assert rollback("step=20") == ExitCode.NOT_RUNNING
    thread.join()
    assert "the same command again" in capsys.readouterr().err
    assert take_request(paths) is None
    assert rollback("step=20") == 0
