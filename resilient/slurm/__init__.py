"""SLURM: what a job is told of itself, how long it has, and how it comes back; pure parsers beside the commands."""
