"""``resilient rollback``: a run goes on from an earlier snapshot, whether it is up or not."""
