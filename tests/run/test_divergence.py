"""Training that diverges under a real supervisor: found, rolled back, the poison left out, and the run finished; with
whatever else may happen to it meanwhile.
"""

from __future__ import annotations

import functools
import json
import math
import random
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from resilient.cli import main
from resilient.drill.faults import KillSupervisor, KillWorker, Preempt, flip_bit
from resilient.errors import ExitCode, FaultNotInjected
from resilient.policy.lineage import Lineage, RollbackCause
from resilient.protocol.lineage_file import read_lineage
from resilient.protocol.names import image_name
from resilient.protocol.paths import RunPaths
from resilient.protocol.tracker_settings import TrackersSettings, WandbMode, WandbSettings
from resilient.snapshot import catalog
from resilient.snapshot.compare import first_difference
from resilient.trackers.making import make
from resilient.trackers.tracker import Context
from tests.run.conftest import make_workspace
from tests.run.harness import RunCase, Running, Workspace
from tests.trackers.logs import tell
from tests.trackers.wandb_file import stored

MARGIN = 2
TOLD = "state.position: only one has ['resolved']"
FATAL = Path(__file__).with_name("fatal.py")
Trained = tuple[int, int, list[int]]  # round, step, samples


def diverging(workspace: Workspace, run_id: str, *settings: str, ranks: int = 1, steps: int = 60) -> RunCase:
    """A run whose samples are recorded."""
    place = workspace.directory / "consumed" / run_id
    place.mkdir(parents=True, exist_ok=True)
    conf = "diverging" if ranks == 1 else "diverging_ranks"
    lineage = workspace.directory / "runs" / run_id / "lineage.json"
    own = [f"train.consumed={place}", f"train.lineage={lineage}"]
    return workspace.run(run_id, *own, *settings, steps=steps, conf=conf, ranks=ranks)


def trained(case: RunCase, rank: int = 0) -> list[Trained]:
    """What was trained on, in order."""
    record = case.workspace.directory / "consumed" / case.run_id / f"rank-{rank}.jsonl"
    return [(round_number, step, samples) for round_number, step, samples in map(json.loads, record.open())]


def samples_of(found: Sequence[Trained], steps: range) -> set[int]:
    return {sample for _, step, samples in found if step in steps for sample in samples}


def lineage_of(case: RunCase) -> Lineage:
    return read_lineage(case.paths)


def rounds_from(case: RunCase, number: int) -> list[Trained]:
    return [item for rank in range(case.ranks) for item in trained(case, rank) if item[0] >= number]


@pytest.fixture(scope="session")
def clean(tmp_path_factory: pytest.TempPathFactory) -> RunCase:
    """The run whose data is sound: it says which samples come when."""
    case = diverging(make_workspace(tmp_path_factory.mktemp("clean")), "clean", steps=90)
    assert case.finish() == 0, case.output()
    assert not lineage_of(case).rollbacks
    return case


def poison(clean: RunCase, *steps: int) -> str:
    """One sample of each of these steps."""
    return str([samples[1] for _, step, samples in trained(clean) if step in steps])


@pytest.fixture(scope="session")
def rolled_back(tmp_path_factory: pytest.TempPathFactory, clean: RunCase) -> RunCase:
    """The run that was rolled back once, and that nothing else happened to."""
    case = diverging(make_workspace(tmp_path_factory.mktemp("once")), "once", f"train.deadly={poison(clean, 35)}")
    assert case.finish() == 0, case.output()
    return case


