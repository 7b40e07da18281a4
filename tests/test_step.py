"""One training step in double precision: what moves, what the loss is made of, the optimiser."""

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from landmarks_jax import geometry, losses
from landmarks_jax.models import vgg
from landmarks_jax.tasks import landmarks, task_of
from landmarks_jax.tasks.task import Frozen
from landmarks_jax.training import state as training_state
from landmarks_jax.training import step as training_step
from tests import matrix_products

pytestmark = pytest.mark.usefixtures("module_x64")

TAPS = ("relu1_1", "relu1_2")
# A constant that a batch norm or the softmax over positions takes out again.
IDLE = {("detector", layer, "bias") for layer in ("stem", "last", "head")}
START, DECAY = 5, 0.9


def named(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


def remember():
    """An optimiser's first part that keeps the gradient it was given."""

    def update(gradient, _, params=None):
        return gradient, gradient

    return optax.GradientTransformation(partial(jax.tree.map, jnp.zeros_like), update)


@pytest.fixture(scope="module")
def run(narrow_config, filled):
    """A step with every optional term on, compiled once."""
    config = narrow_config(
        data__canvas_size=20,
        views__size=16,
        objective__bn_groups="released",
        objective__pixel_weight=0.7,
        objective__gradient_weight=0.6,
        objective__equivariance_weight=0.3,
        objective__separation_weight=0.2,
        perceptual__weights="vgg.npz",
        perceptual__taps=TAPS,
        perceptual__weight=0.4,
        perceptual__balance=True,
        optimizer__ema_decay=DECAY,
        optimizer__clip_norm=1.0,
        optimizer__drop_steps=(START + 1,),
    )
    config.perceptual.balance_decay = 0.75
    networks = task_of(config).build_networks(config)
    optimizer = optax.chain(remember(), training_state.make_optimizer(config))
    key = jax.random.key(0)
    blank = jax.eval_shape(
        partial(
            training_state.initial_state, config=config, networks=networks, optimizer=optimizer
        ),
        key,
    )
    size, cells = (1, 16, 16, 3), (1, 4, 4, 3)
    fill = partial(filled, dtype=np.float64, use_running_average=True)
    drawn = {
        "detector": fill(networks.detector, size),
        "generator": fill(networks.generator, size, cells),
    }
    params, stats = ({n: v[part] for n, v in drawn.items()} for part in ("params", "batch_stats"))
    start = training_state.TrainState(
        step=np.int32(START),
        params=params,
        batch_stats=stats,
        opt_state=jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), blank.opt_state),
        averaged=jax.tree.map(lambda leaf: leaf + 1.0, params),
        tap_means={tap: np.float64(0.1 * i) for i, tap in enumerate(TAPS, 1)},
    )
    # Drawn in NumPy, which is quicker than compiling the initialisation; the same tree.
    assert jax.tree.map(jnp.shape, start) == jax.tree.map(jnp.shape, blank)
    rng = np.random.default_rng(0)
    weights = {
        name: jnp.asarray(
            rng.normal(0, np.sqrt(2 / (9 * shape[-2])) if len(shape) > 1 else 0.1, shape)
        )
        for name, shape in vgg.parameter_shapes("vgg16", TAPS).items()
    }
    frozen = Frozen(key, weights, jnp.full(3, 0.45), jnp.full(3, 0.25))
    canvases = rng.integers(0, 256, (4, 20, 20, 3), np.uint8)
    options = {"config": config, "networks": networks}
    totals = training_step.empty_totals(start, canvases, frozen, **options)

    step = jax.jit(partial(training_step.train_step, optimizer=optimizer, **options))
    text = step.trace(start, totals, canvases, frozen).lower().as_text()
    after, sums = step(start, totals, canvases, frozen)
    return SimpleNamespace(
        config=config,
        networks=networks,
        optimizer=optimizer,
        start=start,
        frozen=frozen,
        canvases=canvases,
        totals=totals,
        step=step,
        text=text,
        after=after,
        sums=sums,
        gradient=after.opt_state[0],
        metrics=sums.sums,
    )


