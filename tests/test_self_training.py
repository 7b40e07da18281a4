"""Self-training: targets that follow their views, the loss in closed form, what is refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import config as configuration
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import self_training, task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import state as states
from landmarks_jax.training import step as steps
from landmarks_jax.training.targets import for_training, merging_of
from tests import running
from tests.running import TINY


def narrow(**fields):
    """A narrow configuration of self-training, of four points that start from a grid."""
    own = {
        "objective__task": "self_training",
        "objective__composition": "all",  # not used
        "model__num_landmarks": 4,
        "targets__grid": 2,
        "targets__weights": "vgg.npz",
        "targets__network": "vgg16",
        "targets__taps": ("relu1_2", "relu2_1"),
        "targets__view_size": 16,
    }
    return running.narrow(**{**TINY, **own, **fields})


def weights_of(config, points):
    """How targets are made of the points of a grid."""
    mirrored = self_training.mirrored_order(points.shape[1]) if config.targets.mirror else None
    return merging_of(config, points, mirrored, later=False)


@pytest.mark.parametrize("grid", [1, 2, 3, 8])
def test_the_mirrored_order_takes_each_column_to_the_opposite_one(grid):
    order = self_training.mirrored_order(grid * grid)
    np.testing.assert_array_equal(order[order], np.arange(grid * grid))
    places = np.linspace(-1, 1, grid) if grid > 1 else np.zeros(1)
    points = np.stack(np.meshgrid(places, places), -1).reshape(-1, 2)
    np.testing.assert_allclose(points[order], points * [-1, 1])


CANVAS, VIEW = 80, 64


def blobs(points, colors, size=CANVAS, sigma=2.5):
    """Canvases `[B, size, size, 3]` uint8 with a blob of each colour at its point `[B, K, 2]`."""
    centers = (2 * np.arange(size) + 1) / size - 1
    scale = 2 * (2 * sigma / size) ** 2
    across = np.exp(-((centers - points[..., :1]) ** 2) / scale)
    down = np.exp(-((centers - points[..., 1:]) ** 2) / scale)
    images = np.einsum("bkh,bkw,kc->bhwc", down, across, np.asarray(colors, float))
    return (255 * images.clip(0, 1)).round().astype(np.uint8)


def centroids(images):
    """The centres of mass `[B, 2]` of images, normalised."""
    weights = np.asarray(images, float).sum(-1)
    centers = (2 * np.arange(weights.shape[1]) + 1) / weights.shape[1] - 1
    total = weights.sum((1, 2))
    x, y = (np.einsum("bhw,w->b", w, centers) for w in (weights, weights.swapaxes(1, 2)))
    return np.stack([x, y], -1) / total[:, None]


@pytest.mark.parametrize("mirror", [False, True])
def test_targets_follow_their_views(mirror):
    config = narrow(
        data__canvas_size=CANVAS,
        views__size=VIEW,
        views__scale_range=(0.8, 1.2),
        targets__mirror=mirror,
    )
    rng = np.random.default_rng(0)
    quadrants = np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]]) * 0.25
    points = (quadrants + rng.uniform(-0.15, 0.15, (12, 4, 2))).astype(np.float32)
    draw = jax.jit(partial(self_training.draw, config=config))
    targets = for_training(points, weights_of(config, points))
    key, white = jax.random.key(3), [[1, 1, 1]]
    seen = []
    for k in range(4):
        drawn = draw(key, 5, blobs(points[:, k : k + 1], white), targets)
        assert drawn.images.shape == (12, VIEW, VIEW, 3)
        assert drawn.targets.shape == (12, 4, 2)
        gaps = np.linalg.norm(drawn.targets - centroids(drawn.images)[:, None], axis=-1)
        assert gaps.min(1).max() < 0.02  # a blob's place is a target, to half a pixel
        seen.append(gaps.argmin(1))
    seen = np.stack(seen, 1)
    mirrored = seen[:, 0] == 1
    assert mirrored.any() == mirror
    assert not mirrored.all()
    # In a mirrored view the point on the left is the one that was on the right.
    np.testing.assert_array_equal(seen[mirrored], np.tile([1, 0, 3, 2], (mirrored.sum(), 1)))
    np.testing.assert_array_equal(seen[~mirrored], np.tile(range(4), ((~mirrored).sum(), 1)))


@pytest.fixture(name="batch")
def make_batch():
    rng = np.random.default_rng(1)
    canvases = rng.integers(0, 256, (8, 20, 20, 3), np.uint8)
    return canvases, rng.uniform(-0.6, 0.6, (8, 4, 2)).astype(np.float32)


def test_colours_and_covers_change_images_but_not_targets(batch):
    key = jax.random.key(0)
    strong = narrow(views__color_std=0.2, views__cutout=0.5)
    plain, other = (
        jax.jit(partial(self_training.draw, config=config))(key, 0, *batch)
        for config in (narrow(), strong)
    )
    np.testing.assert_array_equal(other.targets, plain.targets)
    assert np.abs(other.images - plain.images).max((1, 2, 3)).min() > 0.02
    assert other.images.min() >= 0
    assert other.images.max() <= 1


def test_steps_and_micro_batches_draw_by_the_row_of_the_global_batch(batch):
    config = narrow(train__accumulate=2, targets__mirror=True, views__color_std=0.2)
    draw = jax.jit(partial(self_training.draw, config=config))
    key, (canvases, points) = jax.random.key(1), batch
    points = for_training(points, weights_of(config, points))
    whole = draw(key, 3, canvases, points)
    for number in range(2):
        rows = slice(number, None, 2)
        part = draw(key, 3, canvases[rows], points[rows], microbatch=number)
        np.testing.assert_allclose(part.images, whole.images[rows], atol=1e-6)
        np.testing.assert_allclose(part.targets, whole.targets[rows], atol=1e-6)
    assert np.abs(draw(key, 4, canvases, points).targets - whole.targets).max() > 0.05


def test_the_loss_is_the_mean_distance_of_the_targets_inside():
    landmarks = np.array([[[0.3, 0.4], [0.5, 0.5]], [[0, 0], [-0.2, 0.1]]], np.float32)
    targets = np.array([[[0, 0], [1.01, 0]], [[0, -1], [-0.2, 0.1]]], np.float32)
    # Distances 0.5, outside, 1 and 0.
    assert self_training.target_loss(landmarks, targets) == pytest.approx(0.5, abs=1e-6)
    gradient = jax.grad(self_training.target_loss)(jnp.asarray(landmarks), targets)
    expected = [[[0.2, 0.8 / 3], [0, 0]], [[0, 1 / 3], [0, 0]]]
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_targets_outside_the_view_do_not_count():
    landmarks = jnp.zeros((2, 3, 2))
    targets = jnp.full((2, 3, 2), 1.2).at[0, 1].set(jnp.array([0.6, -0.8]))
    value, gradient = jax.value_and_grad(self_training.target_loss)(landmarks, targets)
    assert value == pytest.approx(1)
    np.testing.assert_allclose(gradient.sum((0, 1)), [-0.6, 0.8], atol=1e-6)
    value, gradient = jax.value_and_grad(self_training.target_loss)(
        landmarks, jnp.full((2, 3, 2), -3.0)
    )
    assert value == 0
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"data__crop": "box", "views__scale_std": 0.0, "views__shift_std": 0.0}, "data.crop"),
        ({"perceptual__weights": "vgg.npz"}, "perceptual.weights = 'vgg.npz': must be ''"),
        ({"targets__grid": 0}, "targets.grid = 0: must be above 0 where config.targets.detector"),
        ({"targets__grid": -1}, "targets.grid = -1: must be a whole number from 0"),
        ({"targets__mirror": True, "targets__detector": "faces"}, "targets.mirror = True"),
        ({"targets__merge": (2, 0)}, "targets.merge = (2, 0): must be numbers of groups"),
        ({"targets__merge": (2, 1)}, "model.num_landmarks = 4: must be 3, the sum of"),
        ({"model__num_landmarks": 5}, "model.num_landmarks = 5: must be 4, the points of"),
        ({"targets__weights": ""}, "targets.weights = '': must be VGG weights"),
        (
            {"targets__network": "vgg11"},
            "targets.network = 'vgg11': must be one of vgg16, vgg19, hog",
        ),
        ({"targets__taps": ()}, "targets.taps = (): must be some of relu1_1"),
        ({"targets__taps": ("relu3_4",)}, "targets.taps = ('relu3_4',): must be some of"),
        ({"targets__steps": ()}, "targets.steps = (): must be ascending steps, the first"),
        ({"targets__steps": (1, 2)}, "targets.steps = (1, 2)"),
        ({"targets__steps": (0, 5, 5)}, "targets.steps = (0, 5, 5)"),
        ({"targets__steps": (0, 7, 5)}, "targets.steps = (0, 7, 5)"),
        ({"targets__steps": (0, 2.5)}, "targets.steps = (0, 2.5)"),
        ({"targets__spreads": ()}, "targets.spreads = (): must be one or more positive"),
        ({"targets__spreads": (0.1, 0.0)}, "targets.spreads = (0.1, 0.0)"),
        ({"targets__spreads": (0.1, float("nan"))}, "targets.spreads = (0.1, nan)"),
        ({"targets__temperatures": (0.1,)}, "targets.temperatures = (0.1,): must be as many"),
        ({"targets__temperatures": (-0.1,) * 10}, "targets.temperatures = (-0.1,"),
        ({"targets__components": 0}, "targets.components = 0: must be a whole number from 1"),
        ({"targets__num_fit": 1}, "targets.num_fit = 1: must be a whole number from 2"),
        ({"targets__num_views": 0}, "targets.num_views = 0: must be a whole number from 1"),
        ({"targets__extent": 1.5}, "targets.extent = 1.5: must be from 0 to 1"),
        # A view of 16 pixels has a canvas of 20, one of 20 pixels would have 25: no whole border.
        ({"targets__view_size": 20}, "targets.view_size = 20: must be a multiple of 8"),
        ({"views__color_std": -0.1}, "views.color_std = -0.1: must be from 0"),
        ({"views__cutout": 1.5}, "views.cutout = 1.5: must be from 0 to 1"),
    ],
)
def test_each_refusal_names_its_field(fields, message):
    configuration.validate(narrow())
    with pytest.raises(ConfigError) as refused:
        configuration.validate(narrow(**fields))
    assert str(refused.value).startswith(f"config.{message}")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("canvas", "view", "features"),
    [(60, 48, 128), (60, 48, 96), (72, 48, 100), (16, 16, 30), (80, 64, 128), (40, 24, 48)],
)
def test_the_features_canvas_has_the_same_border(canvas, view, features):
    config = narrow(data__canvas_size=canvas, views__size=view, targets__view_size=features)
    fits = (features * canvas) % view == 0 and (features * canvas // view - features) % 2 == 0
    if fits:
        configuration.validate(config)
        return
    with pytest.raises(ConfigError, match=r"config\.targets\.view_size"):
        configuration.validate(config)


def test_other_tasks_do_not_look_at_targets():
    configuration.validate(running.narrow(targets__grid=0, targets__taps=("none",)))


def test_tables_say_what_the_points_were_refined_by():
    config = narrow(data__crop="tight")
    assert task_of(config).describe(config) == (
        "self-trained (ours, not in the paper) with the tight crop, without annotation, on points "
        "refined by vgg16 at relu1_2, relu2_1"
    )


def test_a_detector_learns_its_targets():
    config = narrow(
        data__canvas_size=40,
        views__size=32,
        views__color_std=0.1,
        model__num_landmarks=4,
        optimizer__learning_rate=1e-2,
    )
    networks, optimizer = task_of(config).build_networks(config), states.make_optimizer(config)
    options = {"config": config, "networks": networks}
    key = jax.random.key(0)
    start = jax.jit(partial(states.initial_state, optimizer=optimizer, **options))(key)
    rng = np.random.default_rng(2)
    points = rng.uniform(-0.6, 0.6, (64, 4, 2)).astype(np.float32)
    canvases = blobs(points, [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0.6, 0.6, 0.6]], size=40)
    frozen = Frozen(key, {}, np.zeros(3, np.float32), np.ones(3, np.float32))
    empty = steps.empty_totals(start, canvases[:16], frozen, points[:16], **options)
    step = jax.jit(partial(steps.train_step, optimizer=optimizer, **options))
    state, losses = start, []
    for number in range(50):
        rows = slice(16 * (number % 4), 16 * (number % 4) + 16)
        state, totals = step(state, empty, canvases[rows], frozen, points[rows])
        losses.append(float(totals.sums["loss"]))
    assert totals.bad_step == -1
    assert losses[0] > 0.4
    assert np.mean(losses[-5:]) < 0.12  # less than two pixels
