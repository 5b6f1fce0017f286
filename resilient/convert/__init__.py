"""Snapshots for the tools of others, and theirs for us."""
