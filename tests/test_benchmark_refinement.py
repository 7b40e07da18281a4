"""The benchmark of refinement: faces, kept feature maps, rows on a planted pattern, tables."""

from argparse import ArgumentTypeError

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from benchmarks import features, refinement, refinement_rows
from benchmarks.faces import Faces, forward_error
from benchmarks.features import FeatureFiles, Features, Maps
from landmarks_jax.evaluation.regression import Split, fit_mean
from landmarks_jax.models.vgg import TAPS
from landmarks_jax.refinement import Moments
from landmarks_jax.system.errors import DataError
from landmarks_jax.training import feature_maps
from landmarks_jax.weights import vgg_weights
from tests import datasets
from tests.benchmarking import HEAD
from tests.running import write_vgg

TRAINING, TESTING = 24, 10
SIDE = 16  # of the photos
BASE = np.array([[-0.4, -0.4], [0.4, -0.4], [0.0, 0.0], [-0.3, 0.4], [0.3, 0.4]])
SHIFTS = np.random.default_rng(3).uniform(-0.25, 0.25, (TRAINING + TESTING, 1, 2))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """AFLW's four lists; the labels of photo n are `BASE + SHIFTS[n]`."""
    root = tmp_path_factory.mktemp("aflw")
    (root / "AFLW").mkdir()
    pixels = (BASE + SHIFTS + 1) * SIDE / 2 - 0.5
    lines = []
    for i, points in enumerate(pixels):
        datasets.save(root / "AFLW" / f"{i:02d}.png", (SIDE, SIDE), i)
        numbers = " ".join(f"{number:.6f}" for number in points.T.ravel())
        lines.append(f"AFLW/{i:02d}.png {numbers}\n")
    lists = {
        "training": lines[:TRAINING],
        "testing": lines[TRAINING:],
        "dev_fit": lines[1:TRAINING:2],
        "dev_score": lines[0:TRAINING:2],
    }
    for name, listed in lists.items():
        (root / f"{name}.txt").write_text("".join(listed))
    return root


@pytest.fixture(scope="module")
def faces(folder):
    return Faces(folder, 10**9)


def test_the_forward_error_is_scikit_learns():
    rng = np.random.default_rng(0)
    labels, points = rng.normal(size=(30, 5, 2)), rng.normal(size=(30, 3, 2))
    x, y = points[:20].reshape(20, -1), labels[:20].reshape(20, -1)
    gram = (x - x.mean(0)).T @ (x - x.mean(0))
    fitted = Ridge(alpha=1e-4 * gram.max()).fit(x, y)
    gaps = fitted.predict(points[20:].reshape(10, -1)).reshape(10, 5, 2) - labels[20:]
    eyes = np.linalg.norm(labels[20:, 0] - labels[20:, 1], axis=-1)
    expected = 100 * (np.linalg.norm(gaps, axis=-1).mean(1) / eyes).mean()
    error = forward_error(Split(points[:20], points[20:]), Split(labels[:20], labels[20:]))
    assert error == pytest.approx(expected, abs=1e-4)


def test_faces_are_those_of_the_lists(faces, folder):
    assert (len(faces), faces.num_training) == (TRAINING + TESTING, TRAINING)
    np.testing.assert_allclose(faces.labels, BASE + SHIFTS, atol=1e-5)
    assert faces.views(12).shape == (TRAINING + TESTING, 12, 12, 3)
    dev, test = faces.errors(faces.labels, fit_mean)
    center = SHIFTS[1:TRAINING:2].mean(0)
    gaps = np.linalg.norm(SHIFTS[0:TRAINING:2] - center, axis=-1) / 0.8
    assert dev == pytest.approx(100 * gaps.mean(), abs=1e-3)
    gaps = np.linalg.norm(SHIFTS[TRAINING:] - SHIFTS[:TRAINING].mean(0), axis=-1) / 0.8
    assert test == pytest.approx(100 * gaps.mean(), abs=1e-3)
    first = Faces(folder, 7)
    assert (len(first), first.num_training) == (14, 7)
    np.testing.assert_array_equal(first.labels[7:], faces.labels[TRAINING : TRAINING + 7])
    with pytest.raises(DataError, match="no face of AFLW-dev among the first 1"):
        Faces(folder, 1)


def test_points_of_other_photos_stay_in_their_list(faces):
    numbers = np.arange(len(faces))[:, None, None] * np.ones((1, 3, 2))
    other = faces.of_others(numbers)[:, 0, 0]
    assert (other != np.arange(len(faces))).all()
    assert set(other[:TRAINING]) == set(range(TRAINING))
    assert set(other[TRAINING:]) == set(range(TRAINING, TRAINING + TESTING))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    root = tmp_path_factory.mktemp("weights")
    write_vgg(root / features.WEIGHTS["vgg16"], blocks=2)
    return root


