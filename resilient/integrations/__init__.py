"""Adapters for frameworks that own the training loop. Each module imports its framework; nothing else here does."""
