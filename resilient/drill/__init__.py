"""Faults as objects with names: the same ones serve the tests, the demo and drills on a user's own run."""
