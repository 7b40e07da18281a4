"""Landmarks that mirror each other: found, stored, shown on the card, and used."""

import dataclasses
import itertools

import numpy as np
import pytest

from landmarks_jax.data import framing
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.evaluation import symmetry
from landmarks_jax.inference import api, card, kept_landmarks, packed_file
from landmarks_jax.inference.api import LandmarkDetector
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import DataError
from tests.detecting import noise, points, read_table, save_rotated
from tests.running import call

PAIR = {"first": 0, "second": 2, "distance": 0.02, "swapped": 0.25}


@pytest.fixture(scope="module")
def paired(packed):
    """The narrow detector, of whose landmarks 0 and 2 mirror each other."""
    mirror = {"photos": 12, "pairs": [PAIR]}
    return dataclasses.replace(packed, summary=packed.summary | {"mirror": mirror})


@pytest.fixture(scope="module")
def paired_path(paired, tmp_path_factory):
    path = tmp_path_factory.mktemp("paired") / "paired.safetensors"
    packed_file.write(path, paired)
    return path


def test_the_best_involution():
    """Against all involutions, where the permutation of least cost is one; and by hand."""
    all_of_five = [
        order
        for order in map(np.array, itertools.permutations(range(5)))
        if (order[order] == np.arange(5)).all()
    ]
    exact = 0
    for seed in range(30):
        cost = np.random.default_rng(seed).uniform(size=(5, 5))
        cost += cost.T
        order = symmetry.best_involution(cost)
        np.testing.assert_array_equal(order[order], np.arange(5))
        costs = [cost[np.arange(5), other].sum() for other in all_of_five]
        exact += cost[np.arange(5), order].sum() == pytest.approx(min(costs))
    assert exact >= 28
    # The best permutation is a cycle of three; the cheapest to leave alone is the second.
    cost = np.array([[9.0, 1.0, 1.0], [1.0, 5.0, 1.0], [1.0, 1.0, 9.0]])
    np.testing.assert_array_equal(symmetry.best_involution(cost), [2, 1, 0])


def test_pairs_are_found_and_measured():
    rng = np.random.default_rng(0)
    shape = np.array([[-0.5, 0], [0.5, 0], [0, 0.4], [-0.01, -0.4], [0.01, -0.4], [0.3, 0.4]])
    found = shape + rng.normal(0, 0.2, (40, 1, 2))  # objects anywhere in their views
    mirrored = found[:, [1, 0, 2, 4, 3, 5]] + [0.006, 0.008]
    mirrored[:10, [3, 4]] = mirrored[:10, [4, 3]]  # a close pair, swapped in a quarter
    mirrored[:, 5] += 0.3  # is elsewhere in mirror images
    pairs = symmetry.pairs_of(found, mirrored)
    assert [(pair["first"], pair["second"]) for pair in pairs] == [(0, 1), (2, 2), (3, 4)]
    spread = np.sqrt(((shape - shape.mean(0)) ** 2).sum(-1).mean())
    assert [pair["distance"] for pair in pairs[:2]] == pytest.approx([0.01 / spread] * 2, abs=1e-4)
    assert [pair["swapped"] for pair in pairs] == [0, 0, 0.25]
    # Other photos' mirror images, points of one side, and points at one place.
    assert symmetry.pairs_of(found, np.roll(mirrored, 1, 0)) == []
    assert symmetry.pairs_of(found[:, [0, 3]] - [0.2, 0], -found[:, [0, 3]] + [0.2, 0]) == []
    assert symmetry.pairs_of(np.zeros((9, 2, 2)), np.zeros((9, 2, 2))) == []


