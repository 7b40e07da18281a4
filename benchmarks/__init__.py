"""What is timed, and against what; results lie in docs/results/benchmarks."""
