"""Histograms of gradients against a loop in NumPy, closed forms and invariances; as targets."""

import jax.numpy as jnp
import numpy as np
import pytest

from landmarks_jax import config as configuration
from landmarks_jax.models import hog
from landmarks_jax.system.errors import ConfigError
from landmarks_jax.tasks import self_training
from landmarks_jax.training import feature_maps
from landmarks_jax.training.run_folder import read_log, read_record
from tests import test_self_training
from tests.running import call, flags, shared_compilation

DIRECTIONS = 2 * hog.ORIENTATIONS


def images_of(seed, size=(16, 24)):
    return np.random.default_rng(seed).uniform(0, 1, (2, *size, 3)).astype(np.float32)


def edge(degrees, size=24):
    """A soft step edge through the middle whose gradient has a direction, from +x towards +y."""
    centers = np.arange(size) - (size - 1) / 2
    along = np.cos(np.deg2rad(degrees)) * centers + np.sin(np.deg2rad(degrees)) * centers[:, None]
    grey = 1 / (1 + np.exp(-along))
    return np.repeat(grey[None, ..., None], 3, -1).astype(np.float32)


def counted(image, cell):
    """Normalised histograms `[h, w, 27]` of an image `[H, W, 3]`, pixel by pixel."""
    height, width = image.shape[0] // cell, image.shape[1] // cell
    directed = np.zeros((height, width, DIRECTIONS))
    for i in range(height * cell):
        for j in range(width * cell):
            gradients = []
            for channel in np.moveaxis(image.astype(float), -1, 0):
                inside = (0 < j < image.shape[1] - 1, 0 < i < image.shape[0] - 1)
                x = channel[i, j + 1] - channel[i, j - 1] if inside[0] else 0.0
                y = channel[i + 1, j] - channel[i - 1, j] if inside[1] else 0.0
                gradients.append((x, y))
            x, y = max(gradients, key=lambda gradient: gradient[0] ** 2 + gradient[1] ** 2)
            place = np.degrees(np.arctan2(y, x)) % 360 / (360 / DIRECTIONS)
            low = int(place)
            for number, share in ((low, low + 1 - place), (low + 1, place - low)):
                vote = share * np.hypot(x, y) / cell**2
                directed[i // cell, j // cell, number % DIRECTIONS] += vote
    both = np.concatenate([directed, directed[..., :9] + directed[..., 9:]], -1)
    energy = (both[..., DIRECTIONS:] ** 2).sum(-1)
    for i in range(height):
        for j in range(width):
            around = energy[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].sum()
            both[i, j] /= np.sqrt(around + 1e-3)
    return np.minimum(both, 0.4)


@pytest.mark.parametrize("cell", [4, 8, 5])
def test_histograms_are_those_counted_pixel_by_pixel(cell):
    images = images_of(0)
    expected = np.stack([counted(image, cell) for image in images])
    np.testing.assert_allclose(hog.histograms(images, cell), expected, atol=2e-5)


@pytest.mark.parametrize("bin_", [0, 1, 5, 8, 9, 13, 17])
def test_an_edge_counts_in_the_bin_of_its_direction(bin_):
    histogram = np.asarray(hog.histograms(edge(20.0 * bin_), 24))[0, 0, 0]
    directed, undirected = histogram[:DIRECTIONS], histogram[DIRECTIONS:]
    assert directed.argmax() == bin_
    assert undirected.argmax() == bin_ % hog.ORIENTATIONS
    # Clipped at the peak; central differences of a curved edge spill a little.
    assert np.delete(directed, [bin_ - 1, bin_, (bin_ + 1) % DIRECTIONS]).max() < 0.02
    # Half way between two bins it counts for both alike.
    between = np.asarray(hog.histograms(edge(20.0 * bin_ + 10), 24))[0, 0, 0, :DIRECTIONS]
    pair = between[[bin_, (bin_ + 1) % DIRECTIONS]]
    assert pair.min() > 0.9 * pair.max()


def test_inverted_images_swap_opposite_directions():
    images = images_of(1)
    plain, inverted = hog.histograms(images, 4), hog.histograms(1 - images, 4)
    opposite = (np.arange(DIRECTIONS) + hog.ORIENTATIONS) % DIRECTIONS
    np.testing.assert_allclose(inverted[..., :DIRECTIONS], plain[..., opposite], atol=1e-4)
    np.testing.assert_allclose(inverted[..., DIRECTIONS:], plain[..., DIRECTIONS:], atol=1e-4)


def test_brightness_and_contrast_do_not_matter():
    images = images_of(2) * 0.5
    plain = hog.histograms(images, 4)
    np.testing.assert_allclose(hog.histograms(images + 0.4, 4), plain, atol=1e-4)
    # But for the noise floor, a small part of the contrast of noise.
    np.testing.assert_allclose(hog.histograms(images * 1.9, 4), plain, atol=0.02)


def test_a_shift_by_a_cell_shifts_the_map():
    whole = images_of(3, (88, 96))
    taken, moved = whole[:, :80, :88], whole[:, 8:, 8:]
    for tap, cell in hog.CELLS.items():
        first, second = (hog.features(part, (tap,))[tap] for part in (taken, moved))
        cells, reach = (
            8 // cell,
            2 + hog.RADII[tap],
        )  # over the histogram, the norm, the neighbourhood
        np.testing.assert_allclose(
            first[:, cells + reach : -reach, cells + reach : -reach],
            second[:, reach : -cells - reach, reach : -cells - reach],
            atol=1e-5,
        )


def test_constant_images_have_no_features():
    images = jnp.full((1, 16, 16, 3), 0.3)
    for features in hog.features(images, hog.TAPS).values():
        np.testing.assert_array_equal(features, 0)


def test_neighborhoods_are_those_of_padded_numpy():
    maps = np.random.default_rng(4).normal(size=(2, 4, 5, 3)).astype(np.float32)
    padded = np.pad(maps, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (5, 5), (1, 2))
    expected = np.moveaxis(windows, 3, -1).reshape(2, 4, 5, -1)  # [.., row, column, channel]
    np.testing.assert_array_equal(hog.neighborhoods(maps, 2), expected)
    np.testing.assert_array_equal(hog.neighborhoods(maps, 0), maps)


def test_taps_have_a_vector_for_each_cell():
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3), np.uint8)
    taps = feature_maps.histograms(hog.TAPS)(images)
    assert {tap: maps.shape for tap, maps in taps.items()} == {
        "fine": (3, 8, 8, 9 * 27),
        "coarse": (3, 4, 4, 9 * 27),
        "fine_wide": (3, 8, 8, 25 * 27),
        "coarse_wide": (3, 4, 4, 25 * 27),
    }
    expected = hog.features(images / np.float32(255), ("coarse",))["coarse"]
    np.testing.assert_allclose(taps["coarse"], expected, atol=1e-5)
    assert feature_maps.histograms(("fine",))(images).keys() == {"fine"}


