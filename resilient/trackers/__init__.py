"""Trackers: hooks on one frozen details object, in a process of their own beside the supervisor.

That process reads what the supervisor writes anyway, the journal and the log of metrics, and keeps in the run directory
how far each tracker has come. So the supervisor sends it nothing and waits for nothing of it: the files are the queue,
and a tracker that fails, hangs or is killed goes on from where it was. Each tracker reads in a thread of its own, at
its own pace.
"""
