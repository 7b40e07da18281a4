"""The memory benchmark: what it measures of a narrow configuration, and its table."""

from benchmarks import memory
from benchmarks.accelerator import TINY
from tests.benchmarking import HEAD

FIELDS = {name.replace("__", "."): value for name, value in TINY.items()}
FIELDS |= {"model.generator_channels": 2, "train.batch_size": 4}
# What the state of some configurations holds besides.
FIELDS |= {"perceptual.balance": True, "optimizer.ema_decay": 0.9}


def test_a_configurations_memory_is_planned_and_does_not_grow():
    row = memory.measure("paper", FIELDS)
    assert (row["config"], row["batch"], row["dtype"]) == ("paper", 4, "float32")
    # The state alone: parameters, and Adam's two means of each, in float32.
    assert row["planned_mib"]["arguments"] > 0.05
    assert row["planned_mib"]["temporary"] > 0.05
    first, last = row["host_peak_mib"]
    assert 0 <= last - first < 50


def test_the_table_shows_what_was_planned_and_held():
    row = {"config": "paper", "batch": 4, "dtype": "float32", "host_peak_mib": [990.0, 1000.4]}
    plan = {"arguments": 10.4, "temporary": 2000.0, "device_peak": 3000.2}
    text = memory.to_markdown({**HEAD, "rows": [{**row, "planned_mib": plan}]})
    assert "| `paper` | 4 | float32 | 10 | 2,000 | 1,000 | 3,000 |" in text
    assert "grew by 10 MiB" in text
