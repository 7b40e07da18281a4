"""The labelled faces of named protocols, read from small sets in their official layouts."""

import re

import numpy as np
import pytest

from landmarks_jax.configs import released
from landmarks_jax.data import cutting, framing
from landmarks_jax.data.sources import aflw, celeba, mafl, mtfl, pts
from landmarks_jax.evaluation import metrics, run_evaluation
from landmarks_jax.system.errors import ConfigError, DataError
from tests import datasets
from tests.running import narrow


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def test_mafl_has_center_and_box_views_of_celeba(tmp_path):
    places = {
        "celeba": str(datasets.celeba(tmp_path / "celeba", (6, 1, 1))),
        "mafl": str(datasets.mafl(tmp_path / "mafl", [4, 1, 6, 2], [8, 3])),
    }
    center, box = run_evaluation.open_faces(narrow(), ["mafl"], **places)
    assert [(p.name, p.crop) for p in (center, box)] == [("mafl", "center"), ("mafl", "box")]
    for protocol, frame in (
        (center, framing.Framing(20, 16, "center")),
        (box, framing.Framing(16, 16, "box")),
    ):
        assert (len(protocol.fit.views), len(protocol.score.views)) == (4, 2)
        assert (protocol.fit.name, protocol.score.name) == ("MAFL training", "MAFL testing")
        assert protocol.point_names[0] == "left eye"
        source = mafl.MaflFaces(places["celeba"], places["mafl"], "test")
        for i in range(2):
            canvas, points = frame.cut(source.photo(i), source.points(i))
            np.testing.assert_array_equal(protocol.score.views[i], frame.central_view(canvas))
            np.testing.assert_allclose(protocol.score.points[i], frame.points_in_view(points))
    # By hand: x = 69 of 178, stretched, the middle four fifths being the view.
    assert center.fit.points[1, 0, 0] == pytest.approx((2 * 69.5 / 178 - 1) / 0.8, rel=1e-5)


def test_mafl_as_released_fits_without_three(tmp_path):
    root = tmp_path / "celeba"
    ids = (1, 2, 31524, 139803)
    for number in ids:
        datasets.save(root / "img_align_celeba" / f"{number:06d}.jpg", (178, 218), number)
    lines = ["4", datasets.COLUMNS, *(f"{n:06d}.jpg {datasets.CELEBA_POINTS[0]}" for n in ids)]
    (root / "list_landmarks_align_celeba.txt").write_text("\n".join(lines))
    lists = datasets.mafl(tmp_path / "mafl", ids, [2, 31524])
    places = {"celeba": str(root), "mafl": str(lists), "as_released": True}
    for protocol in run_evaluation.open_faces(narrow(), ["mafl"], **places):
        assert len(protocol.fit.views) == 2
        assert len(protocol.score.views) == 2  # scored faces are never dropped
        assert protocol.fit.name == "MAFL training, as released"


def test_the_released_configuration_cuts_boxes_as_slices(tmp_path):
    places = {"aflw_release": str(datasets.aflw(tmp_path / "aflw", train=5, test=3))}
    note = "boxes end before their last column and row, as the released code slices them"
    config = narrow(eval__as_released=released.get_config().eval.as_released)
    center, box = run_evaluation.open_faces(config, ["aflw"], **places)
    source, frame = (
        aflw.AflwFaces(places["aflw_release"], "test"),
        framing.Framing(16, 16, "box", True),
    )
    np.testing.assert_array_equal(box.score.views, cutting.load_views(source, frame)[0])
    assert (center.notes.count(note), box.notes.count(note)) == (0, 1)
    paper = run_evaluation.open_faces(narrow(), ["aflw"], **places)
    assert note not in paper[1].notes
    np.testing.assert_array_equal(paper[0].score.views, center.score.views)
    assert (paper[1].score.points != box.score.points).any()

    lists = [datasets.mtfl(tmp_path / str(seed), 4, seed) for seed in (0, 1)]
    (own,) = run_evaluation.open_faces(
        config, fit=str(lists[0]), score=str(lists[1]), crops=["box"]
    )
    views, _ = cutting.load_views(mtfl.MtflFaces(str(lists[1])), frame)
    np.testing.assert_array_equal(own.score.views, views)
    assert own.notes == (note,)


def test_celeba_400_is_a_protocol_of_its_own(tmp_path):
    root = datasets.celeba(tmp_path, (6, 1, 1))
    datasets.mafl(root, [4, 1, 6, 2, 5], [8, 3])
    center, box = run_evaluation.open_faces(narrow(), ["celeba-400"], celeba400=str(root))
    for protocol, frame in (
        (center, framing.Framing(20, 16, "center")),
        (box, framing.Framing(16, 16, "box")),
    ):
        assert (protocol.name, protocol.fit.name) == ("celeba-400", "CelebA-400 training")
        assert (len(protocol.fit.views), len(protocol.score.views)) == (5, 2)
        source = celeba.CelebaPhotos(str(root))
        np.testing.assert_array_equal(
            protocol.score.views[0],
            frame.central_view(frame.cut(source.photo(7), source.points(7))[0]),
        )


