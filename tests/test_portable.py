"""The loaded detector: the same points however a picture is given, and a clear word where none."""

import logging
import os
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import landmarks_jax
from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.inference import api, images, packed_file
from landmarks_jax.inference import detector as detectors
from landmarks_jax.system.errors import DataError, WeightsError
from tests import packing
from tests.running import ROOT, command, finish

AFLW = ROOT / "data" / "aflw"
# A tenth of a pixel of a 128 view: of the picture's shown part, by its side.
TENTH = 0.1 / 128

SIZES = [(50, 40), (64, 64), (30, 90), (200, 150), (17, 16), (41, 40), (120, 33)]
PICTURES = [packing.scene(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def path(narrow_config, filled, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "narrow.safetensors"
    packed_file.write(path, packing.make(narrow_config, filled))
    return path


@pytest.fixture(scope="module")
def detector(path):
    return landmarks_jax.load_detector(path)


@pytest.fixture(scope="module")
def alone(detector):
    """What is found in each picture, given alone."""
    return [detector(picture) for picture in PICTURES]


def tenth(picture: np.ndarray) -> np.ndarray:
    """A tenth of a pixel of a 128 view of a picture, in its own pixels: [2], x and y."""
    return np.array(picture.shape[1::-1]) * 0.8 * TENTH


def test_what_a_loaded_detector_says_of_itself(detector, path):
    assert (detector.num_landmarks, detector.view_size) == (3, 16)
    assert detector.frame == Framing(20, 16, "center")
    assert detector.point_names == ("left eye", "right eye")
    assert detector.summary["scores"] == [{"forward": 12.5}]
    assert isinstance(detector, landmarks_jax.LandmarkDetector)
    assert landmarks_jax.load_detector(str(path)).num_landmarks == 3


def test_one_picture_has_no_leading_axis(detector, alone):
    found = alone[0]
    assert isinstance(found, landmarks_jax.Landmarks)
    assert [array.shape for array in found[:3]] == [(3, 2), (3,), (2, 2)]
    assert found.heatmaps is None
    assert found.landmarks.dtype == found.labelled.dtype == found.confidence.dtype == np.float32
    batch = detector(PICTURES[:2], heatmaps=True)
    assert [array.shape for array in batch] == [(2, 3, 2), (2, 3), (2, 2, 2), (2, 4, 4, 3)]
    assert detector(PICTURES[0], heatmaps=True).heatmaps.shape == (4, 4, 3)
    # The points follow the picture, and lie in it.
    spread = np.std([f.landmarks / p.shape[1::-1] for f, p in zip(alone, PICTURES, strict=True)], 0)
    assert spread.max() > 0.02
    for result, picture in zip(alone, PICTURES, strict=True):
        assert (result.landmarks > -0.5).all()
        assert (result.landmarks < np.array(picture.shape[1::-1]) - 0.5).all()


@pytest.mark.parametrize(
    "form",
    [
        lambda p: p,
        lambda p: tuple(p[::-1])[::-1],
        lambda p: [q.astype(np.float32) / 255 for q in p],
        lambda p: [jnp.asarray(q, jnp.float32) / 255 for q in p],
        lambda p: [jnp.asarray(q) for q in p],
        lambda p: [Image.fromarray(q) for q in p],
        lambda p: [np.dstack([q, np.full(q.shape[:2], 255, np.uint8)]) for q in p],
        lambda p: [np.asfortranarray(q) for q in p],
        lambda p: [*p[:3], p[3] / 255, Image.fromarray(p[4]), jnp.asarray(p[5]), p[6]],
    ],
    ids=["list", "tuple", "floats", "jax-floats", "jax", "pillow", "rgba", "fortran", "mixed"],
)
def test_every_form_of_a_picture_gives_the_same_points(form, detector, alone):
    for count in (len(PICTURES), 1):
        found = detector(form(PICTURES)[:count])
        for i in range(count):
            atol = tenth(PICTURES[i]).min()
            np.testing.assert_allclose(found.landmarks[i], alone[i].landmarks, atol=atol)
            np.testing.assert_allclose(found.confidence[i], alone[i].confidence, atol=1e-4)
            # The regressor of these tests has rows of length 3.
            np.testing.assert_allclose(found.labelled[i], alone[i].labelled, atol=4 * atol)


def test_a_batch_of_any_size_gives_the_same_points(detector):
    pictures = np.stack([packing.scene(60, 60, seed) for seed in range(9)])
    wanted = np.stack([detector(picture).landmarks for picture in pictures])
    for count in (1, 2, 3, 5, 8, 9):
        batch = pictures[:count]
        for given in (batch, jnp.asarray(batch), batch / 255, list(batch)):
            found = detector(given).landmarks
            np.testing.assert_allclose(found, wanted[:count], atol=tenth(batch[0]).min())
        found = detector(batch[::-1]).landmarks[::-1]
        np.testing.assert_allclose(found, wanted[:count], atol=tenth(batch[0]).min())


def test_another_size_gives_the_same_places(detector):
    for seed in range(4):
        small = detector(packing.scene(64, 80, seed))
        for scale in (3, 10):
            large = detector(packing.scene(64 * scale, 80 * scale, seed))
            back = (large.landmarks + 0.5) / scale - 0.5
            moved = np.abs(back - small.landmarks) / (np.array([80, 64]) * 0.8 * TENTH)
            assert moved.max() < 1
            np.testing.assert_allclose(large.confidence, small.confidence, atol=0.05)


def test_boxes_choose_the_part_that_is_looked_at(detector, alone):
    for picture, wanted in zip(PICTURES, alone, strict=True):
        height, width = picture.shape[:2]
        whole = (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height)
        found = detector(picture, whole)
        np.testing.assert_allclose(found.landmarks, wanted.landmarks, atol=tenth(picture).min())

    # A part of a larger picture, and the same part cut out by hand.
    large = packing.scene(200, 150, 3)
    part = large[30:130, 20:110]
    right, corner = detector(part), np.array([20, 30])
    found = detector(large, [20 + 9, 30 + 10, 110 - 9, 130 - 10])
    np.testing.assert_allclose(found.landmarks, right.landmarks + corner, atol=1e-3)
    np.testing.assert_allclose(found.labelled, right.labelled + corner, atol=1e-3)
    np.testing.assert_allclose(found.confidence, right.confidence, atol=1e-5)

    # One box a picture, in their order.
    boxes = np.array([[5, 5, 30, 40], [10, 20, 60, 50]])
    both = detector(PICTURES[:2], boxes)
    for i in range(2):
        single = detector(PICTURES[i], boxes[i])
        np.testing.assert_allclose(both.landmarks[i], single.landmarks, atol=1e-3)
    assert np.abs(both.landmarks[0] - alone[0].landmarks).max() > 0.1


def test_points_are_those_of_the_views_of_training(detector):
    """Decoded, cut and sliced as for training, then through the pure function."""
    photo = packing.scene(218, 178)
    frame = Framing(20, 16, "center")
    canvas, _ = frame.cut(photo, np.zeros((0, 2)))
    found = jax.jit(detector.function)(detector.variables, frame.central_view(canvas[None]))
    for points, name in (
        (np.asarray(found.landmarks), "landmarks"),
        (detector.regressor(np.asarray(found.landmarks)), "labelled"),
    ):
        # The view spans the middle four fifths; -1 is the edge of its first pixel.
        wanted = (points[0] + 1) / 2 * (0.8 * np.array([178, 218])) + [17.8 - 0.5, 21.8 - 0.5]
        np.testing.assert_allclose(getattr(detector(photo), name), wanted, atol=0.5)


def test_without_a_regressor_there_are_no_labelled_points(narrow_config, filled):
    content = packing.make(narrow_config, filled)
    bare = packed_file.Packed(content.config, content.variables, None, {})
    detector = api.LandmarkDetector(bare)
    assert (detector.regressor, detector.point_names) == (None, ())
    assert detector(PICTURES[0]).labelled is None
    assert detector(PICTURES[:2]).labelled is None


def test_heatmaps_and_confidence_by_their_definition(detector):
    found = detector(PICTURES, heatmaps=True)
    np.testing.assert_allclose(found.heatmaps.sum((1, 2)), 1, atol=1e-5)
    assert found.heatmaps.min() >= 0
    assert (found.confidence >= 0).all()
    assert (found.confidence <= 1).all()
    assert np.ptp(found.confidence) > 0.1
    cells = (np.arange(4) + 0.5) / 4
    for i, picture in enumerate(PICTURES):
        height, width = picture.shape[:2]
        for k in range(3):
            weights = found.heatmaps[i, :, :, k].astype(float)
            x = 0.1 * width + 0.8 * width * (weights.sum(0) * cells).sum() - 0.5
            y = 0.1 * height + 0.8 * height * (weights.sum(1) * cells).sum() - 0.5
            np.testing.assert_allclose(found.landmarks[i, k], [x, y], atol=1e-3)
            column, row = (weights.sum(0) * range(4)).sum(), (weights.sum(1) * range(4)).sum()
            near = sum(
                weights[r, c]
                for r in range(4)
                for c in range(4)
                if np.hypot(r - row, c - column) <= 1.5
            )
            assert found.confidence[i, k] == pytest.approx(near, abs=1e-5)


def test_the_functional_form_under_jit_vmap_and_grad(detector):
    views = images.to_views(
        PICTURES[:6], [(0, 0, p.shape[1], p.shape[0]) for p in PICTURES[:6]], 16
    )
    detect = partial(detector.function, detector.variables)
    wanted = jax.jit(detect)(views)
    shapes = [(6, 3, 2), (6, 3), (6, 4, 4, 3)]
    assert [array.shape for array in wanted] == shapes
    whole = detector(PICTURES[:6], [(0, 0, p.shape[1], p.shape[0]) for p in PICTURES[:6]])
    np.testing.assert_allclose(wanted.confidence, whole.confidence, atol=1e-5)

    floats = jnp.asarray(views, jnp.float32) / 255
    mapped = jax.jit(jax.vmap(detect))(floats.reshape(2, 3, 16, 16, 3))
    for array, again in zip(wanted, mapped, strict=True):
        np.testing.assert_allclose(again.reshape(array.shape), array, atol=1e-5)

    direction = jnp.asarray(np.random.default_rng(1).normal(size=floats.shape), jnp.float32)

    def moved(t):
        return detect(floats + t * direction).landmarks[..., 0].sum()

    slope = jax.jit(jax.grad(moved))(0.0)
    rise = (jax.jit(moved)(1e-3) - jax.jit(moved)(-1e-3)) / 2e-3
    assert abs(slope) > 0.1
    assert slope == pytest.approx(float(rise), rel=0.05)
    with pytest.raises(TypeError, match="views of type int32: must be uint8, or floating"):
        detect(views.astype(np.int32))


def test_nothing_recompiles_when_sizes_vary(path, caplog):
    detector = landmarks_jax.load_detector(path)
    program = detector._views._detect
    assert program._cache_size() == 0
    rng = np.random.default_rng(0)

    def call(count: int, form: int) -> None:
        pictures = [PICTURES[i] for i in rng.integers(0, len(PICTURES), count)]
        given = [pictures, [p / 255 for p in pictures], np.stack([pictures[0]] * count)][form]
        detector(given, heatmaps=bool(form))

    for count, programs in ((1, 1), (1, 1), (2, 2), (3, 3), (4, 3), (5, 4), (8, 4), (7, 4)):
        call(count, 0)
        assert program._cache_size() == programs
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG):
        for form in range(3):
            for count in range(1, 9):
                call(count, form)
        assert program._cache_size() == 4
        assert not [r for r in caplog.records if "ompiling" in r.getMessage()]
        jax.jit(lambda x: x + 1)(np.zeros(77))  # what a compilation leaves there
        assert [r for r in caplog.records if "ompiling" in r.getMessage()]


def test_many_pictures_need_no_larger_program(path, monkeypatch):
    monkeypatch.setattr(detectors, "LARGEST_BATCH", 4)
    detector = landmarks_jax.load_detector(path)
    pictures = [PICTURES[i % len(PICTURES)] for i in range(13)]
    found = detector(pictures, heatmaps=True)
    assert detector._views._detect._cache_size() == 2  # of 4 and of 1
    for i in (0, 5, 12):
        again = detector(pictures[i : i + 1], heatmaps=True)
        np.testing.assert_allclose(found.landmarks[i], again.landmarks[0], atol=1e-3)
        np.testing.assert_allclose(found.heatmaps[i], again.heatmaps[0], atol=1e-5)


@pytest.mark.parametrize(
    ("pictures", "boxes", "message"),
    [
        ([], None, "no images: the batch is empty"),
        (np.zeros((0, 20, 20, 3), np.uint8), None, "no images: the batch is empty"),
        (np.zeros((0, 20, 3), np.uint8), None, "it has no pixels"),
        ([PICTURES[0], np.full((4, 4), np.nan)], None, "image 1 has pixels that are NaN"),
        (PICTURES[0].astype(float), None, "must be in [0, 1]"),
        (PICTURES[0][..., :2], None, "has the shape [50, 40, 2]"),
        ("photo.jpg", None, "read files with"),
        (PICTURES[0], [[0, 0, 9, 9]] * 2, "boxes have the shape [2, 4]: must be [4]"),
        (PICTURES[:2], [0, 0, 9, 9], "boxes have the shape [4]: must be [2, 4]"),
        (PICTURES[0], [0, 0, np.nan, 9], "box 0 is [0.0, 0.0, nan, 9.0]"),
        (PICTURES[0], [100, 0, 120, 9], "lies outside its image, 40 x 50"),
        (np.broadcast_to(np.uint8(7), (20_000, 20_000)), None, "of 16000 x 16000 pixels: at most"),
        (np.broadcast_to(np.float32(0.5), (20_000, 20_000, 3)), None, "of 20000 x 20000 pixels"),
    ],
)
def test_bad_input_is_named_in_one_line(pictures, boxes, message, detector):
    with pytest.raises(DataError) as refused:
        detector(pictures, boxes)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_detector_of_boxes_needs_them(narrow_config, filled, detector):
    content = packing.make(narrow_config, filled, data__crop="box")
    boxed = api.LandmarkDetector(content)
    with pytest.raises(DataError, match="it needs boxes, x0 y0 x1 y1 for each image"):
        boxed(PICTURES)
    boxes = [(1, 2, 16, 17)] * len(PICTURES)
    found = boxed(PICTURES, boxes)
    np.testing.assert_allclose(found.landmarks, detector(PICTURES, boxes).landmarks, atol=1e-3)


def test_names_of_detectors_that_come_with_the_package(path, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_SHIPPED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"^faces: no such file; .* come none$"):
        landmarks_jax.load_detector()
    shipped = tmp_path / "pretrained" / "faces.safetensors"
    shipped.parent.mkdir()
    shipped.write_bytes(path.read_bytes())
    assert landmarks_jax.load_detector().num_landmarks == 3
    # A folder of pictures, or another file, of that name does not stand in the way.
    (tmp_path / "faces").mkdir()
    assert landmarks_jax.load_detector("faces").num_landmarks == 3
    assert api.find("faces") == shipped
    assert api.find(os.path.join(".", "faces")) == tmp_path.__class__("faces")
    with pytest.raises(WeightsError, match=r"^faces: is a folder"):
        landmarks_jax.load_detector("./faces")
    for missing in ("cats", tmp_path / "cats.safetensors", "cats" * 100):
        with pytest.raises(WeightsError, match=r"cats.*: no such file; .* come faces$"):
            landmarks_jax.load_detector(missing)


FRESH = """
import sys
import numpy as np
import landmarks_jax
assert "jax" not in sys.modules  # nor anything else of weight before it is needed
from landmarks_jax import load_detector
def loaded():
    names = "tensorflow optax orbax matplotlib tensorboardX tqdm torch scipy sklearn av onnx"
    training = ("landmarks_jax.training", "landmarks_jax.objective", "landmarks_jax.config")
    return sorted(set(sys.modules) & {*names.split(), *training})
print(loaded())
found = load_detector(sys.argv[1])(np.zeros((30, 20, 3), np.uint8))
print(found.landmarks.shape, loaded())
"""


def test_a_first_result_loads_nothing_of_the_training_stack(path):
    code, out, err = finish(command(str(path), code=FRESH))
    assert code == 0, err
    assert out.splitlines() == ["[]", "(3, 2) []"]


@pytest.fixture(scope="module")
def photos():
    """Real faces, and of each its size."""
    if not (AFLW / "testing.txt").is_file():
        pytest.skip(f"no AFLW faces at {AFLW}")
    faces = registry.open_labelled(str(AFLW / "testing.txt"))
    return [faces.photo(i) for i in range(0, 160, 10)]


@pytest.fixture(scope="module")
def best(detector):
    """The detector that comes with the package, once there is one."""
    shipped = sorted(api._SHIPPED.glob("*.safetensors"))
    return landmarks_jax.load_detector(shipped[0].stem) if shipped else detector


def test_real_photos_however_they_are_given(best, photos, tmp_path):
    listed = best(photos)
    tenths = np.array([photo.shape[1::-1] for photo in photos])[:, None] * 0.8 * TENTH
    single = [best(photo) for photo in photos[:5]]
    floats = best([photo.astype(np.float32) / 255 for photo in photos])
    backwards = best(photos[::-1]).landmarks[::-1]
    for other in (floats.landmarks, backwards, np.stack([s.landmarks for s in single])):
        assert (np.abs(other - listed.landmarks[: len(other)]) <= tenths[: len(other)]).all()

    # From a file without loss, and twice as large.
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    np.testing.assert_array_equal(
        best(decoding.decode(tmp_path / "a.png")[0]).landmarks, single[0].landmarks
    )
    twice = [np.repeat(np.repeat(photo, 2, 0), 2, 1) for photo in photos]
    moved = (best(twice).landmarks + 0.5) / 2 - 0.5 - listed.landmarks
    assert np.abs(moved / tenths).mean() < 2
