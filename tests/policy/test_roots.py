"""Which rank was first, told as histories of four ranks."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from resilient.errors import ExitCode
from resilient.policy.decisions import KillWorkers, ListSnapshots, RecordIncident
from resilient.policy.events import (
    FlushEnded,
    LaunchFailed,
    RunOpened,
    SnapshotsListed,
    StopKind,
    StopRequested,
    Tick,
    WorkerExited,
    WorkerProgressed,
)
from resilient.policy.failures import Evidence, Failure, FailureClass, classify
from resilient.policy.hang import HangSettings
from resilient.policy.machine import decide
from resilient.policy.roots import Loss, find_root, told_by_others
from resilient.policy.state import Phase, PolicySettings, RunState

SIGKILL = classify(Evidence(-9))
OOM = classify(Evidence(-9, oom_kills=1))
CODE = classify(Evidence(1, ("KeyError", "Exception"), "'lr'"))
PEER = classify(Evidence(1, ("RuntimeError",), "[../gloo/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1"))
WATCHDOG = classify(Evidence(-6, log=("[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=1)",)))
SEGFAULT = classify(Evidence(-11))


def lost(rank: int, failure: Failure, at: float = 0.0, *, after_kill: bool = False, step: int = 10) -> Loss:
    return Loss(rank, step, failure, at, after_kill)


def killed_by_us(*ranks: int) -> list[Loss]:
    return [lost(rank, SIGKILL, 9.0, after_kill=True) for rank in ranks]


# --- the pure choice


def test_an_echo_that_is_noticed_first_gives_way_to_its_root() -> None:
    losses = [lost(2, PEER, 5.0), lost(1, CODE, 4.9, after_kill=True), *killed_by_us(0, 3)]
    assert find_root(losses).rank == 1


def test_of_two_that_failed_by_themselves_the_earlier_is_the_root() -> None:
    assert find_root([lost(0, CODE, 5.0), lost(3, SEGFAULT, 4.0, after_kill=True)]).rank == 3
    assert find_root([lost(0, CODE, 4.0), lost(3, SEGFAULT, 5.0, after_kill=True)]).rank == 0


def test_an_earlier_echo_is_still_an_echo() -> None:
    """The watchdog of a rank may give up before the one that is stuck raises its own error."""
    assert find_root([lost(0, WATCHDOG, 3.0), lost(1, CODE, 4.0, after_kill=True)]).failure == CODE


def test_echoes_alone_are_a_hang_or_the_network() -> None:
    assert find_root([lost(0, WATCHDOG, 3.0), *killed_by_us(1)]).failure.failure_class is FailureClass.HANG
    assert find_root([lost(0, PEER, 3.0), *killed_by_us(1)]).failure.failure_class is FailureClass.NETWORK


def test_the_kernels_kill_is_found_behind_an_echo_that_was_noticed_before_it() -> None:
    assert find_root([lost(0, PEER, 3.0), lost(1, OOM, 3.1, after_kill=True)]).failure is OOM


def test_a_hang_on_a_device_that_fell_off_the_bus_is_a_matter_of_hardware() -> None:
    xid = "NVRM: Xid (PCI:0000:3b:00): 79, pid=7, GPU has fallen off the bus."
    hang, dead = Failure(FailureClass.HANG, "no progress in phase step"), classify(Evidence(-9, kernel=(xid,)))
    assert find_root([lost(0, hang, 5.0), lost(2, dead, 6.0, after_kill=True)]).rank == 2
    assert find_root([lost(0, CODE, 5.0), lost(2, dead, 6.0, after_kill=True)]).failure is CODE
    assert find_root([lost(0, hang, 5.0), *killed_by_us(1, 2)]).failure is hang


def test_our_own_kill_is_nobodys_failure() -> None:
    root = find_root([lost(0, SEGFAULT, 5.0), *killed_by_us(1, 2, 3)])
    assert (root.rank, root.failure) == (0, SEGFAULT)
    assert told_by_others([root, *killed_by_us(1, 2, 3)], root) == ()


def test_the_others_are_told_in_order_of_time() -> None:
    losses = [lost(2, PEER, 5.0), lost(1, CODE, 4.0, after_kill=True), lost(3, PEER, 4.5, after_kill=True)]
    told = told_by_others(losses, find_root(losses))
    assert [line.split()[1] for line in told] == ["3", "2"]
    assert "Connection closed by peer" in told[0]


FAILURES = st.sampled_from([SIGKILL, OOM, CODE, PEER, WATCHDOG, SEGFAULT])
LOSSES = st.lists(
    st.builds(Loss, st.integers(0, 7), st.integers(0, 9), FAILURES, st.floats(0, 10), st.booleans()),
    min_size=1,
    max_size=8,
)


@given(LOSSES)
def test_there_is_always_a_root_that_is_no_echo_and_the_order_of_notice_does_not_matter(losses: list[Loss]) -> None:
    root = find_root(losses)
    assert root.failure.failure_class is not FailureClass.ECHO
    assert any(loss.rank == root.rank and loss.failure.signature == root.failure.signature for loss in losses)
    if len({loss.at for loss in losses}) == len(losses):
        for shuffled in itertools.islice(itertools.permutations(losses), 24):
            assert find_root(list(shuffled)) == root


# --- through the machine


class Group:
    """Four ranks that run, and what happens to them."""

    def __init__(self, ranks: int = 4, hang: HangSettings | None = None) -> None:
        self.state = RunState(settings=PolicySettings(ranks=ranks, hang=hang or HangSettings(), seed="demo"))
        self.on(RunOpened())
        self.on(SnapshotsListed())
        for rank in range(ranks):
            self.on(WorkerProgressed(rank, 10))

    def on(self, event: object, at: float = 0.0) -> list[object]:
        self.state, decisions = decide(self.state, event, at)  # type: ignore[arg-type]
        return list(decisions)

    def clear(self, at: float) -> RecordIncident:
        """The rest of the group dies of our SIGKILL."""
        decisions: list[object] = []
        for rank in sorted(self.state.live):
            decisions = self.on(WorkerExited(rank, 10, SIGKILL), at)
        assert isinstance(decisions[0], RecordIncident)
        return decisions[0]


def test_the_first_loss_kills_at_once_and_the_verdict_comes_when_all_are_gone() -> None:
    group = Group()
    (kill,) = group.on(WorkerExited(2, 10, PEER), at=5.0)
    assert isinstance(kill, KillWorkers)
    assert group.state.incidents == 1, "the number is reserved, so that evidence can be kept under it"
    assert group.state.failure is not None
    assert group.state.failure.number == 1
    assert group.on(WorkerExited(1, 11, CODE, at=4.5), at=5.1) == []
    incident = group.clear(5.2).incident
    assert (incident.number, incident.rank, incident.step, incident.failure) == (1, 1, 11, CODE)
    assert incident.others[0].startswith("rank 2 after step 10: echo")
    assert group.state.history.rounds[-1].rank == 1


def test_an_error_that_was_written_before_the_kill_counts_though_the_rank_died_of_the_kill() -> None:
    """It had raised and was still tearing down; the exit status says SIGKILL, the error file says why."""
    group = Group()
    group.on(WorkerExited(0, 10, WATCHDOG), at=600.0)
    raised = classify(Evidence(-9, ("KeyError", "Exception"), "'lr'"))
    group.on(WorkerExited(3, 10, raised, at=1.0), at=600.1)
    assert group.clear(600.2).incident.rank == 3


def test_a_hang_whose_root_had_raised_is_named_after_it() -> None:
    watchful = HangSettings(startup_seconds=100.0, min_seconds=5.0, factor=2.0, phase_seconds=30.0, stack_seconds=0.0)
    group = Group(hang=watchful)
    assert [type(decision) for decision in group.on(Tick(), at=50.0)] == [KillWorkers]
    raised = classify(Evidence(-9, ("KeyError", "Exception"), "'lr'"))
    group.on(WorkerExited(3, 10, raised, at=20.0), at=50.1)
    assert group.clear(50.2).incident.failure.failure_class is FailureClass.CODE


def test_a_hang_alone_stays_one() -> None:
    watchful = HangSettings(startup_seconds=100.0, min_seconds=5.0, factor=2.0, phase_seconds=30.0, stack_seconds=0.0)
    group = Group(hang=watchful)
    group.on(Tick(), at=50.0)
    incident = group.clear(50.2).incident
    assert incident.failure.failure_class is FailureClass.HANG
    assert incident.rank is None, "without stacks, nobody can be told from the others"


def test_a_request_while_the_group_is_cleared_ends_the_run_and_the_incident_is_recorded_all_the_same() -> None:
    group = Group()
    group.on(WorkerExited(0, 10, SEGFAULT), at=1.0)
    group.on(StopRequested(StopKind.REQUEST, 20.0), at=1.1)
    recorded = group.clear(1.2)
    assert recorded.incident.failure == SEGFAULT
    assert recorded.charged is None
    assert "asked to stop" in recorded.incident.remedy
    assert group.state.phase is Phase.FLUSHING


def test_the_remedy_says_what_is_done() -> None:
    group = Group()
    group.on(WorkerExited(0, 10, SEGFAULT), at=1.0)
    assert group.clear(1.2).incident.remedy == "relaunch"
    code = Group(ranks=1)
    code.on(WorkerExited(0, 10, SEGFAULT))
    code.on(SnapshotsListed(10))
    stopped, _ = code.on(WorkerExited(0, 10, CODE))
    assert isinstance(stopped, RecordIncident)
    assert stopped.incident.remedy == "stop: worker error"


def test_workers_that_cannot_be_launched_are_an_incident_of_the_group() -> None:
    state = RunState(settings=PolicySettings(ranks=2))
    for event in (RunOpened(), SnapshotsListed()):
        state, _ = decide(state, event, 0.0)
    state, decisions = decide(state, LaunchFailed(classify(Evidence(1, ("OSError",), "fork: no memory"))), 0.0)
    assert [type(decision) for decision in decisions] == [RecordIncident, ListSnapshots]


def test_the_diagnosis_says_what_which_rank_which_step_what_was_tried_what_to_do_and_where_to_look() -> None:
    group = Group()
    bug = classify(Evidence(1, ("RuntimeError",), "label 1003 is out of range"))
    for number in range(3):
        group.on(WorkerExited(2, 10, PEER), at=number)
        group.on(WorkerExited(1, 10, bug, at=number - 0.5), at=number)
        group.clear(number)
        if group.state.phase is Phase.WAITING:
            group.on(Tick(), at=1e6)
        if number < 2:
            group.on(SnapshotsListed(10))
    (end,) = group.on(FlushEnded(10))
    assert group.state.ending == end
    assert group.state.ending is not None
    assert group.state.ending.exit_code is ExitCode.CRASH_LOOP
    for words in (
        "label 1003 is out of range",  # intact, with its number
        "3 times in a row after step 10",
        "It began on rank 1 after step 10 of round 2",
        "1 other rank failed after it",
        "2 relaunches; 2 rounds without progress",
        "always on rank 1",
        "correct the script",
        "resilient incidents demo 3",
        "Durable up to step 10",
    ):
        assert words in group.state.ending.diagnosis, words
