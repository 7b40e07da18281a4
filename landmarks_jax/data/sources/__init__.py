"""Data sets: one module each, opened by `registry`."""
