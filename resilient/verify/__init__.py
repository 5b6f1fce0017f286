"""Running steps of a run again from a snapshot, to find out whether the hardware computed them wrong.

Resuming is bit-exact, so the same steps give the same losses; where they do not, something else is at work than the
data and the optimization. What a replay says is decided in :mod:`resilient.policy.comparison`; here are the replays.
"""
