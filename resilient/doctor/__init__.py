"""The doctor: what of this machine, and of a configuration on it, will not work, and what to do about it.

Nothing here changes anything for good, and nothing here can hang: each check runs in a process of its own, under a
time limit.
"""