@pytest.fixture(scope="module")
def shown(run):
    """What the step above drew and made, by the panels that are shown of it."""

    @jax.jit
    def show(state, canvases, frozen):
        drawn = landmarks.draw(frozen.key, state.step, canvases, config=run.config)
        options = {"config": run.config, "networks": run.networks}
        _, outcome = landmarks.loss(state.params, state, drawn, frozen, **options)
        return landmarks.panels(drawn, outcome.made)

    return {panel.title: panel for panel in show(run.start, run.canvases, run.frozen)}


def test_a_step_counts_and_stays_finite_in_double_precision(run):
    assert run.after.step == START + 1
    assert run.after.step.dtype == jnp.int32
    assert run.sums.steps == 1
    assert run.sums.bad_step == -1
    for part in (run.after.params, run.after.batch_stats, run.sums.sums, run.gradient):
        for name, leaf in named(part).items():
            assert np.all(np.isfinite(leaf)), name
    for part in (run.after.params, run.after.batch_stats, run.after.averaged):
        assert {leaf.dtype for leaf in jax.tree.leaves(part)} == {jnp.dtype(jnp.float64)}
    norms = {"norm_detector", "norm_generator"}
    assert set(run.sums.sums) == {"loss", *losses.TERMS, *TAPS, *norms, "learning_rate"}
    assert [leaf.dtype for leaf in jax.tree.leaves(run.sums)] == [
        leaf.dtype for leaf in jax.tree.leaves(run.totals)
    ]


def test_matrix_products_are_in_full_precision(run):
    assert "stablehlo.dot_general" in run.text
    assert matrix_products.rounded(run.text) == []


def test_every_parameter_and_statistic_moves_but_those_that_cannot_matter(run):
    gradient, before, after = (
        named(tree) for tree in (run.gradient, run.start.params, run.after.params)
    )
    for name, leaf in gradient.items():
        size = np.abs(leaf).max()
        assert (size < 1e-14) if name in IDLE else (size > 1e-10), (name, size)
        if name not in IDLE:
            assert np.any(before[name] != after[name]), name
    stats = named(run.start.batch_stats), named(run.after.batch_stats)
    assert all(np.any(stats[1][name] != leaf) for name, leaf in stats[0].items())


def test_the_loss_is_the_weighted_sum_of_its_terms(run):
    m = run.metrics
    means = {tap: 0.75 * 0.1 * i + 0.25 * m[tap] for i, tap in enumerate(TAPS, 1)}
    expected = (
        0.7 * m["pixel"]
        + 0.6 * m["gradient"]
        + 0.3 * m["equivariance"]
        + 0.2 * m["separation"]
        + 0.4 * sum(m[tap] / means[tap] for tap in TAPS)
    )
    assert m["loss"] == pytest.approx(float(expected), rel=1e-12)
    for name in ("pixel", "equivariance", "separation", *TAPS):
        assert m[name] > 1e-6, name
    for tap in TAPS:
        assert run.after.tap_means[tap] == pytest.approx(float(means[tap]), rel=1e-12)
    for name in ("detector", "generator"):
        norm = np.sqrt(sum((leaf**2).sum() for leaf in named(run.gradient[name]).values()))
        assert run.sums.sums[f"norm_{name}"] == pytest.approx(norm, rel=1e-9)
    assert run.sums.sums["learning_rate"] == pytest.approx(1e-3)


def test_averaged_parameters(run):
    before, after, averaged = (
        named(t) for t in (run.start.averaged, run.after.params, run.after.averaged)
    )
    for name, leaf in averaged.items():
        expected = DECAY * before[name] + (1 - DECAY) * after[name]
        np.testing.assert_allclose(leaf, expected, atol=1e-14)


def test_the_step_decides_what_is_drawn(run):
    again = run.step(run.start, run.totals, run.canvases, run.frozen)
    jax.tree.map(np.testing.assert_array_equal, again[0].params, run.after.params)
    later = run.step(
        run.start.replace(step=np.int32(START + 1)), run.totals, run.canvases, run.frozen
    )
    assert later[1].sums["loss"] != run.metrics["loss"]
    assert later[1].sums["learning_rate"] == pytest.approx(1e-4)


