"""The run folder, and nothing else."""