def test_aflw_has_center_and_box_views(tmp_path):
    root = datasets.aflw(tmp_path / "aflw", train=5, test=3)
    center, box = run_evaluation.open_faces(narrow(), ["aflw"], aflw_release=str(root))
    assert [(p.name, p.crop) for p in (center, box)] == [("aflw", "center"), ("aflw", "box")]
    source = aflw.AflwFaces(str(root), "train")
    for i in range(5):
        width, height = source.photo(i).shape[1::-1]
        whole = 2 * (source.points(i) + 0.5) / (width, height) - 1
        np.testing.assert_allclose(center.fit.points[i], whole, rtol=1e-5, atol=1e-6)
    assert (len(center.score.views), box.score.views.shape[1:]) == (3, (16, 16, 3))
    assert not np.array_equal(center.fit.views, box.fit.views)


@pytest.mark.parametrize("num_points", [5, 68])
def test_folders_with_pts_files_fit_and_score(num_points, tmp_path):
    points = datasets.pts(tmp_path / "fit", 5)
    datasets.pts(tmp_path / "score", 3, seed=5)
    options = {"fit": str(tmp_path / "fit"), "score": str(tmp_path / "score")}
    (protocol,) = run_evaluation.open_faces(
        narrow(), **options, crops=("tight",), pts_points=num_points
    )
    assert protocol.fit.points.shape == (5, num_points, 2)
    # Whichever points are scored, errors are in distances between the middles of the eyes.
    scale = np.array([50, 48])
    left, right = (points[:, eye].mean(1) * 2 / scale for eye in (range(36, 42), range(42, 48)))
    by_hand = np.linalg.norm(left - right, axis=-1)
    actual = metrics.inter_ocular(protocol.fit.points, protocol.eyes)
    np.testing.assert_allclose(actual, by_hand, rtol=1e-4)


def test_the_box_of_68_points_is_that_of_the_five(tmp_path):
    datasets.pts(tmp_path / "fit", 5)
    datasets.pts(tmp_path / "score", 3, seed=5)
    options = {"fit": str(tmp_path / "fit"), "score": str(tmp_path / "score"), "crops": ("box",)}
    five, all_points = (
        run_evaluation.open_faces(narrow(), **options, pts_points=count)[0] for count in (5, 68)
    )
    np.testing.assert_array_equal(all_points.fit.views, five.fit.views)
    assert all_points.fit.points.shape == (5, 68, 2)
    np.testing.assert_allclose(pts.five_points(all_points.fit.points), five.fit.points, atol=1e-5)


@pytest.mark.parametrize(("side", "count"), [(0.099, 1), (0.101, 0)])
def test_faces_of_under_a_tenth_of_the_view_are_noted(side, count, tmp_path, caplog):
    """In the central 80 of 100 pixels, a face is as large as the larger side of its points' box."""
    lists = []
    for listed in ("abe", "cdf"):
        lines = ["file,x1,y1,x2,y2"]
        for name, width in zip(listed, (20, 80 * side, 20), strict=True):
            datasets.save(tmp_path / f"{name}.png", (100, 100), ord(name))
            lines.append(f"{name}.png,40,50,{40 + width},51")
        lists.append(str(tmp_path / f"{listed}.csv"))
        (tmp_path / f"{listed}.csv").write_text("\n".join(lines))
    options = {"fit": lists[0], "crops": ("center",), "fit_alone": True}
    note = "small faces: 1 of the 3 of {} are under a tenth of the view (center crop)"
    for score, noted in ((None, ["abe"]), (lists[1], ["abe", "cdf"])):
        caplog.clear()
        (protocol,) = run_evaluation.open_faces(narrow(), **options, score=score)
        assert len(protocol.notes) == caplog.text.count("small faces") == count * len(noted)
        for text, listed in zip(protocol.notes, noted, strict=bool(count)):
            assert text.startswith(note.format(listed))


def test_what_cannot_be_opened_is_named(tmp_path):
    datasets.pts(tmp_path)
    folder = str(tmp_path)
    refusals = [
        ({"fit": folder, "score": folder, "pts_points": 7}, ConfigError, "--pts_points 7: must be"),
        ({"protocol_names": ["mafl"], "mafl": "/no"}, DataError, "/no/training.txt: no such file"),
        ({"protocol_names": ["aflw"], "aflw_release": "/no"}, DataError, "/no/output: no such"),
        (
            {"protocol_names": ["aflw-1"]},
            ConfigError,
            "synthetic, mafl, celeba-400, aflw, aflw-995, aflw-dev",
        ),
    ]
    for options, kind, part in refusals:
        with pytest.raises(kind, match=re.escape(part)):
            run_evaluation.open_faces(narrow(), **options)


def test_views_are_those_of_the_canvases(tmp_path):
    datasets.pts(tmp_path)
    source = pts.PtsFaces([str(tmp_path)])
    for crop in framing.CROPS:
        frame = framing.Framing(20, 16, crop)
        canvases, points = datasets.canvases_of(source, frame)
        views, in_view = cutting.load_views(source, frame)
        np.testing.assert_array_equal(views, frame.central_view(canvases))
        np.testing.assert_array_equal(in_view, frame.points_in_view(points))


def test_a_flag_names_the_folder_of_a_protocol():
    with pytest.raises(DataError, match=r"/no/output"):
        run_evaluation.open_faces(narrow(), ["aflw"], aflw_release="/no")