def test_a_loss_that_is_not_finite_is_remembered_with_its_step(run):
    broken = run.frozen._replace(mean=jnp.full(3, jnp.nan))
    at = run.start.replace(step=np.int32(17))
    state, totals = run.step(at, run.sums, run.canvases, broken)
    assert totals.bad_step == 17
    assert totals.steps == 2
    totals = run.step(state, totals, run.canvases, run.frozen)[1]
    assert totals.bad_step == 17


@pytest.mark.parametrize("name", ["loss", "norm_detector", "norm_generator"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_loss_and_gradients_are_watched(run, name, value):
    totals = run.totals
    metrics = {metric: jnp.ones(()) for metric in totals.sums}
    totals = training_step.add(totals, metrics, jnp.asarray(2))
    assert totals.bad_step == -1
    totals = training_step.add(totals, metrics | {name: jnp.asarray(value)}, jnp.asarray(3))
    assert (int(totals.steps), int(totals.bad_step)) == (2, 3)


def test_the_first_step_sets_the_running_means():
    means, values = {"a": jnp.asarray(0.0)}, {"a": jnp.asarray(8.0)}
    first = landmarks.running_means(means, values, jnp.asarray(0), 0.9)
    assert first["a"] == 8.0
    second = landmarks.running_means(first, {"a": jnp.asarray(3.0)}, jnp.asarray(1), 0.9)
    assert second["a"] == pytest.approx(0.9 * 8.0 + 0.1 * 3.0)
    gradient = jax.grad(
        lambda v: landmarks.running_means(means, {"a": v}, jnp.asarray(1), 0.9)["a"]
    )
    assert gradient(jnp.asarray(3.0)) == 0


@pytest.mark.parametrize("auxiliary", ["each_step", "fixed"])
def test_auxiliaries_and_views_of_steps(narrow_config, auxiliary):
    config = narrow_config(data__canvas_size=10, views__size=8, objective__auxiliary=auxiliary)
    canvases = np.random.default_rng(1).integers(0, 256, (8, 10, 10, 3), np.uint8)
    draw = jax.jit(partial(landmarks.draw, config=config))
    key = jax.random.key(3)
    drawn = [draw(key, step, canvases) for step in range(4)]
    orders = {tuple(d.auxiliary.tolist()) for d in drawn}
    assert len(orders) == 1 if auxiliary == "fixed" else len(orders) > 1
    maps = np.stack([d.pair[0].to_canvas for d in drawn])
    assert len(np.unique(maps.reshape(32, -1), axis=0)) == 32
    other = draw(jax.random.key(4), 0, canvases)
    assert np.any(np.asarray(other.auxiliary) != np.asarray(drawn[0].auxiliary))
    assert np.all(np.any(np.asarray(other.pair[0].to_canvas) != maps[0], (1, 2)))


def test_a_row_of_the_batch_sees_the_same_whatever_comes_after_it(narrow_config):
    config = narrow_config(data__canvas_size=10, views__size=8)
    canvases = np.random.default_rng(1).integers(0, 256, (8, 10, 10, 3), np.uint8)
    draw = jax.jit(partial(landmarks.draw, config=config))
    many, few = (draw(jax.random.key(3), 2, canvases[:n]).pair[1] for n in (8, 3))
    np.testing.assert_array_equal(few.to_canvas, many.to_canvas[:3])
    np.testing.assert_array_equal(few.images, many.images[:3])


def test_the_metrics_are_those_of_what_was_made(run, shown):
    m, config = run.metrics, run.config
    # Against x', then x: each direction has a mean of its own.
    assert list(shown) == ["x", "x'", "I_a", "I_a'", "I_x'", "I_x"]
    assert {panel.images.shape for panel in shown.values()} == {(4, 16, 16, 3)}
    images = {title: np.asarray(panel.images) for title, panel in shown.items()}
    squares = [((images[f"I_{view}"] - images[view]) ** 2).mean() for view in ("x", "x'")]
    assert m["pixel"] == pytest.approx(sum(squares), rel=1e-9)
    drawn = jax.jit(partial(landmarks.draw, config=config))(
        run.frozen.key, run.start.step, run.canvases
    )
    maps = [np.asarray(view.to_canvas) for view in drawn.pair]
    np.testing.assert_allclose(images["x'"], drawn.pair[1].images, atol=1e-12)
    u, v = (np.asarray(shown[view].points) for view in ("x", "x'"))
    canvas = geometry.apply(maps[1], v)
    carried = geometry.apply(geometry.invert(maps[0]), canvas)
    visible = np.all(np.abs(carried) <= 1, -1)
    expected = ((carried - u) ** 2).sum(-1)[visible].mean()
    assert m["equivariance"] == pytest.approx(expected, rel=1e-9)
    expected = losses.separation_loss(jnp.concatenate([u, v]), config.objective.separation_sigma)
    assert m["separation"] == pytest.approx(float(expected), rel=1e-9)


def test_initial_state_is_of_the_precision_of_the_run(run, narrow_config):
    def shapes(config):
        networks = task_of(config).build_networks(config)
        optimizer = training_state.make_optimizer(config)
        build = partial(
            training_state.initial_state, config=config, networks=networks, optimizer=optimizer
        )
        return jax.eval_shape(build, jax.random.key(0))

    fresh = shapes(run.config)
    assert set(fresh.tap_means) == set(TAPS)
    assert jax.tree.map(jnp.shape, fresh.averaged) == jax.tree.map(jnp.shape, fresh.params)
    networks = fresh.params, fresh.batch_stats, fresh.averaged
    assert {leaf.dtype for leaf in jax.tree.leaves(networks)} == {jnp.dtype(jnp.float64)}
    plain = shapes(narrow_config(compute_dtype="bfloat16"))
    assert not plain.tap_means
    assert not plain.averaged
    networks = plain.params, plain.batch_stats
    assert {leaf.dtype for leaf in jax.tree.leaves(networks)} == {jnp.dtype(jnp.float32)}


def adam(parameters, gradients, rates, *, beta1, beta2, decay, clip):
    """Adam with L2 in the gradient, each network's gradient clipped by its own norm; in NumPy."""
    actual = {}
    for network, leaves in parameters.items():
        w = {name: leaf.copy() for name, leaf in leaves.items()}
        m = dict.fromkeys(w, 0.0)
        v = dict.fromkeys(w, 0.0)
        for t, (rate, step) in enumerate(zip(rates, gradients, strict=True), 1):
            norm = np.sqrt(sum((g**2).sum() for g in step[network].values()))
            shrink = min(1.0, clip / norm) if clip else 1.0
            for name in leaves:
                g = shrink * step[network][name] + decay * w[name]
                m[name] = beta1 * m[name] + (1 - beta1) * g
                v[name] = beta2 * v[name] + (1 - beta2) * g**2
                first, second = m[name] / (1 - beta1**t), v[name] / (1 - beta2**t)
                w[name] = w[name] - rate * first / (np.sqrt(second) + 1e-8)
        actual[network] = w
    return actual


@pytest.mark.parametrize(
    ("beta1", "beta2", "decay", "clip"),
    [(0.9, 0.999, 0.0, 0.0), (0.0, 0.9, 5e-4, 1.0), (0.5, 0.99, 0.1, 1.0)],
    ids=["paper", "released", "strong decay"],
)
def test_optimizer_is_adam_by_hand(narrow_config, beta1, beta2, decay, clip):
    config = narrow_config(
        optimizer__beta1=beta1,
        optimizer__beta2=beta2,
        optimizer__weight_decay=decay,
        optimizer__clip_norm=clip,
        optimizer__drop_steps=(2,),
    )
    rng = np.random.default_rng(2)

    def draw(detector, generator):
        return {
            "detector": {
                "a": detector * rng.normal(size=(3, 2)),
                "b": detector * rng.normal(size=4),
            },
            "generator": {"c": generator * rng.normal(size=5)},
        }

    # The detector's gradients are clipped, the generator's stay below 1.
    parameters, gradients = draw(1, 1), [draw(10, 0.05) for _ in range(3)]
    optimizer = training_state.make_optimizer(config)

    @jax.jit
    def steps(params):
        opt_state = optimizer.init(params)
        for gradient in gradients:
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params

    actual = steps(jax.tree.map(jnp.asarray, parameters))
    rates = [1e-3, 1e-3, 1e-4]
    expected = adam(parameters, gradients, rates, beta1=beta1, beta2=beta2, decay=decay, clip=clip)
    # The rate is a float32.
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-9), actual, expected)


