"""The table of the memory benchmark."""

from benchmarks import memory
from tests.benchmarking import HEAD


def test_the_table_shows_plan_and_peaks():
    row = {"config": "paper", "batch": 4, "dtype": "float32", "host_peak_mib": [990.0, 1000.4]}
    plan = {"arguments": 10.4, "temporary": 2000.0, "device_peak": 3000.2}
    text = memory.to_markdown({**HEAD, "rows": [{**row, "planned_mib": plan}]})
    assert "| `paper` | 4 | float32 | 10 | 2,000 | 1,000 | 3,000 |" in text
    assert "grew by 10 MiB" in text
