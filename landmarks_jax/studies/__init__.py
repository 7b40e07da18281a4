"""Many runs: comparisons, the tables of the paper, its figure."""
