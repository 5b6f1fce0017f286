"""A cluster that exists on paper: the decision core of real runs, driven through months of failures in seconds.

The lowest is what may go wrong (:mod:`resilient.simulate.faults`) and what is planned (:mod:`resilient.simulate.plan`);
:mod:`resilient.simulate.engine` plays the supervisor, the workers and the machines around
:func:`resilient.policy.machine.decide`; and :mod:`resilient.simulate.ledger` says where the time went.
"""
