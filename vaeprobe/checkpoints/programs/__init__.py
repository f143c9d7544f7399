"""Self-contained programs, run by operators of a list and nothing else."""