def narrow(**fields):
    own = {
        "targets__network": hog.NETWORK,
        "targets__weights": "",
        "targets__taps": ("fine", "coarse"),
        "targets__components": 8,
        "targets__num_fit": 16,
        "targets__spreads": (0.2,),
        "targets__temperatures": (0.1,),
    }
    return test_self_training.narrow(**{**own, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"targets__weights": "vgg.npz"}, "targets.weights = 'vgg.npz': must be '' for"),
        ({"targets__taps": ("relu1_2",)}, "targets.taps = ('relu1_2',): must be some of fine, "),
        ({"targets__taps": ()}, "targets.taps = (): must be some of fine, coarse"),
        # A canvas of 16 as for training, and whole cells of 8 pixels.
        ({"views__size": 20, "targets__view_size": 12}, "targets.view_size = 12: must be a mult"),
    ],
)
def test_each_refusal_names_its_field(fields, message):
    configuration.validate(narrow())
    with pytest.raises(ConfigError) as refused:
        configuration.validate(narrow(**fields))
    assert str(refused.value).startswith(f"config.{message}")


def test_self_training_on_histograms_needs_no_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    config = narrow(train__steps=2)
    assert "histograms of gradients at fine, coarse" in self_training.describe(config)
    run = tmp_path / "run"
    for steps in (2, 3):  # and resumed
        config.train.steps = steps
        with shared_compilation():
            code, _, err = call("train", *flags(config), f"--workdir={run}")
        assert code == 0, err
        assert "histograms of gradients" in err
    assert [row["step"] for row in read_log(run)] == [1, 2, 3]
    assert read_record(run).weights_digest == ""
    with np.load(run / "targets" / "0.npz") as arrays:
        assert arrays["points"].shape == (config.data.num_synthetic, 4, 2)
        assert np.isfinite(arrays["points"]).all()
        assert np.isfinite(arrays["confidence"]).all()