def test_muon_moves_kernels_by_orthogonal_matrices_and_the_rest_by_adam(narrow_config):
    config = narrow_config(optimizer__muon_rate=0.02, optimizer__cosine_steps=100)
    rng = np.random.default_rng(3)
    params = {
        "detector": {"kernel": rng.normal(size=(3, 3, 4, 6)), "bias": rng.normal(size=6)},
        "generator": {"colours": rng.normal(size=(7, 7, 4, 3))},
    }
    gradients = jax.tree.map(lambda p: rng.normal(size=p.shape), params)
    optimizer = training_state.make_optimizer(config)
    updates, _ = jax.jit(lambda g: optimizer.update(g, optimizer.init(params), params))(gradients)
    # The nearest orthogonal matrix of the gradient, by the rate; Newton and Schulz's iterations
    # bring its singular values to about 1.
    u, _, vt = np.linalg.svd(gradients["detector"]["kernel"].reshape(36, 6), full_matrices=False)
    moved = -np.asarray(updates["detector"]["kernel"]).reshape(36, 6) / 0.02
    np.testing.assert_allclose(np.linalg.svd(moved)[1], 1, atol=0.35)
    cosine = np.vdot(moved, u @ vt) / np.linalg.norm(moved) / np.linalg.norm(u @ vt)
    assert cosine > 0.98
    adam = optax.nadam(1e-3)
    for name, part in (("detector", "bias"), ("generator", "colours")):
        gradient = gradients[name][part]
        wanted, _ = adam.update(gradient, adam.init(gradient))
        np.testing.assert_allclose(updates[name][part], wanted, rtol=1e-5)
    # The rate is that of the schedule.
    later = training_state.make_optimizer(config, 50)
    half, _ = later.update(gradients, later.init(params), params)
    ratio = half["detector"]["kernel"] / updates["detector"]["kernel"]
    warmup = 1 / training_state.new_optimizer_warmup_steps(config)
    np.testing.assert_allclose(ratio, 0.5 * warmup, rtol=1e-4)


