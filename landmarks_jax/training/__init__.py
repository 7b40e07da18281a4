"""State, step, loop, checkpoints and reports."""
