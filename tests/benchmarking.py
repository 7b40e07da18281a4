"""What the tests of benchmarks share."""

# What stands at the head of every result, as `harness.environment` gives it.
HEAD = {"command": "c", "versions": {}, "python": "3", "device": "d", "machine": "m"}