def wait_until(condition: Callable[[], Any], running: Running, seconds: float = 60.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, running.case.output()
        assert running.process.poll() is None, running.case.output()
        time.sleep(0.02)
    return found


def assert_rolled_back_once(case: RunCase, clean: RunCase, target: int, skip: tuple[int, int]) -> None:
    lineage = lineage_of(case)
    (rollback,) = lineage.rollbacks
    assert not lineage.pending
    assert (rollback.target, rollback.skip, rollback.cause) == (target, skip, RollbackCause.DIVERGENCE)
    left_out = samples_of(trained(clean), range(skip[0], skip[1] + 1))
    assert left_out
    after = rounds_from(case, rollback.round + 1)
    assert after
    assert not left_out & {sample for _, _, samples in after for sample in samples}
    assert all(map(math.isfinite, case.losses().values()))
    assert len(case.losses()) == 60


def test_trackers_show_the_rollback(rolled_back: RunCase, tmp_path: Path) -> None:
    """Those that are turned on afterwards are told the whole run."""
    shutil.copytree(rolled_back.paths.root, tmp_path / "once", ignore=shutil.ignore_patterns("snapshots"))
    paths, settings = RunPaths(tmp_path / "once"), TrackersSettings()
    wandb = WandbSettings(enabled=True, mode=WandbMode.offline, system_metrics=False)
    context = Context(paths, replace(settings, wandb=wandb), paths.identity())
    for name in ("tensorboard", "wandb"):
        tell(name, functools.partial(make, name), context)

    reader = EventAccumulator(str(paths.root / "tensorboard"), size_guidance={"scalars": 0})
    reader.Reload()
    assert [event.step for event in reader.Scalars("loss")] == list(range(1, 61))  # the discarded ones are purged
    lineages = {event.step: event.value for event in reader.Scalars("resilient/lineage")}
    assert lineages == {step: float(step > 20) for step in range(1, 61)}

    found = stored(paths.root)  # one, unless wandb had to be tried again
    rows = [row for each in found for row in each.history]
    told = {(row["resilient/lineage"], row["train/step"]) for row in rows if "loss" in row}
    assert {step for lineage, step in told if lineage == 0} >= set(range(1, 36))
    assert {step for lineage, step in told if lineage == 1} == set(range(21, 61))
    assert {row["resilient/rolled_back_to"] for row in rows if "resilient/rolled_back_to" in row} == {20}
    assert {title for each in found for title in each.alerts} == {"Incident 1: divergence", "Rollback"}


def test_a_run_is_rolled_back_and_never_meets_the_poison_again(rolled_back: RunCase, clean: RunCase) -> None:
    assert_rolled_back_once(rolled_back, clean, 20, (21, 35 + MARGIN))
    assert not catalog.discarded(rolled_back.paths.snapshots)  # the run has come well past it
    assert len(rolled_back.journal("MetricsJudged")) < 20  # those that decided something
    assert rolled_back.incidents() == ["divergence"]
    text = rolled_back.output()
    assert "DIVERGENCE" in text
    assert "rolling back to step 20, leaving out the data of steps 21 to 37" in text
    assert "starting from step 20 in local" in text
    assert main(["replay", str(rolled_back.paths.root)]) == ExitCode.FINISHED
    # what comes after the target is what came after the window, as if the data had never been there
    after = {step: samples for _, step, samples in rounds_from(rolled_back, 1)}
    before = {step: samples for _, step, samples in trained(clean)}
    assert all(after[step] == before[step + 17] for step in range(21, 61))


# --- whatever happens meanwhile, the run ends as it would have


def assert_same_end(case: RunCase, reference: RunCase, steps: int = 60) -> None:
    """Every loss that counts and every byte of the final state are those of the run that was only rolled back."""
    assert case.losses() == reference.losses()
    # A round that was told which data is left out does not note that it has found it out itself.
    assert first_difference(case.image(steps), reference.image(steps)) in (None, TOLD)
    last, expected = lineage_of(case).rollbacks[-1], lineage_of(reference).rollbacks[-1]
    assert (last.target, last.skip, last.skipped) == (expected.target, expected.skip, expected.skipped)
    assert len(lineage_of(case).rollbacks) == len(lineage_of(reference).rollbacks)
    assert main(["replay", str(case.paths.root)]) == ExitCode.FINISHED  # the journal has all that was decided on


MOMENTS = [
    ("SIGKILL", "before:SaveLineage:1"),  # found, and nobody knows
    ("SIGKILL", "after:SaveLineage:1"),  # written down, and the workers are still there
    ("SIGKILL", "after:KillWorkers:1"),
    ("SIGKILL", "before:DiscardAfter:1"),
    ("SIGKILL", "after:DiscardAfter:1"),
    ("SIGKILL", "before:LaunchRound:1"),
    ("SIGKILL", "after:LaunchRound:1"),  # the round begins, and the rollback still counts as pending
    ("SIGKILL", "after:SaveLineage:3"),
    ("SIGTERM", "before:SaveLineage:1"),
    ("SIGTERM", "before:DiscardAfter:1"),
    ("SIGTERM", "after:RestoreSnapshot:1"),
    ("SIGTERM", "after:LaunchRound:1"),
]


@pytest.mark.parametrize(("number", "moment"), MOMENTS)
def test_the_supervisor_is_struck_in_the_middle_of_a_rollback(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase, number: str, moment: str
) -> None:
    case = diverging(workspace, "struck", f"train.deadly={poison(clean, 35)}")
    code = replace(case, program=(str(FATAL), number, moment)).finish()
    assert code == (ExitCode.REQUEUE if number == "SIGTERM" else -9), case.output()
    assert case.finish() == 0, case.output()
    assert_same_end(case, rolled_back)
    assert_rolled_back_once(case, clean, 20, (21, 35 + MARGIN))


def strike(dice: random.Random, running: Running, *, first: bool) -> str:
    """Something happens to a run that is near its divergence, in the middle of its rollback, or after it.

    Not before that: which snapshots are good enough to go back to would depend on it.
    """
    with suppress(OSError, psutil.Error, FaultNotInjected):  # it may have ended, or have no worker
        if first or dice.random() < 0.4:
            running.wait_for_step(dice.choice((33, 34, 35)))
            time.sleep(dice.choice((0.0, dice.uniform(0, 0.3))))
        else:
            time.sleep(dice.uniform(0, 8))
        return dice.choice((KillWorker(), Preempt(), KillSupervisor(), KillSupervisor())).inject(running.target)
    return "nothing"


@pytest.mark.parametrize("seed", [1, None], ids=["known", "fresh"])
def test_whatever_strikes_a_run_around_its_rollback_it_ends_as_it_would_have(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase, seed: int | None
) -> None:
    seed = random.SystemRandom().randrange(1 << 30) if seed is None else seed
    print(f"seed {seed}")
    dice, budgets = random.Random(seed), [f"restarts.{name}=90" for name in ("max_failures", "intensity", "crash_loop")]
    case = diverging(workspace, "storm", f"train.deadly={poison(clean, 35)}", "train.step_seconds=0.03", *budgets)
    for number in range(4):
        running = case.start()
        print(strike(dice, running, first=not number))
        code = running.wait()
        workspace.wait_until_alone()
        if code == 0:
            break
        assert code in (-9, -15, ExitCode.REQUEUE), case.output()  # -15: before the supervisor can heed it
    else:
        assert case.finish() == 0, case.output()
    assert_same_end(case, rolled_back)
    assert_rolled_back_once(case, clean, 20, (21, 35 + MARGIN))


def test_a_person_goes_back_farther_before_anybody_has_said_which_data_is_left_out(
    workspace: Workspace, clean: RunCase
) -> None:
    case = diverging(workspace, "farther", f"train.deadly={poison(clean, 35)}")
    struck = ("SIGKILL", "after:SaveLineage:3")  # the round is launched, and does not get to its data
    assert replace(case, program=(str(FATAL), *struck)).finish() == -9, case.output()
    workspace.wait_until_alone()
    before = lineage_of(case)
    assert (before.pending, before.unresolved) == (False, ((21, 35 + MARGIN),))
    words, deadline = (
        ["rollback", f"run={case.run_id}", f"dir={case.paths.root.parent}", "step=10"],
        time.monotonic() + 60,
    )
    while (code := main(words)) == ExitCode.RUN_LOCKED and time.monotonic() < deadline:
        time.sleep(0.2)  # the kernel has not taken the killed one apart yet
    assert code == 0
    assert lineage_of(case).unresolved == ((21, 35 + MARGIN),)
    assert case.finish() == 0, case.output()
    assert [back.skipped is not None for back in lineage_of(case).rollbacks] == [True, False]
    after = {step: samples for _, step, samples in rounds_from(case, before.rollbacks[0].round + 2)}
    whole = {step: samples for _, step, samples in trained(clean)}
    assert all(after[step] == whole[step if step <= 20 else step + 17] for step in range(11, 61))


@pytest.mark.parametrize("step", [22, 38, 55])
def test_a_worker_is_killed_after_a_rollback(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase, step: int
) -> None:
    case = diverging(workspace, "killed", f"train.deadly={poison(clean, 35)}")
    running = case.start()
    wait_until(lambda: case.paths.log(1, 0).exists(), running)
    running.wait_for_step(step)
    KillWorker().inject(running.target)
    assert running.wait() == 0, case.output()
    assert_same_end(case, rolled_back)
    assert_rolled_back_once(case, clean, 20, (21, 35 + MARGIN))


def test_a_target_that_is_corrupt_gives_way_to_an_older_snapshot(workspace: Workspace, clean: RunCase) -> None:
    case = diverging(workspace, "corrupt", f"train.deadly={poison(clean, 35)}")
    assert replace(case, program=(str(FATAL), "SIGKILL", "after:SaveLineage:1")).finish() == -9, case.output()
    flip_bit(case.paths.snapshot(20) / image_name(0), 5000)
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert rollback.target == 10
    assert "bad snapshot" in case.incidents()
    assert all(map(math.isfinite, case.losses().values()))
    poisoned = samples_of(trained(clean), range(33, 38))
    assert not poisoned & {sample for _, _, samples in rounds_from(case, 1) for sample in samples}


# --- the steps before it are run again first


def test_the_hardware_is_asked_before_data_is_left_out(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase
) -> None:
    case = diverging(workspace, "asked", f"train.deadly={poison(clean, 35)}", "divergence.replay.enabled=true")
    assert case.finish() == 0, case.output()
    (ended,) = case.journal("ReplayEnded")
    assert cast("dict[str, Any]", ended["verdict"])["kind"] == "reproduced", ended
    assert_same_end(case, rolled_back)
    assert "run again: reproduced" in (case.paths.incident(1) / "incident.json").read_text()


def test_a_preemption_does_not_wait_for_a_replay(workspace: Workspace, clean: RunCase, rolled_back: RunCase) -> None:
    settings = [f"train.deadly={poison(clean, 35)}", "divergence.replay.enabled=true"]
    case = diverging(workspace, "hurried", *settings, "train.step_seconds=0.05")
    running = case.start()
    wait_until((case.paths.incident(1) / "replay.log").exists, running)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert not workspace.wait_until_alone()
    assert lineage_of(case).pending
    assert case.finish() == 0, case.output()
    assert_same_end(case, rolled_back)


# --- what else there is to go wrong


def test_what_recurs_goes_deeper_and_then_lowers_the_learning_rate(workspace: Workspace, clean: RunCase) -> None:
    # 35 → back to 20, and step 21 has the data of 38 → there once more, without the data of as many steps again, and
    # step 21 has that of 72 → back to 10
    case = diverging(workspace, "deeper", f"train.deadly={poison(clean, 35, 38, 72)}")
    assert case.finish() == 0, case.output()
    rollbacks = lineage_of(case).rollbacks
    assert [rollback.target for rollback in rollbacks] == [20, 20, 10]
    assert [rollback.lr_factor for rollback in rollbacks] == [1.0, 1.0, 0.5]
    assert "starting from step 10 in local, learning rate × 0.5, leaving out" in case.output()
    assert all(map(math.isfinite, case.losses().values()))
    last = rounds_from(case, rollbacks[-1].round + 1)
    assert not samples_of(trained(clean), range(11, 75)) & {sample for _, _, samples in last for sample in samples}
    status = json.loads(case.paths.status.read_text())
    assert (status["rollbacks"], status["lr_factor"]) == (3, 0.5)


def test_a_run_that_cannot_be_brought_back_ends_and_goes_on_from_before_it_when_asked(
    workspace: Workspace, clean: RunCase
) -> None:
    case = diverging(workspace, "lost", f"train.deadly={poison(clean, 35, 38)}", "divergence.ladder.attempts=1")
    assert case.finish() == ExitCode.DIVERGED, case.output()
    assert "resilient incidents lost 2" in case.output()
    assert max(catalog.committed_steps(case.paths.snapshots)) <= 20
    assert catalog.discarded(case.paths.snapshots)
    assert case.finish("divergence.ladder.attempts=4") == 0, case.output()
    assert all(map(math.isfinite, case.losses().values()))


def test_a_divergence_may_be_looked_on(workspace: Workspace, clean: RunCase) -> None:
    case = diverging(workspace, "watched", f"train.deadly={poison(clean, 35)}", "divergence.respond=false")
    assert case.finish() == 0, case.output()
    assert case.incidents() == ["divergence"]
    assert len(case.journal("LaunchRound")) == 1
    assert "divergence.respond is off" in case.output()
    assert math.isnan(case.losses()[60])


def test_a_script_that_ends_itself_over_a_loss_that_is_not_finite(workspace: Workspace, clean: RunCase) -> None:
    case = diverging(workspace, "raising", f"train.deadly={poison(clean, 35)}", "train.raises=true")
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert rollback.target == 20
    assert len(case.losses()) == 60
    assert all(map(math.isfinite, case.losses().values()))


def test_a_spike_that_lasts(workspace: Workspace, clean: RunCase) -> None:
    case = diverging(workspace, "spike", f"train.heavy={poison(clean, 35)}")
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert rollback.target in (10, 20)
    assert "ALARM, spike of loss since step 35" in case.output()
    assert "DIVERGENCE, loss is" in case.output()
    assert max(loss for step, loss in case.losses().items() if step > 20) < 100


def test_a_divergence_in_the_very_last_step(workspace: Workspace, clean: RunCase) -> None:
    case = diverging(workspace, "last", f"train.deadly={poison(clean, 60)}")
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert (rollback.reached, rollback.skip) == (60, (rollback.target + 1, 60 + MARGIN))
    assert len(case.losses()) == 60
    assert all(map(math.isfinite, case.losses().values()))
    assert case.finish("train.steps=70", "run.allow_drift=true") == 0, case.output()  # the total is raised later
    assert len(case.losses()) == 70
    after = {sample for _, _, samples in rounds_from(case, rollback.round + 1) for sample in samples}
    assert not samples_of(trained(clean), range(rollback.target + 1, 60 + MARGIN + 1)) & after


def test_an_alarm_that_is_open_when_the_run_is_preempted_is_open_after_it(workspace: Workspace, clean: RunCase) -> None:
    slow = ["divergence.metrics.loss.spike.patience=15", "train.step_seconds=0.05"]
    case = diverging(workspace, "open", f"train.heavy={poison(clean, 35)}", *slow)
    running = case.start()
    running.wait_for_step(40)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    assert not lineage_of(case).rollbacks, "within the patience"
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert rollback.target in (10, 20)
    assert "spike of loss since step 35" in rollback.reason
    assert case.output().count("ALARM") == 1


def test_two_ranks_leave_out_the_same_data(workspace: Workspace) -> None:
    sound = diverging(workspace, "two_sound", ranks=2, steps=90)
    assert sound.finish() == 0, sound.output()
    bad = [samples[1] for _, step, samples in trained(sound, 1) if step == 35]
    case = diverging(workspace, "two", f"train.deadly={bad}", ranks=2)
    assert case.finish() == 0, case.output()
    (rollback,) = lineage_of(case).rollbacks
    assert (rollback.target, rollback.skip) == (20, (21, 38))  # rank 0 sees the other rank's poison a step later
    left_out = {sample for rank in range(2) for sample in samples_of(trained(sound, rank), range(21, 39))}
    after = {sample for _, _, samples in rounds_from(case, rollback.round + 1) for sample in samples}
    assert after
    assert not left_out & after
    assert all(map(math.isfinite, case.losses().values()))


def test_a_bare_machine_learns_of_the_rollback_from_the_remote_tier(
    workspace: Workspace, clean: RunCase, rolled_back: RunCase
) -> None:
    place = workspace.directory / "remote"
    place.mkdir()
    case = diverging(workspace, "bare", f"train.deadly={poison(clean, 35)}", f"remote.url={place}")
    running = case.start()
    wait_until(lambda: case.paths.log(1, 0).exists(), running)
    running.wait_for_step(47)
    Preempt().inject(running.target)
    assert running.wait() == ExitCode.REQUEUE, case.output()
    rounds = {item[0] for item in trained(case)}
    before = case.losses()
    shutil.rmtree(case.paths.root)
    assert case.finish() == 0, case.output()
    assert {**before, **case.losses()} == rolled_back.losses()
    assert first_difference(case.image(60), rolled_back.image(60)) in (None, TOLD)
    assert [(back.target, back.skip) for back in lineage_of(case).rollbacks] == [(20, (21, 37))]
    assert max(round_number for round_number, _, _ in trained(case)) > max(rounds)
