"""The real step's loss and whole gradient are those of the plain composition, in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import views
from landmarks_jax.models import vgg
from landmarks_jax.tasks import landmarks, task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training.state import TrainState
from tests import plain

pytestmark = pytest.mark.usefixtures("module_x64")

TAPS = ("relu1_1", "relu2_1")
SIDE, ROWS = 16, 3
# A constant that a batch norm or the softmax over positions takes out again: the gradient is 0.
IDLE = [f"['detector']['{layer}']['bias']" for layer in ("stem", "last", "head")]


@pytest.mark.parametrize("bn_groups", ["joint", "released"])
def test_loss_and_gradient_are_the_plain_compositions(narrow_config, filled, bn_groups):
    config = narrow_config(
        views__size=SIDE,
        # 2c = 4 and 4c + 3 = 11 channels, which the generator fills up to 8 and 16.
        model__generator_channels=2,
        model__hourglass_depth=1,
        objective__bn_groups=bn_groups,
        perceptual__weights="vgg.npz",
        perceptual__taps=TAPS,
    )
    networks = task_of(config).build_networks(config)
    fill = partial(filled, dtype=np.float64, use_running_average=True)
    image, maps = (1, SIDE, SIDE, 3), (1, SIDE // 4, SIDE // 4, 3)
    drawn = {
        "detector": fill(networks.detector, image),
        "generator": fill(networks.generator, image, maps),
    }
    params, stats = ({n: v[part] for n, v in drawn.items()} for part in ("params", "batch_stats"))
    rng = np.random.default_rng(0)
    shapes = vgg.parameter_shapes("vgg16", TAPS)
    weights = {name: rng.normal(0, 0.1, shape) for name, shape in shapes.items()}
    x, other = rng.uniform(size=(2, ROWS, SIDE, SIDE, 3))
    auxiliary = np.array([1, 2, 0])

    maps_to_canvas = jnp.broadcast_to(jnp.eye(2, 3), (ROWS, 2, 3))
    pair = views.Views(x, maps_to_canvas), views.Views(other, maps_to_canvas)
    state = TrainState(jnp.zeros((), jnp.int32), params, stats, None, {}, {})
    frozen = Frozen(jax.random.key(0), weights, np.zeros(3), np.ones(3))

    def real(params):
        return landmarks.loss(
            params,
            state,
            landmarks.Drawn(pair, auxiliary),
            frozen,
            config=config,
            networks=networks,
        )[0]

    compose = plain.released_loss if bn_groups == "released" else plain.joint_loss
    wanted_of = partial(
        compose, x=x, other=other, auxiliary=auxiliary, vgg_params=weights, config=config
    )
    actual, gradient = jax.jit(jax.value_and_grad(real))(params)
    expected, plain_gradient = jax.jit(jax.value_and_grad(wanted_of))(params)
    assert actual == pytest.approx(float(expected), rel=1e-9)
    whole = np.sqrt(sum((np.asarray(leaf) ** 2).sum() for leaf in jax.tree.leaves(gradient)))
    assert whole > 1e-3

    def compare(path, leaf, wanted_leaf):
        name = jax.tree_util.keystr(path)
        size = np.linalg.norm(wanted_leaf)
        if name in IDLE:
            assert max(size, np.linalg.norm(leaf)) < 1e-12 * whole, name
        else:
            assert np.linalg.norm(leaf - wanted_leaf) <= 1e-9 * size, name

    jax.tree_util.tree_map_with_path(compare, gradient, plain_gradient)