SHALLOW = Features("vgg16", ("relu1_2", "relu2_2"), 5, SIDE)


def test_maps_are_computed_once(faces, weights, tmp_path, monkeypatch):
    views = np.concatenate([faces.views(SIDE)] * 2)[:40]
    files = FeatureFiles(tmp_path / "cache", weights)
    made = files.maps("some", views, SHALLOW, num_fit=30)
    assert made.maps.shape == (40, 4, 4, 10)
    assert made.maps.dtype == np.float16
    assert made.milliseconds > 0
    read = vgg_weights.load_vgg(
        str(weights / features.WEIGHTS["vgg16"]), "vgg16", SHALLOW.taps, normalize=True
    )
    activate = features.in_cells(feature_maps.activations(read), 4)
    rows = np.random.default_rng(0).permutation(30)
    components = feature_maps.projections(activate, [views[rows]], 5)
    np.testing.assert_array_equal(
        made.maps[:32], feature_maps.maps(activate, views[:32], components)
    )
    with monkeypatch.context() as patch:
        patch.setattr(feature_maps, "maps", None)
        again = files.maps("some", views, SHALLOW, num_fit=30)
    np.testing.assert_array_equal(again.maps, made.maps)
    assert again.milliseconds == made.milliseconds
    jax.tree.map(np.testing.assert_array_equal, again.projections, made.projections)
    # Other photos under the same name, other components.
    other = files.maps("some", views[::-1].copy(), SHALLOW, projections=made.projections)
    np.testing.assert_allclose(other.maps[::-1], made.maps, atol=2e-3)
    assert (tmp_path / "cache" / "some-40-vgg16-relu1_2-relu2_2-5c-16px.npy").is_file()


def test_fewer_components_are_the_first(faces, weights, tmp_path):
    files, views = FeatureFiles(tmp_path, weights), faces.views(SIDE)
    five = files.maps("some", views, SHALLOW, num_fit=TRAINING)
    two = files.maps("some", views, SHALLOW._replace(components=2), num_fit=TRAINING)
    # float16, of products of two sizes, whose last bits may differ
    np.testing.assert_allclose(five.first_components(2).maps, two.maps, rtol=1e-3)
    np.testing.assert_array_equal(five.first_components(9).maps, five.maps)


def test_random_weights_are_hes(faces, weights, tmp_path):
    random = SHALLOW._replace(random=True)
    read = FeatureFiles(tmp_path, weights)._read(random)
    kernel = read.params["kernel2_2"]
    assert kernel.std() == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.01)
    assert not read.params["bias2_2"].any()
    trained = FeatureFiles(tmp_path, weights)._read(SHALLOW)
    assert {n: a.shape for n, a in read.params.items()} == {
        n: a.shape for n, a in trained.params.items()
    }
    np.testing.assert_array_equal(read.mean, trained.mean)


def test_large_taps_are_averaged_over_cells():
    ramp = np.broadcast_to(np.arange(16, dtype=np.float32)[:, None, None], (1, 16, 16, 2))
    small = np.random.default_rng(0).normal(size=(1, 4, 4, 3)).astype(np.float32)
    taps = features.in_cells(lambda _: {"large": ramp, "small": small}, 4)(None)
    np.testing.assert_array_equal(taps["small"], small)
    assert taps["large"].shape == (1, 4, 4, 2)
    np.testing.assert_allclose(taps["large"][0, 1:3, 0, 0], [5.5, 9.5], rtol=1e-5)


def test_isotropic_moments_keep_mean_and_total_variance():
    cells = np.random.default_rng(0).normal(size=(500, 3)) * [1, 2, 3] + 1
    sums = Moments(np.float32(500), cells.sum(0), cells.T @ cells)
    mean, covariance = refinement.isotropic(sums).mean_and_covariance()
    np.testing.assert_allclose(mean, cells.mean(0), rtol=1e-5)
    np.testing.assert_allclose(covariance, cells.var(0).mean() * np.eye(3), rtol=1e-4, atol=1e-4)


class Planted:
    """Feature maps in which all photos show one pattern, moved by `SHIFTS`."""

    def __init__(self):
        self.asked = []
        rng = np.random.default_rng(0)
        at = (2 * np.arange(12) + 1) / 12 - 1
        cells = np.stack(np.meshgrid(at, at), -1)[None, :, :, None] - SHIFTS[:, None, None]
        centers = rng.uniform(-1, 1, (12, 2))
        pattern = np.exp(-((cells - centers) ** 2).sum(-1) / (2 * 0.25**2))
        noisy = pattern + 0.05 * rng.normal(size=pattern.shape)
        self._maps = noisy.astype(np.float16)

    def maps(self, name, views, wanted, **options):
        self.asked.append((name, len(views), wanted, sorted(options)))
        components = np.zeros((12, 12), np.float32)
        maps = self._maps if name == "aflw" else self._maps[: len(views)]
        return Maps(maps, {"relu3_4": (np.zeros(12), components)}, 12.34)


