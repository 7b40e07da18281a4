"""The figure of several runs: matched colours, the table's order, the command on narrow runs."""

import itertools
import json
import re

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data.framing import Framing
from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.evaluation import consistency, labelled_faces, run_evaluation
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.studies import faces_figure
from landmarks_jax.system import figures, palette
from landmarks_jax.system.errors import ConfigError, DataError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from tests import datasets
from tests.running import ROOT, TINY, call, narrow, write_photos


def write_run(folder, seed, **fields):
    """A run's folder with a checkpoint of drawn weights, in no need of compiling a training."""
    config = narrow(**{**TINY, "seed": seed, **fields})
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    shapes = states.abstract_state(config, task_of(config).build_networks(config), mesh)
    rng = np.random.default_rng(seed)

    def draw(path, shape):
        place = jax.tree_util.keystr(path)
        about = 1.0 if place.endswith(("['scale']", "['var']")) else 0.0
        bound = (20 if "['head']" in place else 1.7) / np.sqrt(np.prod(shape.shape[:-1]) + 10)
        array = about + rng.uniform(-1, 1, shape.shape) * (0.3 if about else bound)
        return jax.device_put(array.astype(shape.dtype), shape.sharding)

    state = jax.tree_util.tree_map_with_path(draw, shapes)
    run_folder.claim(folder, config, run_folder.Record("", "", init={}, notes=["a note"]))
    with checkpoints.Checkpoints(folder, config) as saved:
        saved.save(7, state, 90.0)
    return str(folder)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [
        write_run(folder / name, seed, objective__composition=name)
        for seed, name in enumerate(("baseline", "all"))
    ]


def test_points_are_matched_with_the_smallest_sum_of_distances():
    first, second = np.random.default_rng(0).normal(size=(2, 6, 2))
    partners = faces_figure.matched(first, second)
    every = list(itertools.permutations(range(6)))
    sums = [np.linalg.norm(first[list(order)] - second, axis=-1).sum() for order in every]
    assert tuple(partners) == every[np.argmin(sums)]


@pytest.mark.parametrize("count", [1, 50])
def test_the_same_points_in_another_order_are_matched_with_themselves(count):
    points = np.random.default_rng(count).normal(size=(count, 2))
    order = np.random.default_rng(0).permutation(count)
    np.testing.assert_array_equal(faces_figure.matched(points, points[order]), order)


def measured(*spreads):
    points = [{"rms": rms, "median": rms / 2, "still": 20.0, "place": [0, 0]} for rms in spreads]
    mean = sum(spreads) / len(spreads)
    return {"rms": mean, "median": mean / 2, "still": 20.0, "per_point": points}


@pytest.fixture
def figure():
    """Two runs of three points, the second with the first's points in another order."""
    points = np.array([[[-0.5, -0.5], [0.5, -0.5], [0.0, 0.5]], [[-0.4, 0], [0.4, 0], [0, 0.8]]])
    common = {"seed": 0, "steps": 400, "training_minutes": 5.5, "spread": 70.0}
    return {
        "format": 1,
        "protocol": "synthetic",
        "crop": "center",
        "num_landmarks": 3,
        "score": {"name": "9 faces", "faces": 9},
        "frame": {"labelled": {"rms": 4.5}},
        "mean_shape": {"rms": 18.25},
        "runs": [
            common
            | {
                "run": "runs/a",
                "composition": "baseline",
                "consistency": measured(12.0, 6.0, 9.0),
                "colors": [0, 1, 2],
                "landmarks": points.tolist(),
            },
            common
            | {
                "run": "runs/b",
                "composition": "all",
                "consistency": measured(10.0, 4.0, 7.0),
                "colors": [2, 0, 1],
                "landmarks": points[:, [2, 0, 1]].tolist(),
            },
        ],
        "shown": [0, 8],
        "notes": ["Caffe VGG-16, 3 taps"],
    }


