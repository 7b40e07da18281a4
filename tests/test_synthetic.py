"""Synthetic faces: their images, their landmarks, and the shapes they are made of."""

import numpy as np
import pytest

from landmarks_jax import geometry
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.data.synthetic_faces import canvas, face_model

LEFT_EYE, RIGHT_EYE, NOSE, LEFT_MOUTH, RIGHT_MOUTH = range(5)


def normalized(faces: SyntheticFaces, indexes: range) -> np.ndarray:
    size = (faces.size, faces.size)
    return np.stack([geometry.to_normalized(faces.points(i), size) for i in indexes])


@pytest.fixture(scope="module")
def landmarks() -> np.ndarray:
    return normalized(SyntheticFaces(seed=7, count=600, size=64), range(600))


def brightness(photo: np.ndarray) -> np.ndarray:
    return photo.astype(np.float32).mean(-1)


def plain(face: face_model.Face) -> bool:
    """Whether both eyes of a face are in full sight, and its skin is lighter than its pupils."""
    return (
        face.glasses == "none"
        and face.occlusion == "none"
        and face.blink < 0.5
        and abs(face.yaw) < 0.35
        and face.hair_style in ("bald", "short", "bun", "beanie")
        and face.skin.mean() > 0.5
    )


def test_one_face_is_the_same_in_any_order_and_instance():
    first, second = (SyntheticFaces(seed=3, count=9, size=48) for _ in range(2))
    forwards = [first.photo(i) for i in range(5)]
    for i in reversed(range(5)):
        np.testing.assert_array_equal(second.points(i), first.points(i))
        np.testing.assert_array_equal(second.photo(i), forwards[i])


def test_the_stream_stays_what_it_was():
    # Recorded from this program: a change of the stream makes other faces of every seed, and
    # results of before and after it cannot be compared.
    face = face_model.sample(seed=1, index=2)
    points = SyntheticFaces(seed=1, count=3, size=80).points(2)
    assert face.hair_style == "short"
    expected = [
        [29.909, 36.345],
        [47.162, 34.130],
        [39.372, 43.650],
        [35.888, 52.321],
        [45.942, 51.033],
    ]
    np.testing.assert_allclose(points, expected, atol=2e-3)


def test_shapes_and_dtypes():
    faces = SyntheticFaces(seed=0, count=2, size=37)
    photo, points = faces.photo(1), faces.points(1)
    assert (photo.shape, photo.dtype) == ((37, 37, 3), np.uint8)
    assert (points.shape, points.dtype) == ((faces.num_points, 2), np.float32)
    assert len(faces) == 2
    assert faces.name(1) == "face-000001"


@pytest.mark.parametrize("index", [-1, 4, 5])
def test_an_index_out_of_range_is_an_error(index):
    faces = SyntheticFaces(seed=0, count=4, size=16)
    for method in (faces.photo, faces.points, faces.name):
        with pytest.raises(IndexError, match=f"face {index} of 4"):
            method(index)


def test_neighbours_and_seeds_differ():
    faces = SyntheticFaces(seed=0, count=6, size=40)
    photos = [faces.photo(i) for i in range(6)] + [SyntheticFaces(1, 1, 40).photo(0)]
    for i, one in enumerate(photos):
        for other in photos[:i]:
            assert np.abs(brightness(one) - brightness(other)).mean() > 8


def test_a_face_is_the_same_at_every_size():
    small, large = SyntheticFaces(5, 12, 80), SyntheticFaces(5, 12, 160)
    points = normalized(small, range(12)), normalized(large, range(12))
    np.testing.assert_allclose(*points, atol=1e-5)
    for i in range(12):
        halved = large.photo(i).reshape(80, 2, 80, 2, 3).mean((1, 3))
        error = np.abs(halved - small.photo(i))
        assert error.mean() < 2.5
        # A shift by one pixel is another image: the comparison above would see it.
        assert np.abs(halved[:, 1:] - small.photo(i)[:, :-1]).mean() > 1.5 * error.mean()


def test_points_lie_well_inside_the_central_view(landmarks):
    assert np.abs(landmarks[:300]).max() < 0.72  # the view ends at 0.8


def test_points_are_in_the_order_of_a_face(landmarks):
    upright = landmarks[np.abs(landmarks[:, LEFT_EYE, 1] - landmarks[:, RIGHT_EYE, 1]) < 0.03]
    assert len(upright) > 50
    assert (upright[:, LEFT_EYE, 0] < upright[:, RIGHT_EYE, 0]).all()
    assert (upright[:, LEFT_MOUTH, 0] < upright[:, RIGHT_MOUTH, 0]).all()
    assert (upright[:, NOSE, 1] > upright[:, LEFT_EYE, 1]).all()
    mouth = upright[:, [LEFT_MOUTH, RIGHT_MOUTH]].mean(1)
    assert (upright[:, NOSE, 1] < mouth[:, 1]).all()


def test_the_eyes_are_as_far_apart_as_in_portraits(landmarks):
    share = np.linalg.norm(landmarks[:, LEFT_EYE] - landmarks[:, RIGHT_EYE], axis=-1) / 1.6
    assert 0.25 < share.mean() < 0.35
    assert share.min() > 0.15


