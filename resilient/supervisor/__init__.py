"""The process that owns a node's workers. Imports no torch and runs no user code."""
