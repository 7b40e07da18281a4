"""The networks, as Linen modules and nothing else."""