@pytest.mark.parametrize(
    ("changes", "rates"),
    [
        ({}, {0: 1e-3, 10**6: 1e-3}),
        ({"warmup_steps": 4}, {0: 2.5e-4, 1: 5e-4, 3: 1e-3, 4: 1e-3, 100: 1e-3}),
        ({"drop_steps": (10, 20)}, {9: 1e-3, 10: 1e-4, 19: 1e-4, 20: 1e-5, 99: 1e-5}),
        ({"drop_steps": (10,), "drop_factor": 0.5}, {9: 1e-3, 10: 5e-4}),
        (
            {"cosine_steps": 100},
            {0: 1e-3, 25: 0.5e-3 * (1 + np.sqrt(0.5)), 50: 0.5e-3, 100: 0.0, 150: 0.0},
        ),
        (
            {"warmup_steps": 10, "drop_steps": (40,), "cosine_steps": 100},
            {4: 0.5e-3 * 0.5 * (1 + np.cos(np.pi * 0.04)), 50: 0.5e-4},
        ),
    ],
)
def test_learning_rate_at_absolute_steps(narrow_config, changes, rates):
    config = narrow_config(**{f"optimizer__{name}": value for name, value in changes.items()})
    schedule = jax.jit(training_state.learning_rate(config))
    for step, expected in rates.items():
        assert schedule(np.int32(step)) == pytest.approx(expected, rel=1e-5, abs=1e-9)
