"""The jitted detector: any batch, bytes or floats, under JAX's transforms."""

import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import keypoints
from landmarks_jax.inference import detector
from landmarks_jax.models.detectors import build_detector
from landmarks_jax.system.errors import UserError
from tests.running import command, finish

VIEWS = np.random.default_rng(0).integers(0, 256, (7, 16, 16, 3), np.uint8)


@pytest.fixture(scope="module")
def config(narrow_config):
    return narrow_config(compute_dtype="float32", data__canvas_size=20, views__size=16)


@pytest.fixture(scope="module")
def variables(config, filled):
    module = build_detector(config)
    return filled(module, (1, 16, 16, 3), use_running_average=True)


@pytest.fixture(scope="module")
def detect(config):
    """The landmarks of the pure function, compiled."""
    module = build_detector(config)

    def landmarks(variables, views, **keywords):
        output = detector.detect(
            variables, views, module=module, beta=config.model.beta, **keywords
        )
        return output.landmarks

    return jax.jit(landmarks, static_argnames="use_running_average")


@pytest.fixture(scope="module")
def one_by_one(detect, variables):
    return np.concatenate([detect(variables, view[None]) for view in VIEWS])


@pytest.fixture(scope="module")
def find(config, variables):
    return detector.ViewDetector(config, variables)


def test_a_fork_is_told_to_spawn(config, variables, find, monkeypatch):
    process = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: process + 1)
    with pytest.raises(UserError, match=r"before this process was forked.*get_context\('spawn'\)"):
        find(VIEWS)
    with pytest.raises(UserError, match="before this process was forked"):
        detector.ViewDetector(config, variables)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that fork")