def test_the_mean_over_an_image_and_its_mirror_image(paired, landmark_detector):
    detector, photo = LandmarkDetector(paired), noise(3)
    flipped = np.ascontiguousarray(photo[:, ::-1])
    plain, back = landmark_detector(photo), landmark_detector(flipped)
    mean = detector(photo, mirror=True, heatmaps=True)
    there = back.landmarks[[2, 1, 0]] * [-1, 1] + [photo.shape[1] - 1, 0]
    expected = (plain.landmarks + there) / 2
    expected[1] = plain.landmarks[1]  # has no partner
    np.testing.assert_allclose(mean.landmarks, expected, atol=0.02)
    confidence = (plain.confidence + back.confidence[[2, 1, 0]]) / 2
    np.testing.assert_allclose(mean.confidence[[0, 2]], confidence[[0, 2]], atol=0.01)
    assert abs(expected - plain.landmarks).max() > 0.1  # it is not the plain detector's
    # The mirror image has the mirrored means.
    other = detector(flipped, mirror=True).landmarks[[2, 1, 0]] * [-1, 1]
    np.testing.assert_allclose(
        other[[0, 2]] + [photo.shape[1] - 1, 0], mean.landmarks[[0, 2]], atol=0.02
    )
    # The mean heatmaps are of the mean landmarks.
    assert mean.heatmaps.sum((0, 1)) == pytest.approx(1, abs=1e-5)
    cells = (np.arange(mean.heatmaps.shape[1]) + 0.5) / mean.heatmaps.shape[1]
    left, _, right, _ = detector.frame.view_rectangle(photo.shape[1::-1], np.zeros((0, 2)))
    x = (mean.heatmaps.sum(0) * cells[:, None]).sum(0) * (right - left) + left - 0.5
    np.testing.assert_allclose(x, mean.landmarks[:, 0], atol=0.01)
    with pytest.raises(DataError, match="this detector has no landmarks that are known to mirror"):
        landmark_detector(photo, mirror=True)


def test_detect_takes_the_mean(paired, paired_path, packed_path, tmp_path):
    save_rotated(tmp_path / "a.png", noise(3), 6)
    arguments = str(tmp_path / "a.png"), f"--out={tmp_path / 'out'}", "--nodraw", "--mirror"
    code, _, err = call("detect", str(paired_path), *arguments)
    assert code == 0, err
    (row,) = read_table(tmp_path / "out")
    expected = LandmarkDetector(paired)(noise(3), mirror=True).landmarks
    np.testing.assert_allclose(points(row), expected, atol=1e-3)
    code, _, err = call("detect", str(packed_path), *arguments)
    assert code == 2
    assert "narrow.safetensors has no landmarks that are known to mirror each other" in err
    code, _, err = call("eval", "--workdir=runs/a", "--mirror")
    assert (code, err) == (2, "error: --mirror: goes with --detector; export the run first\n")


def test_pairs_follow_the_landmarks_that_are_kept(paired):
    assert kept_landmarks.keep(paired, (2, 0)).summary["mirror"]["pairs"] == [PAIR | {"second": 1}]
    assert kept_landmarks.keep(paired, (1, 2)).summary["mirror"] == {"photos": 12, "pairs": []}


def test_the_card_lists_the_pairs(paired):
    text = card.to_markdown(paired, "a")
    assert "\n| 1 and 3 | 2.0% | 25.0% |\n" in text
    named = kept_landmarks.rename(paired, ["a", "b", "c"])
    own = PAIR | {"second": 0}
    summary = named.summary | {"mirror": {"photos": 12, "pairs": [own]}}
    text = card.to_markdown(dataclasses.replace(named, summary=summary), "a")
    assert "\n| a | 2.0% | - |\n" in text
    nothing = kept_landmarks.keep(paired, (0, 1))
    assert "\nNo symmetry: none do.\n" in card.to_markdown(nothing, "a")
    assert "mirror" not in card.to_markdown(dataclasses.replace(paired, summary={}), "a")


@pytest.mark.slow
def test_the_shipped_detector_of_faces_against_controls():
    packed = packed_file.read(api.find_packed("faces40"))
    photos = symmetry.photos_of_source(SyntheticFaces(5, 24, 100), packed.config)
    views = framing.of_config(packed.config).central_view(photos.canvases(np.arange(24)))
    detect = ViewDetector(packed.config, packed.variables)

    def find(views, shift=0):
        mirrored = detect(np.ascontiguousarray(views[:, :, ::-1])) * [-1, 1]
        return symmetry.pairs_of(detect(views), np.roll(mirrored, shift, 0))

    found, stored = (
        {(pair["first"], pair["second"]) for pair in pairs}
        for pairs in (find(views), packed.summary["mirror"]["pairs"])
    )
    assert len(found & stored) > 10
    assert find(views, 1) == []  # mirror images of other faces
    assert find(np.repeat(views[:, :, :24], 2, 2)) == []  # left halves
    assert find(views.transpose(0, 2, 1, 3)) == []  # on their sides