def test_the_table_ranks_each_runs_points_and_compares_those_of_one_colour(figure):
    text = faces_figure.to_markdown(figure)
    lines = text.splitlines()
    for line in (
        "### Consistency: synthetic, center crop, K = 3",
        "| Rank | runs/a: landmark | baseline, consistency | runs/b: landmark | all, consistency |",
        "| 1 | 1 (colour 1) | 6.00 (median 3.00, still 20.00) "
        "| 1 (colour 0) | 4.00 (median 2.00, still 20.00) |",
        "| 3 | 0 (colour 0) | 12.00 (median 6.00, still 20.00) "
        "| 0 (colour 2) | 10.00 (median 5.00, still 20.00) |",
        "| mean |  | 9.00 (median 4.50, still 20.00) |  | 7.00 (median 3.50, still 20.00) |",
        "| spread |  | 70.00 |  | 70.00 |",
        # 10 against 9, 4 against 12, 7 against 6.
        "runs/b against runs/a: mean consistency 7.00 against 9.00; 1 of 3 landmarks are "
        "more consistent than the one of the same colour.",
        "Note: Caffe VGG-16, 3 taps",
    ):
        assert line in lines
    assert "themselves have 4.50, the mean shape, standing still in the view, 18.25" in text
    assert "9 (9 faces). runs/a: baseline, seed 0, 400 steps in 5.5 minutes; runs/b: all" in text


def test_the_picture_has_rows_for_each_run_in_the_first_ones_colours(figure):
    views = np.stack([np.full((16, 16, 3), 90, np.uint8), np.full((16, 16, 3), 200, np.uint8)])
    page = figures.to_array(faces_figure.page(figure, views, tile=160))
    assert page.shape[1] == 560
    left, heading = (560 - 2 * 164 + 4) // 2, 4 + 26
    colors = np.rint(255 * palette.landmark_colors(3)).astype(int)
    points = np.array(figure["runs"][0]["landmarks"])
    for run in range(2):
        top = heading + run * (26 + 164) + 26
        for face in range(2):
            places = (points[face] + 1) * 80
            corner = np.array([left + face * 164, top])
            for color, (x, y) in zip(colors, (corner + places).astype(int), strict=True):
                np.testing.assert_array_equal(page[y, x], color)
            np.testing.assert_array_equal(page[top + 3, corner[0] + 3], views[face, 0, 0])
    np.testing.assert_array_equal(page[heading + 26 + 160 + 2, left + 40], [255] * 3)
    assert (page[heading + 26 + 164 : heading + 26 + 164 + 26, left : left + 300] < 100).any()


def test_the_command_makes_picture_table_and_json(runs, tmp_path):
    out = tmp_path / "new" / "figure.png"
    code, printed, err = call("figure", *runs, f"--out={out}", "--faces=3", "--tile=32")
    assert code == 0, err
    figure = json.loads(out.with_suffix(".json").read_text())
    assert out.with_suffix(".md").read_text() == faces_figure.to_markdown(figure)
    assert printed.strip() == out.with_suffix(".md").read_text().strip()
    assert figure["shown"] == [0, 4, 7]
    assert figure["notes"] == ["trained with the center crop, without annotation", "a note"]
    assert [run["composition"] for run in figure["runs"]] == ["baseline", "all"]
    assert figure["provenance"]["command"].startswith("landmarks-jax figure ")

    # Again, from the runs' weights and the faces themselves.
    config = run_folder.read_config(tmp_path / runs[0])
    (protocol,) = run_evaluation.open_faces(config)
    labels = protocol.score.points
    frame = consistency.frames(labels)
    eyes = np.linalg.norm(labels[:, 0] - labels[:, 1], axis=-1)
    for folder, run in zip(runs, figure["runs"], strict=True):
        config = run_folder.read_config(tmp_path / folder)
        state = checkpoints.restore(tmp_path / folder, config).state
        actual = ViewDetector(config, run_evaluation.trained_variables(state))(protocol.score.views)
        expected = consistency.of_landmarks(actual, frame)
        assert run["consistency"]["rms"] == pytest.approx(expected["rms"], abs=1e-3)
        np.testing.assert_allclose(run["landmarks"], actual[[0, 4, 7]], atol=2e-5)
        pairs = [np.linalg.norm(actual[:, i] - actual[:, j], axis=1) / eyes for i, j in
                 ((0, 1), (0, 2), (1, 2))]  # fmt: skip
        assert run["spread"] == pytest.approx(100 * np.mean(pairs), abs=1e-2)
        assert (run["steps"], run["training_minutes"]) == (7, 1.5)
    views = protocol.score.views[figure["shown"]]
    page = figures.to_array(faces_figure.page(figure, views, tile=32))
    with Image.open(out) as image:
        np.testing.assert_array_equal(np.asarray(image), page)


