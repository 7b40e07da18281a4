"""Self-training with reconstruction: both losses and gradients add up, and a run of two rounds."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from landmarks_jax import config as configuration
from landmarks_jax.models import vgg
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import landmarks, self_training, task_of
from landmarks_jax.tasks import self_training_reconstruction as both
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import sharding
from landmarks_jax.training import state as states
from landmarks_jax.training.run_folder import read_log
from tests import test_self_training
from tests.running import leaves_of, train

TASK = "self_training_reconstruction"


def narrow(**fields):
    own = {
        "objective__task": TASK,
        "objective__composition": "baseline",
        "objective__reconstruction_weight": 0.3,
        "views__bend_std": 0.05,
        "views__color_std": 0.2,
        "views__cutout": 0.4,
        "perceptual__weights": "vgg.npz",
        "perceptual__taps": ("relu1_2", "relu2_1"),
        "perceptual__balance": True,
    }
    return test_self_training.narrow(**{**own, **fields})


@pytest.fixture(name="batch")
def make_batch(x64):
    """Canvases, targets, frozen inputs and a state after nothing."""
    config = narrow(compute_dtype="float64")
    rng = np.random.default_rng(0)
    canvases = rng.integers(0, 256, (4, 20, 20, 3), np.uint8)
    points = rng.uniform(-0.6, 0.6, (4, 4, 2))
    shapes = vgg.parameter_shapes("vgg16", config.perceptual.taps)
    weights = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    frozen = Frozen(jax.random.key(0), weights, np.full(3, 0.45), np.full(3, 0.25))
    networks = task_of(config).build_networks(config)
    state = states.start_state(config, networks, sharding.make_mesh(jax.devices()[:1]))
    return config, networks, state, frozen, canvases, points


def test_losses_and_gradients_of_both_tasks_add_up(batch):
    config, networks, state, frozen, canvases, points = batch
    options = {"config": config, "networks": networks}

    @partial(jax.jit, static_argnums=0)
    def differentiate(task, state, *inputs):
        drawn = task.draw(frozen.key, 3, *inputs, config=config)
        run = partial(task.loss, state=state, drawn=drawn, frozen=frozen, **options)
        (value, outcome), gradient = jax.value_and_grad(run, has_aux=True)(state.params)
        return value, outcome.metrics, outcome.batch_stats, outcome.tap_means, gradient

    value, metrics, stats, means, gradient = differentiate(both, state, canvases, points)
    alone = differentiate(self_training, state, canvases, points)
    after = dataclasses.replace(state, batch_stats={**state.batch_stats, **alone[2]})
    eq7 = differentiate(landmarks, after, canvases)
    assert value == pytest.approx(float(alone[0] + 0.3 * eq7[0]), rel=1e-12)
    assert metrics.keys() == eq7[1].keys() | {"targets", "reconstruction"}
    expected = {**eq7[1], "targets": alone[0], "reconstruction": eq7[0], "loss": value}
    for name, metric in metrics.items():
        np.testing.assert_allclose(metric, expected[name], rtol=1e-12, err_msg=name)
    close = partial(np.testing.assert_allclose, rtol=1e-10, atol=1e-12)
    # Statistics of batch norm follow the views with targets first, then the pairs.
    jax.tree.map(close, stats, eq7[2])
    jax.tree.map(close, means, eq7[3])
    jax.tree.map(
        lambda a, b, c: close(a, b + 0.3 * c),
        gradient["detector"],
        alone[4]["detector"],
        eq7[4]["detector"],
    )
    jax.tree.map(lambda a, b: close(a, 0.3 * b), gradient["generator"], eq7[4]["generator"])


def test_views_with_targets_and_pairs_are_drawn_independently(batch):
    config, _, _, frozen, canvases, points = batch
    drawn = jax.jit(partial(both.draw, config=config))(frozen.key, 3, canvases, points)
    assert drawn.moved.images.shape == drawn.reconstructed.pair[0].images.shape
    images = [drawn.moved.images, *(view.images for view in drawn.reconstructed.pair)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(images[first] - images[second]).mean((1, 2, 3)).min() > 0.02


def test_a_preview_shows_both(batch):
    config, networks, state, frozen, canvases, points = batch

    def preview():
        drawn = both.draw(frozen.key, 3, canvases, points, config=config)
        _, outcome = both.loss(state.params, state, drawn, frozen, config=config, networks=networks)
        return both.panels(drawn, outcome.made)

    titles = [panel.title for panel in jax.eval_shape(preview)]
    assert titles == ["landmarks", "targets", "x", "x'", "I_x'"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets__grid": 0}, "targets.grid = 0: must be above 0 where config.targets.detector"),
        ({"targets__steps": (1,)}, "targets.steps = (1,): must be ascending steps, the first"),
        ({"data__crop": "box", "views__scale_std": 0.0, "views__shift_std": 0.0}, "data.crop"),
        ({"perceptual__taps": ()}, "perceptual.taps = (): must be different ones of"),
        (
            {"perceptual__weights": "", "objective__pixel_weight": 0.0},
            "objective.pixel_weight = 0.0: must be above 0: nothing else compares",
        ),
        (
            {"objective__reconstruction_weight": -1.0},
            "objective.reconstruction_weight = -1.0: must be from 0",
        ),
        (
            {"objective__bn_groups": "released"},
            "objective.bn_groups = 'released': must be 'joint' with config.objective.task = ",
        ),
    ],
)
def test_what_either_task_refuses_is_refused(fields, message):
    configuration.validate(narrow())
    with pytest.raises(ConfigError) as refused:
        configuration.validate(narrow(**fields))
    assert str(refused.value).startswith(f"config.{message}")


def test_tables_say_that_both_were_trained_on():
    config = narrow()
    assert task_of(config).describe(config) == (
        "self-trained (ours, not in the paper) with the center crop, without annotation, on points "
        "refined by vgg16 at relu1_2, relu2_1, with the paper's reconstruction (baseline) as a "
        "second term of weight 0.3"
    )


def test_a_run_in_two_sessions_equals_one(tmp_path):
    config = narrow(
        data__num_synthetic=12,
        perceptual__weights="",
        perceptual__taps=(),
        targets__network="hog",
        targets__weights="",
        targets__taps=("fine",),
        targets__steps=(0, 2),
        targets__num_views=2,
    )
    assert train(config, tmp_path / "whole") == 0
    for steps in (3, 4):
        config.train.steps = steps
        assert train(config, tmp_path / "parts") == 0
    for name in ("whole", "parts"):
        assert sorted(path.name for path in (tmp_path / name / "targets").glob("*.npz")) == [
            *("0.npz", "2.npz")
        ]
    expected = leaves_of(tmp_path / "whole", config)
    assert any(path.startswith("params/generator/") for path in expected)
    for path, array in leaves_of(tmp_path / "parts", config).items():
        np.testing.assert_array_equal(array, expected[path], err_msg=path)
    log = read_log(tmp_path / "whole")
    assert [row["step"] for row in log] == [1, 2, 3, 4]
    for row in log:
        sums = row["targets"] + 0.3 * row["reconstruction"]
        assert row["loss"] == pytest.approx(sums, rel=1e-5)
