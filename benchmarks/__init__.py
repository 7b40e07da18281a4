"""Benchmarks of training, input and detection; results are in docs/results/benchmarks."""