def test_faces_are_of_one_protocol_in_the_crop_of_the_training(tmp_path):
    places = {
        "celeba": str(datasets.celeba(tmp_path / "celeba", (6, 1, 1))),
        "mafl": str(datasets.mafl(tmp_path / "mafl", [4, 1, 6, 2], [8, 3])),
        "protocol_names": ["mafl"],
    }
    for crop, chosen in (("center", "center"), ("box", "box"), ("tight", "center")):
        protocol = faces_figure._open_faces(narrow(data__crop=crop), places)
        assert (protocol.name, protocol.crop) == ("mafl", chosen)
    # Lists of one's own need no faces to fit on.
    write_photos(tmp_path, 2)
    lines = [f"{i:06d}.jpg,{10 + i},9,20,9,15,20" for i in (1, 2)]
    table = tmp_path / "mine.csv"
    table.write_text("\n".join(["file,x1,y1,x2,y2,x3,y3", *lines, ""]))
    protocol = faces_figure._open_faces(narrow(), {"score": str(table), "crops": ["tight"]})
    assert (protocol.crop, len(protocol.score.views)) == ("tight", 2)
    assert protocol.score.points[0, 0, 0] == pytest.approx(2 * 11.5 / 30 - 1)


def test_what_cannot_be_shown_is_one_line(runs, tmp_path):
    out = tmp_path / "figure.png"
    box = write_run(
        tmp_path / "box", 2, data__crop="box", views__scale_std=0.0, views__shift_std=0.0
    )
    (tmp_path / "empty").mkdir()
    config = run_folder.read_config(tmp_path / runs[0])
    bare = tmp_path / "bare"
    run_folder.claim(bare, config, run_folder.Record("", "", init={}))
    refused = [
        (runs[:1], {}, ConfigError, "two runs or more"),
        ([runs[0], str(tmp_path / "empty")], {}, WorkdirError, "empty: not a run"),
        ([runs[0], str(bare)], {}, WorkdirError, "bare: has no checkpoint yet; train it first"),
        ([runs[0], f"{runs[0]}/"], {}, WorkdirError, "named twice"),
        ([runs[0], box], {}, ConfigError, r"config\.data\.crop is 'center' in .* and 'box' in .*"),
        (runs, {"protocol_names": ["mafl", "aflw"]}, ConfigError, "--protocol: mafl, aflw"),
        (runs, {"score": "f.csv", "crops": ["center", "box"]}, ConfigError, "give --crop once"),
        (runs, {"score": str(tmp_path / "no.csv")}, DataError, re.escape(str(tmp_path / "no.csv"))),
    ]
    for folders, faces, kind, message in refused:
        with pytest.raises(kind, match=message):
            faces_figure.write(folders, out, faces)
    with pytest.raises(ConfigError, match=r"--out .*figure\.md: must end in \.png"):
        faces_figure.write(runs, tmp_path / "figure.md", {})
    assert not list(tmp_path.glob("figure*"))
    code, printed, err = call("figure", runs[0], "/nowhere")
    assert (code, printed) == (2, "")
    assert err == "error: /nowhere: not a run, it has no config.json\n"


def test_the_figure_in_the_documents_is_made_from_its_json():
    folder = ROOT / "docs" / "results" / "figure"
    figure = json.loads((folder / "figure.json").read_text())
    assert (folder / "figure.md").read_text() == faces_figure.to_markdown(figure)
    # Of people there is no picture in the repository.
    assert figure["protocol"] == "synthetic"
    assert [run["composition"] for run in figure["runs"]] == ["baseline", "all"]
    assert len({run["steps"] for run in figure["runs"]}) == 1
    frame, faces = Framing(72, 48, "center"), SyntheticFaces(labelled_faces.SCORE_SEED, 1000, 72)
    views = np.stack([frame.central_view(faces.photo(row)[None])[0] for row in figure["shown"]])
    page = figures.to_array(faces_figure.page(figure, views))
    path = folder / "figure.png"
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as image:
        np.testing.assert_array_equal(image.size, page.shape[1::-1])
        assert np.abs(np.asarray(image, float) - page).mean() < 1  # other fonts, other edges
