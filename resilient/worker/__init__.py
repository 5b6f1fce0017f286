"""The torch side: the user's API, capturing and restoring state, the position in the data, and the warm forkserver."""
