"""Runs of several nodes: who leads, who takes part, and what they do together."""
