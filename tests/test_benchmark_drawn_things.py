"""Drawn things: points lie where images show them, and are read back as they were drawn."""

import io
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.interpolate import CubicHermiteSpline

from benchmarks import drawn_figures, drawn_pen, drawn_things, drawn_wings
from benchmarks.drawn_pen import Pen
from landmarks_jax import geometry
from landmarks_jax.data.sources import registry
from landmarks_jax.system.errors import DataError

THINGS = ("wings", "figures")
WHITE, BLACK = np.ones(3), np.zeros(3)


@pytest.fixture(scope="module", params=THINGS)
def written(request, tmp_path_factory):
    """A kind, its folder, and the photos in it."""
    out = tmp_path_factory.mktemp("drawn") / request.param
    return request.param, out, drawn_things.write(request.param, 3, 24, out)


def test_the_files_are_read_back_as_they_were_drawn(written):
    kind, out, photos = written
    source = registry.open_labelled(str(out / "points.csv"))
    assert source.point_names == drawn_things.KINDS[kind].names
    assert len(source) == len(photos) == len(list((out / "photos").iterdir()))
    for i, photo in enumerate(photos):
        assert source.name(i) == f"photos/{i:04}.jpg"
        assert source.photo(i).shape == (*photo.size[::-1], 3)
        np.testing.assert_array_equal(source.points(i), photo.points.astype(np.float32))
        assert (out / source.name(i)).read_bytes() == photo.jpeg


def test_a_photo_depends_on_kind_seed_and_number_alone(written):
    kind, _, photos = written
    again = drawn_things.photo(kind, 3, 23)
    assert again.jpeg == photos[23].jpeg
    np.testing.assert_array_equal(again.points, photos[23].points)
    others = [drawn_things.photo(kind, 4, 23), drawn_things.photo(kind, 3, 22)]
    assert all(np.abs(other.points - again.points).max() > 2 for other in others)


def test_the_mean_shape_is_a_poor_guess_and_all_points_are_in_the_image(written):
    _, _, photos = written
    assert drawn_things.mean_error(photos) > 8
    for photo in photos:
        assert (photo.points >= 0).all()
        assert (photo.points <= np.array(photo.size) - 1).all()


def test_the_error_of_the_mean_shape():
    # In a photo of 200 x 200 the first two are 100 pixels apart; the third is 5 from its mean.
    still = np.array([[50.0, 50], [150, 50]])
    photos = [
        drawn_things.Photo((200, 200), b"", np.concatenate([still, [[100, 100 + y]]]))
        for y in (-5, 5)
    ]
    assert drawn_things.mean_error(photos) == pytest.approx(5 / 3)


def test_limbs_do_not_leave_the_image():
    rng, size = np.random.default_rng(0), drawn_figures.SIZE
    for _ in range(500):
        figure = drawn_figures.shape(rng)
        outline = drawn_figures.outline(figure)
        to_image = drawn_pen.pose(rng, size, outline, share=0.85, rotation=6)
        scale = np.hypot(*to_image[:, 0])
        points = geometry.apply(to_image, figure.points)
        assert (points > 0.05 * scale).all()  # a hand or a shoe has room
        assert (points < np.array(size) - 1 - 0.05 * scale).all()


@pytest.mark.parametrize("module", [drawn_wings, drawn_figures])
def test_posed_points_are_the_pose_of_those_at_rest(module):
    size = module.SIZE
    _, points = module.draw(np.random.default_rng(7), size)
    rest = module.shape(np.random.default_rng(7)).points
    # The similarity through the first two points takes all others along.
    a, b = (p[:, 0] + 1j * p[:, 1] for p in (rest, points))
    factor = (b[1] - b[0]) / (a[1] - a[0])
    np.testing.assert_allclose(b, b[0] + factor * (a - a[0]), atol=1e-9)
    assert abs(np.degrees(np.angle(factor))) < 31


def test_poses_turn_scale_and_stay_in_the_image():
    outline = np.array([[0, -0.2], [1, -0.2], [1, 0.2], [0, 0.2]])
    rng, size = np.random.default_rng(0), (200, 160)
    poses = np.stack(
        [drawn_pen.pose(rng, size, outline, share=0.7, rotation=12) for _ in range(400)]
    )
    corners = geometry.apply(poses, outline)
    assert (corners >= 0.02 * 160 - 0.5).all()
    assert (corners <= 0.98 * np.array(size) - 0.5 + 1e-9).all()
    angles = np.degrees(np.arctan2(poses[:, 1, 0], poses[:, 0, 0]))
    assert 10.5 < angles.std() < 13
    scales = np.hypot(poses[:, 0, 0], poses[:, 1, 0]) / 140
    assert 0.79 < scales.min() < 0.82
    assert 1.12 < scales.max() < 1.151
    centers = corners.mean(1) - (np.array(size) - 1) / 2
    assert (np.abs(centers) <= 0.08 * np.array(size) + 1e-9).all()
    assert (np.abs(centers).max(0) > 0.07 * np.array(size)).all()


def test_a_closed_curve_is_the_cubic_of_central_differences():
    anchors = np.random.default_rng(0).normal(size=(6, 2))
    slopes = (np.roll(anchors, -1, 0) - np.roll(anchors, 1, 0)) / 2
    expected = CubicHermiteSpline(
        np.arange(7), np.vstack([anchors, anchors[:1]]), np.vstack([slopes, slopes[:1]])
    )
    t = np.linspace(0, 5.999, 50)
    np.testing.assert_allclose(drawn_pen.closed_curve(anchors, t), expected(t), atol=1e-12)


