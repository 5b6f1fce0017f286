"""The rules that the table of :mod:`resilient.policy.machine` names, by what a run is going through."""
