"""What is timed, against what; the results lie in docs/results/benchmarks."""