def test_a_real_fork_ends(packed_path):
    code = """
import os, sys, warnings
import numpy as np
from landmarks_jax import load_detector
detect, image = load_detector(sys.argv[1]), np.zeros((20, 20, 3), np.uint8)
detect(image)
warnings.simplefilter("ignore")  # JAX's own, of the fork
for use in (lambda: detect(image), lambda: load_detector(sys.argv[1])):
    child = os.fork()
    if not child:
        try:
            use()
        except Exception as error:
            print(type(error).__name__, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
    assert finish(command(str(packed_path), code=code)) == (0, "UserError\nUserError\n", "")


def test_build_detector_follows_the_config(config):
    module = build_detector(config)
    assert (module.num_landmarks, module.channels, module.depth) == (3, 8, 1)
    assert module.dtype == jnp.float32
    assert module.bn_updates == (0,)


def test_detect_is_the_soft_argmax_of_the_scores(config, detect, variables, one_by_one):
    module = build_detector(config)
    images = VIEWS[:4].astype(np.float32) / 255
    scores = jax.jit(partial(module.apply, use_running_average=True))(variables, images)
    expected = keypoints.soft_argmax(scores, config.model.beta)
    np.testing.assert_allclose(one_by_one[:4], expected, atol=1e-5)
    np.testing.assert_allclose(detect(variables, images), expected, atol=1e-5)
    assert np.std(expected, 0).min() > 1e-4


@pytest.mark.parametrize("max_batch", [4, 64])
def test_running_statistics_do_not_mix_views(find, one_by_one, monkeypatch, max_batch):
    monkeypatch.setattr(detector, "MAX_BATCH", max_batch)
    landmarks = find(VIEWS)
    assert landmarks.shape == (7, 3, 2)
    assert landmarks.dtype == np.float32
    np.testing.assert_allclose(landmarks, one_by_one, atol=1e-5)


def test_batch_statistics_are_those_of_consecutive_batches(
    config, variables, detect, one_by_one, monkeypatch
):
    assert detector.STATISTICS_BATCH == 30
    monkeypatch.setattr(detector, "STATISTICS_BATCH", 4)
    find = detector.ViewDetector(config, variables, use_running_average=False)
    landmarks = find(VIEWS)
    first = detect(variables, VIEWS[:4], use_running_average=False)
    np.testing.assert_allclose(landmarks[:4], first, atol=1e-5)
    # The last three have their own statistics.
    np.testing.assert_allclose(landmarks[4:], find(VIEWS[4:]), atol=1e-6)
    assert np.abs(landmarks - find(VIEWS[::-1])[::-1]).max() > 1e-3
    assert np.abs(landmarks - one_by_one).max() > 1e-3


def test_floating_views_and_bytes_agree(find, one_by_one):
    landmarks = find(VIEWS[:3].astype(np.float32) / 255)
    np.testing.assert_allclose(landmarks, one_by_one[:3], atol=1e-5)


def test_no_views_give_no_landmarks(find):
    assert (find.view_size, find.num_landmarks) == (16, 3)
    assert find(VIEWS[:0]).shape == (0, 3, 2)


@pytest.mark.parametrize("shape", [(16, 16, 3), (2, 16, 16), (2, 16, 20, 3), (2, 16, 16, 1)])
def test_views_of_another_shape_are_refused(find, shape):
    with pytest.raises(ValueError, match=r"views of shape .*: must be \[N, 16, 16, 3\]"):
        find(np.zeros(shape, np.uint8))


@pytest.mark.parametrize("dtype", [np.int32, bool, complex])
def test_views_of_another_type_are_refused(find, dtype):
    message = r"views of type \w+: must be uint8, or floating in \[0, 1\]"
    with pytest.raises(TypeError, match=message):
        find(VIEWS[:2].astype(dtype))


def test_detectors_of_an_architecture_share_their_programs(config, variables, find):
    doubled = jax.tree.map(lambda array: 2 * array, variables)
    other = detector.ViewDetector(config, doubled)
    assert other._detect is find._detect
    assert np.abs(other(VIEWS[:4]) - find(VIEWS[:4])).max() > 1e-3


def test_find_gives_the_requested_fields(find, one_by_one):
    everything = find.find(VIEWS[:5])
    num_programs = find._detect._cache_size()
    assert {name: array.shape for name, array in everything.items()} == {
        "landmarks": (5, 3, 2),
        "confidence": (5, 3),
        "heatmaps": (5, 4, 4, 3),
    }
    assert all(isinstance(array, np.ndarray) for array in everything.values())
    np.testing.assert_allclose(everything["landmarks"], one_by_one[:5], atol=1e-5)
    np.testing.assert_allclose(everything["heatmaps"].sum((1, 2)), 1, atol=1e-5)
    centers = (2 * np.arange(4) + 1) / 4 - 1
    x = np.einsum("brck,c->bk", everything["heatmaps"], centers)
    np.testing.assert_allclose(everything["landmarks"][..., 0], x, atol=1e-5)
    for fields in (("confidence",), ("heatmaps", "landmarks")):
        output = find.find(VIEWS[:5], fields)
        assert tuple(output) == fields
        for name in fields:
            np.testing.assert_array_equal(output[name], everything[name])
    assert find._detect._cache_size() == num_programs  # one program, whatever the fields
    empty = find.find(VIEWS[:0])
    assert [array.shape for array in empty.values()] == [(0, 3, 2), (0, 3), (0, 4, 4, 3)]


def test_detect_maps_over_stacks_of_views(detect, variables, one_by_one):
    stacks = VIEWS[:6].reshape(2, 3, 16, 16, 3)
    landmarks = jax.jit(jax.vmap(detect, (None, 0)))(variables, stacks)
    np.testing.assert_allclose(landmarks.reshape(6, 3, 2), one_by_one[:6], atol=1e-5)


def test_detect_is_differentiable_in_the_views(detect, variables):
    images = jnp.asarray(VIEWS[:2], jnp.float32) / 255
    direction = jnp.asarray(np.random.default_rng(1).normal(size=images.shape), jnp.float32)
    gradient = jax.jit(jax.grad(lambda i: detect(variables, i)[0].sum()))(images)
    ahead, behind = images + 1e-2 * direction, images - 1e-2 * direction
    landmarks = detect(variables, jnp.concatenate([ahead, behind]))
    difference = (landmarks[0].sum() - landmarks[2].sum()) / 2e-2
    slope = (gradient * direction).sum()
    assert float(slope) == pytest.approx(float(difference), rel=0.05, abs=1e-3)
    assert np.abs(gradient[0]).max() > 1e-5
    # The landmarks of a view depend on that view alone.
    assert np.abs(gradient[1]).max() == 0
