"""A step in parts: the mean of their gradients, in double precision, and what moves with each."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landmarks_jax import config as configuration
from landmarks_jax.models import vgg
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import landmarks, task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import accumulation
from landmarks_jax.training import state as training_state
from landmarks_jax.training import step as training_step
from tests.running import TINY

pytestmark = pytest.mark.usefixtures("module_x64")

COUNT, STEP = 3, 5
KEEP = optax.GradientTransformation(
    partial(jax.tree.map, jnp.zeros_like), lambda gradient, _, params=None: (gradient, gradient)
)


@pytest.mark.parametrize("task", ["landmarks", "pose"])
def test_the_gradient_is_the_mean_of_the_gradients_of_the_parts(narrow_config, filled, task):
    config = narrow_config(
        data__canvas_size=20,
        views__size=16,
        train__batch_size=6,
        train__accumulate=COUNT,
        objective__task=task,
        objective__composition="inter",
        model__detector=TINY["model__detector"],
    )
    rng = np.random.default_rng(0)
    weights, points = {}, None
    if task == "pose":
        config.model.num_landmarks = 16
        points = rng.uniform(-1, 1, (6, 18, 2))
    else:
        config.perceptual.weights, config.perceptual.taps = "vgg.npz", ("relu1_1",)
        config.perceptual.balance = True
        shapes = vgg.parameter_shapes("vgg16", ("relu1_1",))
        weights = {name: jnp.asarray(rng.normal(0, 0.2, s)) for name, s in shapes.items()}
    networks = task_of(config).build_networks(config)
    fill = partial(filled, dtype=np.float64, use_running_average=True)
    drawn = {"detector": fill(networks.detector, (1, 16, 16, 3))}
    if networks.generator is not None:
        drawn["generator"] = fill(networks.generator, (1, 16, 16, 3), (1, 4, 4, 3))
    params, stats = ({n: v[part] for n, v in drawn.items()} for part in ("params", "batch_stats"))
    tap_means = {"relu1_1": jnp.asarray(0.3)} if task == "landmarks" else {}
    state = training_state.TrainState(
        np.int32(STEP), params, stats, KEEP.init(params), {}, tap_means
    )
    frozen = Frozen(jax.random.key(0), weights, jnp.zeros(3), jnp.ones(3))
    canvases = rng.integers(0, 256, (6, 20, 20, 3), np.uint8)

    step = partial(training_step.train_step, config=config, networks=networks, optimizer=KEEP)
    totals = training_step.empty_totals(
        state, canvases, frozen, points, config=config, networks=networks
    )
    after, totals = jax.jit(step)(state, totals, canvases, frozen, points)

    @jax.jit
    def of_part(stats, tap_means, part, canvases, points):
        moved = state.replace(batch_stats=stats, tap_means=tap_means)
        own = task_of(config)
        drawn = own.draw(frozen.key, STEP, canvases, points, config=config, microbatch=part)
        loss = partial(own.loss, config=config, networks=networks)
        return jax.grad(loss, has_aux=True)(state.params, moved, drawn, frozen)

    gradients, losses = [], []
    for part in range(COUNT):
        rows = slice(part, None, COUNT)
        its_points = None if points is None else points[rows]
        gradient, (metrics, stats, tap_means, _) = of_part(
            stats, tap_means, part, canvases[rows], its_points
        )
        gradients.append(gradient)
        losses.append(float(metrics["loss"]))

    mean = jax.tree.map(lambda *leaves: np.mean(leaves, 0), *gradients)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(mean)) > 1e-3
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-12), after.opt_state, mean)
    assert len(set(losses)) == COUNT
    assert totals.sums["loss"] == pytest.approx(np.mean(losses), rel=1e-12)
    assert totals.steps == 1
    assert after.step == STEP + 1
    close = partial(np.testing.assert_allclose, rtol=1e-12)
    jax.tree.map(close, after.batch_stats, stats)
    jax.tree.map(close, after.tap_means, tap_means)


def test_a_row_sees_the_same_in_any_part(narrow_config):
    config = narrow_config(data__canvas_size=10, views__size=8, train__batch_size=16)
    config.train.accumulate = 2
    canvases = np.random.default_rng(1).integers(0, 256, (16, 10, 10, 3), np.uint8)
    draw = jax.jit(partial(landmarks.draw, jax.random.key(3), 2, config=config))
    whole = draw(canvases)
    cut = accumulation.split(canvases, 2)
    np.testing.assert_array_equal(accumulation.first(canvases, 2), cut[0])
    auxiliaries = []
    for part in range(2):
        drawn = draw(cut[part], microbatch=part)
        for actual, expected in zip(drawn.pair, whole.pair, strict=True):
            np.testing.assert_array_equal(actual.images, expected.images[part::2])
            np.testing.assert_array_equal(actual.to_canvas, expected.to_canvas[part::2])
        auxiliaries.append(tuple(drawn.auxiliary.tolist()))
        assert sorted(auxiliaries[-1]) == list(range(8))
    assert auxiliaries[0] != auxiliaries[1]


@pytest.mark.parametrize("count", [3, 8])
def test_parts_must_divide_the_batch(narrow_config, count):
    config = narrow_config(train__batch_size=8, train__accumulate=count)
    with pytest.raises(ConfigError, match=rf"config\.train\.accumulate = {count}: must be a div"):
        configuration.validate(config)


def test_devices_share_every_part(narrow_config):
    config = narrow_config(train__batch_size=8, train__accumulate=2)
    configuration.check_devices(config, 4)
    with pytest.raises(ConfigError, match=r"8 devices times config\.train\.accumulate = 2"):
        configuration.check_devices(config, 8)
