"""Many runs: comparisons, the paper's tables and figure, timed sessions."""
