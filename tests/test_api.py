"""The public API: the same landmarks however an image is given, and one-line errors."""

import logging
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import landmarks_jax
from landmarks_jax.data import decoding
from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources import registry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference import detector as view_detector
from landmarks_jax.system.errors import DataError, WeightsError
from tests import packing
from tests.running import ROOT, command, finish

AFLW = ROOT / "data" / "aflw"
# A tenth of a pixel of a 128 view, as a share of the viewed part.
TENTH = 0.1 / 128

SIZES = [(50, 40), (64, 64), (30, 90), (200, 150), (17, 16), (41, 40), (120, 33)]
IMAGES = [packing.scene(*size, seed) for seed, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def detector(landmark_detector):
    return landmark_detector


@pytest.fixture(scope="module")
def alone(detector):
    """The landmarks of each image, given alone."""
    return [detector(image) for image in IMAGES]


def tenth(image: np.ndarray) -> np.ndarray:
    """A tenth of a pixel of a 128 view of an image, in its own pixels: [2], x and y."""
    return np.array(image.shape[1::-1]) * 0.8 * TENTH


def test_attributes_of_a_loaded_detector(packed_path):
    detector = landmarks_jax.load_detector(str(packed_path))
    assert isinstance(detector, landmarks_jax.LandmarkDetector)
    assert (detector.num_landmarks, detector.view_size) == (3, 16)
    assert detector.frame == Framing(20, 16, "center")
    assert detector.point_names == ("left eye", "right eye")
    assert detector.summary["scores"] == [packing.SCORE]


def test_a_single_image_has_no_leading_axis(detector, alone):
    single = alone[0]
    assert isinstance(single, landmarks_jax.Landmarks)
    assert [array.shape for array in single[:3]] == [(3, 2), (3,), (2, 2)]
    assert single.heatmaps is None
    assert {array.dtype for array in single[:3]} == {np.dtype(np.float32)}
    batch = detector(IMAGES[:2], heatmaps=True)
    assert [array.shape for array in batch] == [(2, 3, 2), (2, 3), (2, 2, 2), (2, 4, 4, 3)]
    assert detector(IMAGES[0], heatmaps=True).heatmaps.shape == (4, 4, 3)
    # The landmarks depend on the image, and lie in it.
    sizes = np.array([image.shape[1::-1] for image in IMAGES])[:, None]
    landmarks = np.stack([single.landmarks for single in alone])
    assert np.std(landmarks / sizes, 0).max() > 0.02
    assert (landmarks > -0.5).all()
    assert (landmarks < sizes - 0.5).all()


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
def test_every_form_of_an_image_gives_the_same_landmarks(form, detector, alone):
    for count in (len(IMAGES), 1):
        batch = detector(form(IMAGES)[:count])
        for i in range(count):
            atol = tenth(IMAGES[i]).min()
            np.testing.assert_allclose(batch.landmarks[i], alone[i].landmarks, atol=atol)
            np.testing.assert_allclose(batch.confidence[i], alone[i].confidence, atol=1e-4)
            # The rows of this regressor have a norm of about 3.
            np.testing.assert_allclose(batch.labelled[i], alone[i].labelled, atol=4 * atol)


def test_a_batch_of_any_size_gives_the_same_landmarks(detector):
    images = np.stack([packing.scene(60, 60, seed) for seed in range(5)])
    expected = np.stack([detector(image).landmarks for image in images])
    atol = tenth(images[0]).min()
    for count in (1, 3, 5):
        batch = images[:count]
        for form in (batch, jnp.asarray(batch), batch / 255, list(batch)):
            np.testing.assert_allclose(detector(form).landmarks, expected[:count], atol=atol)
        backwards = detector(batch[::-1]).landmarks[::-1]
        np.testing.assert_allclose(backwards, expected[:count], atol=atol)


def test_another_resolution_gives_the_same_places(detector):
    for seed in range(4):
        small = detector(packing.scene(64, 80, seed))
        for scale in (3, 10):
            large = detector(packing.scene(64 * scale, 80 * scale, seed))
            back = (large.landmarks + 0.5) / scale - 0.5
            shift = np.abs(back - small.landmarks) / (np.array([80, 64]) * 0.8 * TENTH)
            assert shift.max() < 1
            np.testing.assert_allclose(large.confidence, small.confidence, atol=0.05)


def test_boxes_choose_the_viewed_part(detector, alone):
    for image, default in zip(IMAGES, alone, strict=True):
        height, width = image.shape[:2]
        boxed = detector(image, (0.1 * width, 0.1 * height, 0.9 * width, 0.9 * height))
        np.testing.assert_allclose(boxed.landmarks, default.landmarks, atol=tenth(image).min())

    # A part of a larger image, and the same part cropped by hand.
    large = packing.scene(200, 150, 3)
    part = large[30:130, 20:110]
    cropped, corner = detector(part), np.array([20, 30])
    boxed = detector(large, [20 + 9, 30 + 10, 110 - 9, 130 - 10])
    np.testing.assert_allclose(boxed.landmarks, cropped.landmarks + corner, atol=1e-3)
    np.testing.assert_allclose(boxed.labelled, cropped.labelled + corner, atol=1e-3)
    np.testing.assert_allclose(boxed.confidence, cropped.confidence, atol=1e-5)

    # One box per image, in their order.
    boxes = np.array([[5, 5, 30, 40], [10, 20, 60, 50]])
    both = detector(IMAGES[:2], boxes)
    for i in range(2):
        single = detector(IMAGES[i], boxes[i])
        np.testing.assert_allclose(both.landmarks[i], single.landmarks, atol=1e-3)
    assert np.abs(both.landmarks[0] - alone[0].landmarks).max() > 0.1


def test_landmarks_are_those_of_the_views_of_training(detector):
    """Cut and sliced as for training, then through the pure function."""
    photo = packing.scene(218, 178)
    frame = Framing(20, 16, "center")
    canvas, _ = frame.cut(photo, np.zeros((0, 2)))
    output = jax.jit(detector.function)(detector.variables, frame.central_view(canvas[None]))
    assert [array.shape for array in output] == [(1, 3, 2), (1, 3), (1, 4, 4, 3)]
    landmarks = np.asarray(output.landmarks)
    for points, name in ((landmarks, "landmarks"), (detector.regressor(landmarks), "labelled")):
        # The view spans the central four fifths; -1 is the edge of its first pixel.
        expected = (points[0] + 1) / 2 * (0.8 * np.array([178, 218])) + [17.8 - 0.5, 21.8 - 0.5]
        np.testing.assert_allclose(getattr(detector(photo), name), expected, atol=0.5)
    np.testing.assert_allclose(output.confidence[0], detector(photo).confidence, atol=0.05)


def test_without_a_regressor_there_are_no_labelled_points(packed):
    bare = packed_file.PackedDetector(packed.config, packed.variables, None, {})
    detector = api.LandmarkDetector(bare)
    assert (detector.regressor, detector.point_names) == (None, ())
    assert detector(IMAGES[0]).labelled is None
    assert detector(IMAGES[:1]).labelled is None


def test_heatmaps_and_confidence_by_their_definition(detector):
    batch = detector(IMAGES, heatmaps=True)
    np.testing.assert_allclose(batch.heatmaps.sum((1, 2)), 1, atol=1e-5)
    assert batch.heatmaps.min() >= 0
    assert (batch.confidence >= 0).all()
    assert (batch.confidence <= 1).all()
    assert np.ptp(batch.confidence) > 0.1
    cells = (np.arange(4) + 0.5) / 4
    for i, image in enumerate(IMAGES):
        height, width = image.shape[:2]
        for k in range(3):
            weights = batch.heatmaps[i, :, :, k].astype(float)
            x = 0.1 * width + 0.8 * width * (weights.sum(0) * cells).sum() - 0.5
            y = 0.1 * height + 0.8 * height * (weights.sum(1) * cells).sum() - 0.5
            np.testing.assert_allclose(batch.landmarks[i, k], [x, y], atol=1e-3)
            column, row = (weights.sum(0) * range(4)).sum(), (weights.sum(1) * range(4)).sum()
            near = sum(
                weights[r, c]
                for r in range(4)
                for c in range(4)
                if np.hypot(r - row, c - column) <= 1.5
            )
            assert batch.confidence[i, k] == pytest.approx(near, abs=1e-5)


def test_nothing_recompiles_when_sizes_vary(packed, caplog):
    detector = api.LandmarkDetector(packed)
    program = detector._views._detect
    program.clear_cache()
    rng = np.random.default_rng(0)

    def call(count: int, form: int) -> None:
        images = [IMAGES[i] for i in rng.integers(0, len(IMAGES), count)]
        forms = [images, [image / 255 for image in images], np.stack([images[0]] * count)]
        detector(forms[form], heatmaps=bool(form))

    for count, programs in ((1, 1), (1, 1), (2, 2), (3, 3), (4, 3), (2, 3)):
        call(count, 0)
        assert program._cache_size() == programs
    with jax.log_compiles(True), caplog.at_level(logging.DEBUG):
        for form in range(3):
            for count in range(1, 5):
                call(count, form)
        assert program._cache_size() == 3
        assert not [r for r in caplog.records if "ompiling" in r.getMessage()]
        jax.jit(lambda x: x + 1)(np.zeros(77))  # what a compilation would log
        assert [r for r in caplog.records if "ompiling" in r.getMessage()]


def test_many_images_need_no_larger_program(packed, alone, monkeypatch):
    monkeypatch.setattr(view_detector, "MAX_BATCH", 4)
    detector = api.LandmarkDetector(packed)
    detector._views._detect.clear_cache()
    images = [IMAGES[i % len(IMAGES)] for i in range(13)]
    batch = detector(images)
    assert detector._views._detect._cache_size() == 2  # of 4 and of 1
    for i in range(13):
        expected = alone[i % len(IMAGES)].landmarks
        np.testing.assert_allclose(batch.landmarks[i], expected, atol=1e-3)


@pytest.mark.parametrize(
    ("images", "boxes", "message"),
    [
        ([], None, "no images: the batch is empty"),
        (np.zeros((0, 20, 20, 3), np.uint8), None, "no images: the batch is empty"),
        (np.zeros((0, 20, 3), np.uint8), None, "it has no pixels"),
        ([IMAGES[0], np.full((4, 4), np.nan)], None, "image 1 has pixels that are NaN"),
        (IMAGES[0].astype(float), None, "must be in [0, 1]"),
        (IMAGES[0][..., :2], None, "has shape [50, 40, 2]"),
        ("photo.jpg", None, "read files with"),
        (IMAGES[0], [0, 0, 9], "boxes have shape [3]: must be [4] or [n, 4]"),
        (IMAGES[0], [[0, 0, 9]] * 2, "boxes have shape [2, 3]: must be [4] or [n, 4]"),
        (IMAGES[0], 9, "boxes have shape []: must be [4] or [n, 4]"),
        (IMAGES[0], [[0, 0, 9, 9], [0, 0]], "boxes are not an array of numbers: must be [4] or"),
        (IMAGES[:2], [0, 0, 9, 9], "boxes have shape [4]: must be [2, 4]"),
        (IMAGES[0], [0, 0, np.nan, 9], "box 0 is [0.0, 0.0, nan, 9.0]"),
        (IMAGES[0], [100, 0, 120, 9], "lies outside its image, 40 x 50"),
        (np.broadcast_to(np.uint8(7), (20_000, 20_000)), None, "has 16000 x 16000 pixels: at most"),
        (np.broadcast_to(np.float32(0.5), (20_000, 20_000, 3)), None, "has 20000 x 20000 pixels"),
    ],
)
def test_bad_input_is_named_in_one_line(images, boxes, message, detector):
    with pytest.raises(DataError) as error:
        detector(images, boxes)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_detector_of_boxes_needs_them(narrow_config, filled, detector):
    boxed = api.LandmarkDetector(packing.make(narrow_config, filled, data__crop="box"))
    with pytest.raises(DataError, match="it needs boxes, x0 y0 x1 y1 for each image"):
        boxed(IMAGES)
    boxes = [(1, 2, 16, 17)] * len(IMAGES)
    expected = detector(IMAGES, boxes).landmarks
    np.testing.assert_allclose(boxed(IMAGES, boxes).landmarks, expected, atol=1e-3)


def test_names_of_shipped_detectors(packed_path, tmp_path, monkeypatch):
    monkeypatch.setattr(api, "_SHIPPED", tmp_path / "pretrained")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"^faces: no such file; .* ships: none$"):
        landmarks_jax.load_detector()
    shipped = tmp_path / "pretrained" / "faces.safetensors"
    shipped.parent.mkdir()
    shipped.write_bytes(packed_path.read_bytes())
    assert landmarks_jax.load_detector().num_landmarks == 3
    # The name takes precedence over a folder or file of that name.
    (tmp_path / "faces").mkdir()
    assert landmarks_jax.load_detector("faces").num_landmarks == 3
    assert api.find_packed("faces") == shipped
    assert api.find_packed(os.path.join(".", "faces")) == tmp_path.__class__("faces")
    with pytest.raises(WeightsError, match=r"^faces: is a folder"):
        landmarks_jax.load_detector("./faces")
    for missing in ("cats", tmp_path / "cats.safetensors", "cats" * 100):
        with pytest.raises(WeightsError, match=r"cats.*: no such file; .* ships: faces$"):
            landmarks_jax.load_detector(missing)


