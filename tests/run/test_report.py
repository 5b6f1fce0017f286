"""What is told of a real run to which a good deal happens: its ledger, its report, and its status while it is up."""

from __future__ import annotations

import io
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from resilient.cli import main
from resilient.drill.faults import KillSupervisor, KillWorker, Preempt
from resilient.errors import ExitCode
from resilient.protocol.paths import RunPaths
from resilient.report.account import Account, read_account
from resilient.report.buckets import Bucket
from resilient.report.live import as_json, look
from resilient.supervisor.journal import read_journal
from tests.report.histories import assert_whole
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase

_SETTINGS = (
    "train.step_seconds=0.03",
    "train.workers=1",
    "train.samples=2000",
    "train.hang_at=30",
    "train.evaluate_at=45",
    "train.evaluate_seconds=0.6",
    "snapshot.memory_every_steps=5",
    "hang.min_seconds=3",
    "retention.last=30",
)
_STEPS = 300
pytestmark = pytest.mark.timeout(900)  # three supervisors one after the other, on a machine that may be busy


def command(*words: str) -> tuple[int, str, str]:
    """Exit code and output of a command, in this process."""
    with redirect_stdout(io.StringIO()) as out, redirect_stderr(io.StringIO()) as err:
        code = main(words)
    return code, out.getvalue(), err.getvalue()


def status(paths: RunPaths) -> dict[str, Any]:
    """In this process, for the run does not wait."""
    return as_json(look(read_account(paths)))


class Eventful:
    """A run that hangs, is killed, preempted, taken back, loses its supervisor, and is finished.

    :ivar seen: its status while it was up.
    :ivar elsewhere: the same as seen from where there is only the directory.
    """

    def __init__(self, directory: Path) -> None:
        self.case = make_workspace(directory).run("eventful", *_SETTINGS, steps=_STEPS)
        running = self.case.start().wait_for_step(63)
        KillWorker().inject(running.target)
        running.wait_for_step(80)
        self.seen = status(self.case.paths)
        Preempt().inject(running.target)
        assert running.wait() == ExitCode.REQUEUE, self.case.output()
        running = self.case.start().wait_for_step(140)
        assert main(["rollback", "run=eventful", f"dir={directory / 'runs'}", "step=110"]) == 0
        while not read_account(self.case.paths).lineage.rollbacks:  # it is only asked for so far
            assert running.process.poll() is None, self.case.output()
            time.sleep(0.05)
        running.wait_for_step(112)
        self.elsewhere = self._from_elsewhere(directory / "copy" / "eventful")
        KillSupervisor().inject(running.target)
        running.wait()
        assert self.case.finish() == 0, self.case.output()
        self.account = read_account(self.case.paths)

    def _from_elsewhere(self, copy: Path) -> dict[str, Any]:
        """As from a machine that has another name and none of the shared memory."""
        coming_and_going = shutil.ignore_patterns("snapshots", "logs", ".*")
        shutil.copytree(self.case.paths.root, copy, ignore=coming_and_going)
        (lock,) = copy.glob("supervisor-*.lock")
        body = json.loads(lock.read_text())
        lock.rename(copy / "supervisor-elsewhere.lock").write_text(json.dumps({**body, "host": "elsewhere"}))
        return status(RunPaths(copy))


@pytest.fixture(scope="module")
def eventful(tmp_path_factory: pytest.TempPathFactory) -> Eventful:
    return Eventful(tmp_path_factory.mktemp("eventful"))


def seconds(account: Account) -> dict[Bucket, float]:
    return {bucket: amount / 1e6 for bucket, amount in account.ledger.buckets.items()}


def test_every_second_is_in_one_bucket_and_the_whole_is_the_wall_time(eventful: Eventful) -> None:
    ledger = eventful.account.ledger
    assert_whole(ledger)
    entries = list(read_journal(eventful.case.paths.journal))
    first, last = entries[0], entries[-1]
    assert ledger.total / 1e6 == pytest.approx(last["time"] - first["time"] + first["age"], abs=0.05)


def test_each_thing_that_happened_has_its_bucket(eventful: Eventful) -> None:
    found = seconds(eventful.account)
    for bucket in Bucket:
        if bucket not in {Bucket.REPLAY, Bucket.BACKOFF, Bucket.IDLE}:
            assert found[bucket] > 0, bucket
    assert found[Bucket.HANG] >= 3, "hang.min_seconds"
    assert found[Bucket.EVALUATION] == pytest.approx(0.6, abs=0.3)
    assert found[Bucket.STEPS] > _STEPS * 0.03 * 0.9, "each step that counts sleeps for so long"
    assert found[Bucket.DISCARDED] > 25 * 0.03
    assert not found[Bucket.IDLE]


