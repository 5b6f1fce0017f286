"""What a run's journal and metrics tell afterwards."""