def test_the_mean_shape_is_a_poor_guess(landmarks):
    inter_ocular = np.linalg.norm(landmarks[:, LEFT_EYE] - landmarks[:, RIGHT_EYE], axis=-1)
    distance = np.linalg.norm(landmarks - landmarks.mean(0), axis=-1).mean(-1)
    score = 100 * (distance / inter_ocular).mean()
    assert 12 <= score < 30


def test_what_is_random_varies():
    faces = [face_model.sample(0, i) for i in range(300)]
    assert {face.hair_style for face in faces} == set(face_model.HAIR_STYLES)
    assert {face.occlusion for face in faces} == set(face_model.OCCLUSIONS)
    assert {face.glasses for face in faces} == {"none", "clear", "dark"}
    assert len({face.beard for face in faces}) == 5
    assert 0.15 < np.mean([face.occlusion != "none" for face in faces]) < 0.35
    for name, least in {"yaw": 0.2, "roll": 0.1, "smile": 0.3, "pitch": 0.08}.items():
        assert np.std([getattr(face, name) for face in faces]) > least


def test_pupils_are_drawn_at_the_eye_landmarks():
    size = 160
    faces = SyntheticFaces(seed=2, count=400, size=size)
    chosen = [i for i in range(400) if plain(face_model.sample(2, i))][:25]
    assert len(chosen) == 25
    for i in chosen:
        grey, points = brightness(faces.photo(i)), faces.points(i)
        for eye in (LEFT_EYE, RIGHT_EYE):
            x, y = np.round(points[eye]).astype(int)
            pupil = grey[y - 3 : y + 4, x - 3 : x + 4].min()
            cheek = grey[y + 12 : y + 18, x - 3 : x + 4].mean()
            assert pupil < 0.5 * cheek
            # The white of the eye lies beside it: a brow or a lash would not do.
            assert grey[y - 4 : y + 5, x - 9 : x + 10].max() > 1.6 * pupil


def test_the_mouth_is_drawn_between_its_corners():
    size = 160
    faces = SyntheticFaces(seed=2, count=400, size=size)
    chosen = [
        i
        for i in range(400)
        if plain(face := face_model.sample(2, i)) and face.beard == "none" and face.pitch < 0.15
    ][:15]
    assert len(chosen) == 15
    for i in chosen:
        photo, points = faces.photo(i).astype(np.float32), faces.points(i)
        redness = photo[..., 0] / (photo[..., 1] + 1)
        middle = points[[LEFT_MOUTH, RIGHT_MOUTH]].mean(0)
        x, y = np.round(middle).astype(int)
        cheeks = redness[y - 12 : y - 7, x - 14 : x + 15].mean()
        assert redness[y - 6 : y + 12, x - 3 : x + 4].max() > 1.15 * cheeks
        for corner in (LEFT_MOUTH, RIGHT_MOUTH):
            x, y = np.round(points[corner]).astype(int)
            patch = brightness(photo)
            assert patch[y - 2 : y + 3, x - 2 : x + 3].min() < 0.9 * np.median(
                patch[y - 12 : y + 13, x - 12 : x + 13]
            )


def test_the_middle_of_the_head_is_where_its_projection_says():
    head = face_model.Head(face_model.sample(0, 0))
    back = geometry.apply(head.from_image, head.project(np.zeros(3))[None])
    np.testing.assert_allclose(back, np.zeros((1, 2)), atol=1e-6)


def test_the_rotation_is_towards_the_yaw():
    face = face_model.sample(0, 0)
    head = face_model.Head(face)
    np.testing.assert_allclose(head.rotation @ head.rotation.T, np.eye(3), atol=1e-6)
    nose = (head.rotation @ np.array([0, 0, 1]))[0]
    assert np.sign(nose) == np.sign(face.yaw)


def test_fill_covers_half_a_pixel_at_the_edge():
    distance = np.array([-1, -0.25, 0, 0.25, 1], np.float32)
    covered = canvas.fill(distance, softness=1.0)
    np.testing.assert_allclose(covered, [1, 0.75, 0.5, 0.25, 0])


def test_a_thin_stroke_keeps_its_ink():
    distance = np.linspace(-4, 4, 4001, dtype=np.float32)
    for weight in (0.1, 0.3, 1.0):
        ink = canvas.stroke(distance, weight, softness=1.0).sum() * 8 / 4001
        assert ink == pytest.approx(2 * weight, rel=0.02)


def test_distances_at_known_places():
    u, v = np.array([3.0, 0.0, 5.0], np.float32), np.array([0.0, 0.0, 6.0], np.float32)
    np.testing.assert_allclose(canvas.box(u, v, 2, 2, 0.0), [1, -2, 5], rtol=1e-6)
    np.testing.assert_allclose(canvas.ellipse(u, v, 2, 2)[:2], [1, -2], rtol=1e-6)
    ends = np.array([0.0, -1.0]), np.array([0.0, 1.0])
    distance, along, across = canvas.capsule(u, v, *ends, radii=(0.5, 0.5))
    np.testing.assert_allclose(distance, [2.5, -0.5, np.hypot(5, 5) - 0.5], rtol=1e-6)
    np.testing.assert_allclose(along, [0.5, 0.5, 1.0])
    np.testing.assert_allclose(np.abs(across[:2]), [6, 0])
