"""What a training prints of its intervals."""

import time

import jax.numpy as jnp
import pytest

from landmarks_jax.training.reports import Reporter
from landmarks_jax.training.step import Totals


@pytest.fixture(name="run")
def make_run(narrow_config, tmp_path, capsys):
    """The line of an interval of four steps, which ended after 8 of 248 steps and 130 seconds."""

    def run(metrics, minutes=0.0, deadline=None):
        config = narrow_config(train__steps=248, train__minutes=minutes, train__batch_size=4)
        sums = {name: jnp.asarray(4 * value) for name, value in metrics.items()}
        totals = Totals(jnp.asarray(4), sums, jnp.asarray(-1))
        options = {"start": 4, "seconds": 120.0, "deadline": deadline}
        with Reporter(tmp_path, config.train, **options) as reporter:
            reporter.metrics(reporter.interval(8, totals)._replace(seconds=130.0), None)
        return capsys.readouterr().out

    return run


@pytest.mark.parametrize(
    ("minutes", "deadline", "left"),
    [(0.0, None, 10.0), (5.0, None, 2.8), (5.0, 70, 1.0), (5.0, 1000, 2.8), (0.0, 5, 0.0)],
)
def test_the_time_left_is_until_steps_minutes_or_deadline_end(minutes, deadline, left, run):
    if deadline is not None:
        deadline += time.monotonic()
    line = run({"loss": 1.0}, minutes=minutes, deadline=deadline)
    assert line.startswith("step 8  loss 1.0000  ")
    assert line.endswith(f"  130 s  {left} min left\n")


@pytest.mark.parametrize(
    ("minutes", "left", "up"),
    [
        (0.0, None, False),
        (5.0, None, False),
        (2.0, None, True),  # as many as were trained before
        (0.0, 100, False),
        (0.0, 0, True),
        (5.0, 0, True),
        (2.0, 100, True),
    ],
)
def test_time_is_up_at_the_earlier_of_minutes_and_deadline(
    minutes, left, up, narrow_config, tmp_path
):
    config = narrow_config(train__minutes=minutes)
    deadline = None if left is None else time.monotonic() + left
    options = {"start": 4, "seconds": 120.0, "deadline": deadline}
    with Reporter(tmp_path, config.train, **options) as reporter:
        assert reporter.time_is_up() == up


def test_all_metrics_of_a_task_are_printed_and_nothing_else(run):
    metrics = {
        "anything": 7.0,
        "learning_rate": 1e-4,
        "loss": 1.0,
        "norm_detector": 2.0,
        "pixel": 3.0,
        "reconstruction": 4.0,
        "relu2_2": 8.0,
        "separation": 5.0,
        "targets": 6.0,
    }
    words = run(metrics).split("images/s")[0].split()[2:-1]
    assert words == [
        *("loss", "1.0000", "pixel", "3.0000", "separation", "5.0000"),
        *("anything", "7.0000", "reconstruction", "4.0000", "targets", "6.0000"),
    ]
