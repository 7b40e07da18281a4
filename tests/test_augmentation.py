"""Mirrored, recoloured and partly covered views."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from landmarks_jax import geometry, views

warp = jax.jit(views.warp, static_argnums=2)
recolor = jax.jit(views.recolor, static_argnums=2)
cut_out = jax.jit(views.cut_out, static_argnums=2)


def keys_of(n, seed=0):
    return jax.random.split(jax.random.key(seed), n)


def random_maps(seed, n):
    rng = np.random.default_rng(seed)
    shift = rng.uniform(-0.3, 0.3, (n, 2))
    maps = geometry.similarity(rng.uniform(-1, 1, n), rng.uniform(0.5, 1.2, n), shift)
    return maps.astype(np.float32)


def test_a_mirrored_view_is_the_reversed_view():
    canvases = np.random.default_rng(0).integers(0, 256, (6, 20, 20, 3), np.uint8)
    maps, mirrored = jnp.asarray(random_maps(1, 6)), np.array([1, 0, 1, 1, 0, 0], bool)
    plain = np.asarray(warp(canvases, maps, 16))
    actual = np.asarray(warp(canvases, views.mirror(maps, mirrored), 16))
    np.testing.assert_array_equal(actual[~mirrored], plain[~mirrored])
    np.testing.assert_allclose(actual[mirrored], plain[mirrored, :, ::-1], atol=2e-3)
    assert np.abs(actual[mirrored] - plain[mirrored]).max() > 50


def test_a_view_that_does_not_move_is_mirrored_pixel_for_pixel():
    canvases = np.random.default_rng(2).integers(0, 256, (2, 16, 16, 3), np.uint8)
    still = jnp.broadcast_to(geometry.identity(), (2, 2, 3))
    actual = warp(canvases, views.mirror(still, jnp.array([True, False])), 16)
    np.testing.assert_allclose(actual[0], canvases[0, :, ::-1], atol=1e-4)
    np.testing.assert_allclose(actual[1], canvases[1], atol=1e-4)


def test_points_follow_a_mirrored_view():
    maps = jnp.asarray(random_maps(3, 4))
    points = np.random.default_rng(4).uniform(-0.5, 0.5, (4, 5, 2)).astype(np.float32)
    plain = geometry.apply(geometry.invert(maps), points)
    mirrored = views.mirror(maps, jnp.ones(4, bool))
    actual = geometry.apply(geometry.invert(mirrored), points)
    np.testing.assert_allclose(actual, plain * np.array([-1, 1]), atol=1e-5)
    np.testing.assert_array_equal(views.mirror(mirrored, jnp.ones(4, bool)), maps)


def test_half_of_the_views_are_mirrored():
    drawn = np.asarray(views.draw_mirrored(keys_of(4000)))
    assert drawn.shape == (4000,)
    assert scipy.stats.binomtest(int(drawn.sum()), 4000).pvalue > 1e-3
    order = np.random.default_rng(5).permutation(4000)
    np.testing.assert_array_equal(views.draw_mirrored(keys_of(4000)[order]), drawn[order])


def uniform_images(seed, n, size=16):
    return np.random.default_rng(seed).uniform(0, 1, (n, size, size, 3)).astype(np.float32)


@pytest.mark.parametrize("change", [views.recolor, views.cut_out])
def test_0_changes_nothing(change):
    images = uniform_images(6, 3)
    assert change(images, keys_of(3), 0.0) is images


@pytest.mark.parametrize("change", [partial(recolor, std=0.3), partial(cut_out, share=0.5)])
def test_a_row_depends_on_its_own_key_alone(change):
    images, keys = uniform_images(7, 6), keys_of(6)
    changed = np.asarray(change(images, keys))
    order = np.array([3, 0, 5, 1, 4, 2])
    np.testing.assert_allclose(change(images[order], keys[order]), changed[order], atol=1e-6)
    fresh = np.asarray(change(images, keys.at[2].set(jax.random.key(9))))
    others = np.arange(6) != 2
    np.testing.assert_array_equal(fresh[others], changed[others])
    assert np.abs(fresh[2] - changed[2]).max() > 0.05
    # A rectangle may be thinner than a pixel.
    assert (np.abs(changed - images).max((1, 2, 3)) > 0.01).sum() >= 4


def test_recoloured_images_stay_in_range():
    images = uniform_images(8, 50)
    changed = np.asarray(recolor(images, keys_of(50), 1.0))
    assert changed.min() == 0
    assert changed.max() == 1
    assert np.isfinite(changed).all()


def test_recolouring_is_one_straight_line_a_channel():
    # Of a middle range, so that nothing is clipped.
    images = 0.4 + 0.2 * uniform_images(9, 30)
    changed = np.asarray(recolor(images, keys_of(30), 0.1))
    factors, offsets = np.empty((30, 3)), np.empty((30, 3))
    for row, channel in np.ndindex(30, 3):
        before, after = (x[row, ..., channel].ravel() for x in (images, changed))
        line = scipy.stats.linregress(before, after)
        factors[row, channel], offsets[row, channel] = line.slope, line.intercept
        np.testing.assert_allclose(after, line.intercept + line.slope * before, atol=1e-5)
    # (1 + brightness + gain / 2) (1 + contrast): brightness and contrast are of the whole image.
    assert factors.mean() == pytest.approx(1, abs=0.08)
    assert np.log(factors).mean(1).std() == pytest.approx(0.1 * np.sqrt(2 + 1 / 12), rel=0.4)
    assert (np.log(factors) - np.log(factors).mean(1, keepdims=True)).std() > 0.02
    # Contrast changes no mean but by what brightness did.
    means = [x.mean((1, 2, 3)) for x in (images, changed)]
    assert np.abs(means[1] - means[0]).max() < 0.25


def test_a_cut_out_rectangle_is_of_one_colour_and_no_larger_than_its_share():
    size, share = 20, 0.4
    images = uniform_images(10, 300, size)
    changed = np.asarray(cut_out(images, keys_of(300), share))
    covered = (changed != images).any(-1)
    shares = []
    for image, mask in zip(changed, covered, strict=True):
        rows, columns = mask.any(1), mask.any(0)
        np.testing.assert_array_equal(mask, rows[:, None] & columns)  # a rectangle
        for lines in (rows, columns):
            assert lines.sum() <= share * size + 1
            places = np.flatnonzero(lines)
            np.testing.assert_array_equal(np.diff(places), 1)  # in one piece
        if mask.any():
            assert len(np.unique(image[mask], axis=0)) == 1
        shares.append(mask.mean())
    assert max(shares) <= (share + 1 / size) ** 2
    # Sides are uniform up to the largest, and less at the edges of the image.
    assert 0.5 * (share / 2) ** 2 < np.mean(shares) < (share / 2) ** 2
    assert covered.mean(0).min() > 0
    colors = changed[covered]
    assert colors.mean() == pytest.approx(0.5, abs=0.1)
    assert colors.min() >= 0
    assert colors.max() <= 1
