"""The decision core: pure functions over frozen data.

Nothing here reads a clock, touches a file, logs, draws a random number or imports torch. The same core drives the real
supervisor, the replay of a journal and the cluster simulator.
"""