FRESH = """
import sys
import numpy as np
import landmarks_jax
assert "jax" not in sys.modules  # imported at first use
from landmarks_jax import load_detector
def loaded():
    names = "tensorflow optax orbax matplotlib tensorboardX tqdm torch scipy sklearn av onnx"
    training = ("landmarks_jax.training", "landmarks_jax.objective", "landmarks_jax.config")
    return sorted(set(sys.modules) & {*names.split(), *training})
print(loaded())
landmarks = load_detector(sys.argv[1])(np.zeros((30, 20, 3), np.uint8)).landmarks
print(landmarks.shape, loaded())
"""


def test_inference_loads_nothing_of_the_training_stack(packed_path):
    code, out, err = finish(command(str(packed_path), code=FRESH))
    assert code == 0, err
    assert out.splitlines() == ["[]", "(3, 2) []"]


@pytest.fixture(scope="module")
def photos():
    """Photos of faces if they are at hand, else synthetic faces."""
    if (AFLW / "testing.txt").is_file():
        source = registry.open_labelled(str(AFLW / "testing.txt"))
    else:
        source = SyntheticFaces(0, 80, 90)
    return [source.photo(i) for i in range(0, 80, 10)]


def test_the_shipped_detector_on_photos_however_they_are_given(photos, tmp_path):
    shipped = landmarks_jax.load_detector()
    batch = shipped(photos).landmarks
    assert batch.std(0).max() > 1
    tenths = np.array([photo.shape[1::-1] for photo in photos])[:, None] * 0.8 * TENTH
    single = np.stack([shipped(photo).landmarks for photo in photos[:5]])
    floats = shipped([photo.astype(np.float32) / 255 for photo in photos]).landmarks
    backwards = shipped(photos[::-1]).landmarks[::-1]
    for other in (floats, backwards, single):
        assert (np.abs(other - batch[: len(other)]) <= tenths[: len(other)]).all()

    # From a lossless file, and twice as large.
    Image.fromarray(photos[0]).save(tmp_path / "a.png")
    from_file = shipped(decoding.decode(tmp_path / "a.png")[0]).landmarks
    np.testing.assert_array_equal(from_file, single[0])
    twice = [np.repeat(np.repeat(photo, 2, 0), 2, 1) for photo in photos]
    shift = (shipped(twice).landmarks + 0.5) / 2 - 0.5 - batch
    assert np.abs(shift / tenths).mean() < 2