def test_rows_on_a_planted_pattern(faces, folder):
    planted = Planted()
    scorer = refinement.RowScorer(faces, planted, pool=[folder / "AFLW"], pool_photos=6)
    names = ["mean", "grid-3", "grid-6", "drawn", "no-iteration", "others", "no-whitening"]
    rows = {row["row"]: row for row in refinement.measure([*names, "pooled"], scorer)}
    mean = rows["mean"]["test"][0]
    assert rows["no-iteration"]["test"] == [pytest.approx(mean, abs=1e-3)]
    assert [rows[name]["points"] for name in names] == [None, 9, 36, 10, 36, 36, 36]
    for name in ("grid-3", "grid-6", "pooled"):
        assert rows[name]["test"][0] < mean / 3
        assert rows[name]["dev"][0] < mean / 3
    assert rows["others"]["test"][0] > 0.8 * mean
    assert len(rows["drawn"]["test"]) == 8
    assert len(set(rows["drawn"]["test"])) > 1
    assert "seconds" not in rows["mean"]
    assert rows["grid-6"]["ms_per_photo"] == 12.3
    default = Features()
    assert ("AFLW", 6, default, ["projections"]) in planted.asked
    assert ("aflw", len(faces), default, ["num_fit"]) in planted.asked


def test_fewer_components_come_from_the_same_file(faces):
    planted = Planted()
    scorer = refinement.RowScorer(faces, planted)
    assert scorer._maps(Features(components=5)).maps.shape[-1] == 5
    assert scorer._maps(Features(components=256)).maps.shape[-1] == 12
    assert [wanted.components for _, _, wanted, _ in planted.asked] == [128, 256]


def test_the_detectors_points_start_where_it_finds_them(faces, monkeypatch, landmark_detector):
    monkeypatch.setattr(refinement.api, "load_detector", lambda name: landmark_detector)
    scorer = refinement.RowScorer(faces, Planted())
    row = scorer.measure("detector")
    views = faces.views(landmark_detector.view_size)
    found = landmark_detector.function(landmark_detector.variables, views).landmarks
    assert row["points"] == landmark_detector.num_landmarks
    np.testing.assert_allclose(scorer._detected, found, atol=1e-4)


def test_every_row_can_be_asked_for():
    rows = refinement_rows.ROWS
    groups = (refinement_rows.table, refinement_rows.controls, refinement_rows.sensitivity)
    assert len(rows) == sum(len(group()) for group in groups)  # no name twice
    for row in rows.values():
        assert row.group in refinement_rows.GROUPS
        assert set(row.features.taps) <= set(TAPS[row.features.network])
    table = list(refinement_rows.table())
    assert refinement.chosen(["table"], pooled=False) == table
    assert refinement.chosen(["s-0.1", "drawn", "mean"], pooled=False) == ["mean", "drawn", "s-0.1"]
    assert "pooled" not in refinement.chosen(["controls"], pooled=False)
    assert "pooled" in refinement.chosen(["controls"], pooled=True)
    with pytest.raises(ArgumentTypeError, match="must be one of table, controls"):
        refinement.names_of("grid-7")


def test_the_tables():
    def row(name, dev, test, **fields):
        made = refinement_rows.ROWS[name]
        head = {"row": name, "group": made.group, "label": made.label, "points": 36}
        return {**head, "dev": dev, "test": test, "ms_per_photo": 85.4, "seconds": 31.0, **fields}

    mean = {"row": "mean", "group": "table", "label": "mean shape", "points": None}
    result = {
        **HEAD,
        "photos": 8,
        "detector": "faces",
        "pool": ["lfw", "celeba_crops"],
        "pool_photos": 2000,
        "rows": [
            {**mean, "dev": [23.4], "test": [24.1]},
            row("drawn", [9.0, 13.42, 10.0], [9.5, 12.0, 14.0], points=10),
            row("s-0.3", [8.0], [8.456]),
        ],
    }
    text = refinement.to_markdown(result)
    assert "| mean shape | - | 23.40 | 24.10 | - | - |" in text
    assert "| 10 | 9.00 to 13.42 | 9.50 to 14.00 | 85 | 31.0 |" in text
    assert "| s = 0.3, t = 0.1 | 36 | 8.00 | 8.46 | 85 | 31.0 |" in text
    assert "A trial on the first 8 photos" in text
    assert "2,000 of each of lfw, celeba_crops" in text
    assert "Controls" not in text
