"""Projections of frozen kernels: which they are, how many, what they compute and start as."""

import functools
import importlib

import flax.linen as nn
import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax.models import adaptation
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.tasks import task_of
from landmarks_jax.training import state as states
from tests.running import narrow


def shapes(**fields):
    """The state of the paper's model, its shapes alone."""
    config = importlib.import_module("landmarks_jax.configs.paper").get_config()
    config.perceptual.weights = ""
    for name, value in fields.items():
        section, _, field = name.partition("__")
        config[section][field] = value
    build = functools.partial(
        states.initial_state,
        config=config,
        networks=task_of(config).build_networks(config),
        optimizer=states.make_optimizer(config),
    )
    return jax.eval_shape(build, jax.random.key(0))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_the_paper_trains_514_698_of_the_detectors_weights():
    state = shapes(init__mode="adapt", init__core="x", optimizer__ema_decay=0.9)
    flat = flax.traverse_util.flatten_dict(state.params["detector"])
    projections = {path: leaf for path, leaf in flat.items() if path[-1] == "projection"}
    assert count(state.params["detector"]) == 514_698
    assert count(projections) == 380_928
    assert count(state.core) == 6_100_992
    # 3 in each of 17 blocks; stem, 1 x 1 convolutions and head train as usual.
    assert len(projections) == 51
    assert flat["stem", "kernel"].shape == (7, 7, 3, 64)
    assert flat["block1", "skip_conv", "kernel"].shape == (1, 1, 64, 128)
    assert flat["head", "kernel"].shape == (1, 1, 256, 10)
    # The optimiser and the average know nothing of the core.
    assert count(state.averaged) == count(state.params)
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert count(moments) == 2 * count(state.params)
    plain = shapes()
    assert count(plain.params["detector"]) == 6_234_762
    assert plain.core == {}
    assert count(shapes(model__num_landmarks=50).params["detector"]) == 6_245_042


@pytest.fixture(scope="module")
def detector(filled):
    config = narrow(model__detector_channels=16)
    module = build_detector(config)
    variables = filled(module, (1, 16, 16, 3), use_running_average=True)
    views = np.random.default_rng(5).uniform(0, 1, (2, 16, 16, 3)).astype(np.float32)
    return module, variables, views


def turned(trained, seed=0):
    """Parameters with other projections, far from the identity."""
    rng = np.random.default_rng(seed)
    flat = flax.traverse_util.flatten_dict(trained)
    for path, leaf in flat.items():
        if path[-1] == "projection":
            flat[path] = (leaf + rng.normal(0, 0.3, leaf.shape)).astype(np.float32)
    return flax.traverse_util.unflatten_dict(flat)


def test_the_identity_is_the_core_to_the_bit(detector):
    _, variables, _ = detector
    trained, core = adaptation.split(variables["params"])
    folded = jax.jit(adaptation.fold)(trained, core)
    jax.tree.map(np.testing.assert_array_equal, folded, variables["params"])
    kernels = flax.traverse_util.flatten_dict(core)
    assert {path[-2] for path in kernels} == {"conv1", "conv2", "conv3"}
    assert adaptation.num_weights(core) == count(core)
    # Without a core nothing is done.
    jax.tree.map(
        np.testing.assert_array_equal, adaptation.fold(variables["params"], {}), variables["params"]
    )


def test_folding_is_the_product_of_the_published_files(detector):
    """The same as the reader of PyTorch's files, on matrices `[O, O]` and `[O, I * 9]`."""
    _, variables, _ = detector
    trained, core = adaptation.split(variables["params"])
    trained = turned(trained)
    folded = adaptation.fold(trained, core)
    kernel = core["block2"]["conv1"]["kernel"]
    matrix = trained["block2"]["conv1"]["projection"]
    theta = kernel.transpose(3, 2, 0, 1)
    product = (matrix @ theta.reshape(len(theta), -1)).reshape(theta.shape)
    np.testing.assert_allclose(
        folded["block2"]["conv1"]["kernel"], product.transpose(2, 3, 1, 0), rtol=1e-5, atol=1e-7
    )


def test_folded_and_unfolded_outputs_agree(detector):
    """Unfolded: the frozen convolution, then the projection of its output's channels."""
    module, variables, views = detector
    trained, core = adaptation.split(variables["params"])
    trained = turned(trained)
    folded = adaptation.fold(trained, core)
    assert count(folded) < count(trained) + count(core)
    flat = flax.traverse_util.flatten_dict(trained)

    def projected(next_fun, args, kwargs, context):
        made = next_fun(*args, **kwargs)
        path = (*context.module.path, "projection")
        return made @ flat[path].T if path in flat and isinstance(made, jax.Array) else made

    # The frozen kernels in their places, and the parameters that train in theirs.
    plain = flax.traverse_util.flatten_dict(core)
    plain |= {path: leaf for path, leaf in flat.items() if path[-1] != "projection"}
    stats = {"batch_stats": variables["batch_stats"]}
    unfolded = {"params": flax.traverse_util.unflatten_dict(plain), **stats}
    apply = jax.jit(module.apply, static_argnames="use_running_average")
    actual = apply({"params": folded, **stats}, views, use_running_average=True)
    frozen = apply(unfolded, views, use_running_average=True)
    with nn.intercept_methods(projected):  # a function of its own, not to meet a trace of the other
        expected = jax.jit(lambda v: module.apply(v, views, use_running_average=True))(unfolded)
    assert float(jnp.abs(expected).max()) > 0.1
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert np.abs(np.asarray(frozen) - np.asarray(actual)).max() > 0.01


def test_the_gradient_of_a_projection_is_that_of_the_product():
    rng = np.random.default_rng(2)
    theta, matrix = rng.normal(size=(3, 3, 2, 4)), rng.normal(size=(4, 4))
    weight = rng.normal(size=(3, 3, 2, 4))

    def loss(trained):
        folded = adaptation.fold(trained, {"conv": {"kernel": theta}})["conv"]["kernel"]
        return (folded * weight).sum()

    gradient = jax.grad(loss)({"conv": {"projection": jnp.asarray(matrix)}})
    expected = np.zeros((4, 4))
    for p in range(4):
        for o in range(4):
            expected[p, o] = (weight[..., p] * theta[..., o]).sum()
    np.testing.assert_allclose(gradient["conv"]["projection"], expected, rtol=1e-4, atol=1e-5)