def test_shapes_are_drawn_where_they_are():
    pen = Pen(Image.new("RGB", (60, 40), "white"), np.array([[2.0, 0, 5], [0, 2, 3]]))
    pen.polygon(drawn_pen.ellipse(np.array([10.0, 8]), (4, 2), np.pi / 2, 60), BLACK)
    rows, columns = np.nonzero(np.asarray(pen.finish())[..., 0] < 128)
    # The centre is at (2 x 10 + 5, 2 x 8 + 3); rotated by 90 degrees it is high.
    np.testing.assert_allclose([columns.mean(), rows.mean()], [25, 19], atol=0.2)
    assert np.ptp(rows) == pytest.approx(16, abs=1)
    assert np.ptp(columns) == pytest.approx(8, abs=1)


@pytest.mark.parametrize("seed", range(4))
def test_veins_meet_at_the_points(seed):
    wing = drawn_wings.shape(np.random.default_rng(seed))
    lines = [wing.margin, *(vein for vein, _, _ in wing.veins)]
    to_image = np.array([[300.0, 0, 30], [0, 300, 150]])
    near = np.zeros((len(lines), len(wing.points)), bool)
    control = near.copy()
    for row, line in enumerate(lines):  # each drawn alone, 3 to 4 of 900 pixels thick
        pen = Pen(Image.new("RGB", (360, 300), "white"), to_image)
        pen.ribbon(line, np.full(len(line), 0.0015), BLACK)
        dark = np.asarray(pen.image)[..., 0] == 0
        enlarged = drawn_pen.SAMPLING * geometry.apply(to_image, wing.points) + 1
        for place, shift in ((near, 0), (control, 12)):
            columns, rows = np.rint(enlarged + shift).astype(int).T
            place[row] = dark[rows, columns]
    meeting = dict(zip(drawn_wings.POINTS, near.sum(0).tolist(), strict=True))
    assert meeting.pop("root") == 1  # the margin; the veins begin in the hinge
    assert meeting.pop("fork") == 3
    assert meeting == dict.fromkeys(meeting, 2)
    assert (control.sum(0) >= 2).sum() == 0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_parts_of_a_figure_meet_at_its_joints(seed):
    figure = drawn_figures.shape(np.random.default_rng(seed))
    colors = {
        name: np.array(value)
        for name, value in {
            "skin": (0.9, 0.1, 0.1), "hair": (0.1, 0.9, 0.9), "shirt": (0.1, 0.8, 0.1),
            "trousers": (0.1, 0.1, 0.9), "shoes": (0.8, 0.1, 0.8), "second": (0.5, 0.5, 0.5),
        }.items()
    }  # fmt: skip
    clothes = drawn_figures.Look(
        **colors, stripes="none", sleeves=False, legs=False, long_hair=False
    )
    to_image = np.array([[600.0, 0, 450], [0, 600, 400]])
    pen = Pen(Image.new("RGB", (900, 800), "white"), to_image)
    drawn_figures.dress(pen, figure, clothes)
    image = np.asarray(pen.finish()) / 255

    def part(place: np.ndarray) -> str:
        column, row = np.rint(geometry.apply(to_image, place[None])[0]).astype(int)
        pixel = image[row, column]
        hue = pixel / np.linalg.norm(pixel)
        return max(colors, key=lambda name: hue @ colors[name] / np.linalg.norm(colors[name]))

    for side in ("left", "right"):
        for joint, before, after in (("elbow", "shoulder", "wrist"), ("knee", "hip", "ankle")):
            middle, start, end = (figure.point(f"{side}_{n}") for n in (joint, before, after))
            cloth = "shirt" if joint == "elbow" else "trousers"
            assert part(middle + 0.1 * (start - middle)) == cloth
            assert part(middle + 0.5 * (end - middle)) == "skin"
        assert part(figure.point(f"{side}_ankle") + np.array([0, 0.025])) == "shoes"
        assert part(figure.point(f"{side}_shoulder")) == "shirt"
    assert part(figure.point("neck")) == "skin"
    assert part(figure.point("neck") * 0.7) == "shirt"
    assert part(figure.point("head")) == "skin"


def run(monkeypatch, *flags: str) -> None:
    monkeypatch.setattr(sys, "argv", ["drawn_things", *flags])
    drawn_things.main()


def test_the_command(tmp_path, monkeypatch, capsys):
    out = tmp_path / "noise"
    run(monkeypatch, "noise", "--count=2", f"--out={out}")
    assert capsys.readouterr().out == f"2 noise in {out / 'photos'}\n"
    assert not (out / "points.csv").exists()
    image = Image.open(io.BytesIO((out / "photos" / "0001.jpg").read_bytes()))
    assert np.asarray(image, float).std() > 15
    with pytest.raises(DataError, match="noise: exists already"):
        run(monkeypatch, "noise", "--count=2", f"--out={out}")
    run(monkeypatch, "wings", "--count=2", f"--out={tmp_path / 'wings'}")
    said = capsys.readouterr().out
    assert f"12 points of each in {tmp_path / 'wings' / 'points.csv'}" in said
    assert "% of the distance from root to tip" in said
