"""What supervisor and worker share: the board, the arena, the plan of a round, names and paths. No torch, no policy."""
