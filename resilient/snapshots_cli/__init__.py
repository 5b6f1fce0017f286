"""``resilient snapshot`` and ``resilient snapshots …``: asking for a snapshot, and looking after those there are.

Everything here is safe while the run is up: looking only reads, pins are seen by the run's own retention, and what
would get in its way is refused.
"""