def test_each_incident_has_what_it_cost(eventful: Eventful) -> None:
    ledger = eventful.account.ledger
    kinds = {one.failure["failure_class"]: ledger.costs[one.number] for one in ledger.incidents}
    assert kinds["hang"][Bucket.HANG] == ledger.buckets[Bucket.HANG]
    assert Bucket.LOST in kinds["killed"]
    assert Bucket.QUEUE in kinds["preemption"]
    assert {Bucket.QUEUE, Bucket.LAUNCH, Bucket.IMPORT} <= set(kinds["supervisor lost"])


def test_rounds_add_up_to_all_steps_once(eventful: Eventful) -> None:
    ledger = eventful.account.ledger
    assert sum(ledger.kept[one.number] - one.step for one in ledger.rounds) == _STEPS


def test_the_report_says_so_in_text_json_and_html(eventful: Eventful) -> None:
    case, html = eventful.case, eventful.case.workspace.directory / "report.html"
    runs = f"dir={case.paths.root.parent}"
    code, printed, _ = command("report", "eventful", runs, "--json", "--html", str(html))
    body = json.loads(printed)
    assert code == 0
    assert sum(body["buckets"].values()) == pytest.approx(body["seconds"], abs=1e-6)
    assert body["state"] == "finished"
    assert {"hang", "killed", "preemption", "supervisor lost"} <= {row["class"] for row in body["incidents"]}
    assert [row["target"] for row in body["rollbacks"]] == [110]
    _, text, _ = command("report", runs)  # the latest run
    for words in ("eventful: goodput", "rolled back", "hang detection", "killed: SIGKILL", "Finished at step 300"):
        assert words in text
    page = html.read_text()
    assert 'class="line discarded"' in page
    assert "Thread" in page or "File " in page, "the stacks of the hang are in it"


def test_its_status_while_it_is_up(eventful: Eventful) -> None:
    seen = eventful.seen
    assert (seen["run"], seen["live"], seen["total"], seen["metric"]) == ("eventful", True, _STEPS, "loss")
    assert seen["state"] == "running"
    assert seen["step"] >= 80
    assert seen["ranks"][0]["step"] >= 80
    assert 0.03 <= seen["step_seconds"] < 5
    assert seen["seconds_left"] > 0
    assert {"memory", "local"} <= {snapshot["tier"] for snapshot in seen["snapshots"]}
    assert {"hang", "killed"} <= {incident["class"] for incident in seen["incidents"]}
    assert 0 < seen["goodput"] < 1


def test_its_status_as_another_machine_sees_it(eventful: Eventful) -> None:
    seen = eventful.elsewhere
    assert seen["live"]
    assert seen["ranks"] == [], "their boards are in another machine's memory"
    assert seen["step"] >= 110
    assert seen["rollbacks"] == 1
    assert {snapshot["tier"] for snapshot in seen["snapshots"]} >= {"local"}


def test_its_status_afterwards_in_plain_lines(eventful: Eventful) -> None:
    words = (sys.executable, "-m", "resilient", "status", "eventful")
    done = subprocess.run(words, cwd=eventful.case.workspace.directory, capture_output=True, text=True, check=True)
    assert "eventful: finished" in done.stdout
    assert "\x1b" not in done.stdout
    code, shown, _ = command("status", str(eventful.case.paths.root), "--watch", "--json")
    assert code == 0, "there is nothing more to be seen of a run that has ended"
    assert json.loads(shown)["state"] == "finished"
    code, shown, _ = command("status", f"conf={eventful.case.configuration()}", "run.id=eventful", *_dir(eventful.case))
    assert "eventful: finished" in shown


def _dir(case: RunCase) -> tuple[str]:
    return (f"run.dir={case.paths.root.parent}",)


def test_a_supervisor_elsewhere_that_writes_nothing_any_more_is_taken_for_lost(
    eventful: Eventful, tmp_path: Path
) -> None:
    copy = tmp_path / "eventful"
    shutil.copytree(eventful.case.paths.root, copy, symlinks=True)
    (copy / "status.json").unlink()
    owner = {"pid": 1, "started": 1.0, "host": "elsewhere"}
    (copy / "supervisor-elsewhere.lock").write_text(json.dumps(owner))
    journal = copy / "journal" / f"{socket.gethostname().split('.')[0]}.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(line for line in whole if not re.search(r'"(EndRun|supervisor ended)"', line)))
    assert read_account(RunPaths(copy), now=time.time()).live
    later = read_account(RunPaths(copy), now=time.time() + 3600)
    assert not later.live
    assert later.state == "its supervisor is gone"
    assert_whole(later.ledger)


def test_a_run_that_is_not_there_is_said_not_to_be(eventful: Eventful) -> None:
    for name in ("report", "status"):
        code, _, said = command(name, "eventfull", f"dir={eventful.case.paths.root.parent}")
        assert code == ExitCode.NOT_FOUND
        assert "did you mean eventful?" in said
