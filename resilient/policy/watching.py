"""Who is silent for too long, and what is said of it: what the rules of the state machine on hangs are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from resilient.policy.culprit import Condition, RankAccount, Silent, find_culprit
from resilient.policy.events import RestoreFailed, SnapshotRestored, Tier
from resilient.policy.failures import Failure, FailureClass
from resilient.policy.state import RunState


def hung_ranks(state: RunState, now: float) -> tuple[int, ...]:
    """The live ranks that are over their limit."""
    settings, watches = state.settings.hang, state.watches
    if not settings.enabled:
        return ()
    # what is looked at twenty times a second, for each rank of a thousand: whether any is silent for long enough at all
    before = now - settings.shortest
    silent = [rank for rank in state.live if watches[rank].since < before]
    return tuple(rank for rank in sorted(silent) if watches[rank].is_hung(settings, now))


def still_silent(state: RunState) -> tuple[int, ...]:
    """Of the ranks that were over their limit, those that have not moved on since then."""
    assert state.dumping is not None  # noqa: S101  asked in DUMPING alone, which is entered with one
    since = state.dumping.since
    return tuple(rank for rank in state.dumping.hung if rank in state.live and state.watches[rank].since <= since)


def passed_by(state: RunState) -> Failure:
    """A silence that was none."""
    assert state.dumping is not None  # noqa: S101  asked in DUMPING alone, which is entered with one
    watch = state.watches[state.dumping.hung[0]]
    return Failure(FailureClass.HANG, f"no progress for a while, now in phase {watch.phase}")


def name_hang(
    state: RunState, silent: Sequence[int], accounts: Sequence[RankAccount]
) -> tuple[int | None, Failure, str]:
    """The rank that the group waits for (None: it cannot be told), the failure, and why the group is killed.

    All ranks that have not moved on since the first one was over its limit are looked at: the others may be over
    theirs a moment later.
    """
    assert state.dumping is not None  # noqa: S101  asked in DUMPING alone, which is entered with one
    known = {account.rank: account for account in accounts}
    quiet = [rank for rank in sorted(state.live) if state.watches[rank].since <= state.dumping.since]
    found = find_culprit(
        [
            Silent(known.get(rank, RankAccount(rank)), state.watches[rank].step, state.watches[rank].since)
            for rank in quiet
        ]
    )
    rank = found.rank if found is not None else None
    account = found if found is not None else known.get(silent[0], RankAccount(silent[0]))
    watch = state.watches[account.rank]
    signature = f"no progress in phase {watch.phase}"
    if account.condition is not Condition.RUNNING:
        signature = f"{signature}: {account.condition.value}"
    failure = Failure(FailureClass.HANG, signature, where=account.where)
    who = f"rank {rank}" if rank is not None else f"the group of {len(state.live)}"
    limit = state.watches[silent[0]].limit(state.settings.hang)
    return rank, failure, f"{who} hangs: {failure.told} (limit {limit:.1f} s)"


def learned_by_restoring(state: RunState, event: SnapshotRestored, now: float) -> Mapping[str, float]:
    """What is known of all phases after a restore: what the snapshot brings for those that nobody here has seen, and
    how long the restore itself took.
    """
    phase = _restoring(event.tier)
    known = {**event.durations, **state.durations}
    return {**known, phase: max(known.get(phase, 0.0), now - state.restoring_since)}


def late_restore(state: RunState, now: float) -> RestoreFailed | None:
    """The restore that is over its limit, as one that has failed."""
    restoring, settings = state.restoring, state.settings.hang
    if restoring is None or not settings.enabled:
        return None
    limit = settings.limit_of(_restoring(restoring.tier), state.learned.get(_restoring(restoring.tier)))
    if now - state.restoring_since <= limit:
        return None
    return RestoreFailed(restoring.step, f"no answer from whoever reads it within {limit:.1f} s", restoring.tier)


def _restoring(tier: Tier) -> str:
    return f"restore from {tier.value}"
