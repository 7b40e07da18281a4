"""Packing a run: the weights, and the regressor and scores by their definitions."""

import dataclasses
import json
import re

import jax
import numpy as np
import pytest

from landmarks_jax.data.sources.synthetic import SyntheticFaces
from landmarks_jax.evaluation import pack_run, run_evaluation
from landmarks_jax.evaluation.protocols import LabelledSet, Protocol
from landmarks_jax.inference import api, packed_file
from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import ConfigError, DataError, WorkdirError
from landmarks_jax.tasks import task_of
from landmarks_jax.training import checkpoints, run_folder, sharding
from landmarks_jax.training import state as states
from tests import datasets
from tests.running import call, narrow


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run folder and its last state, whose averaged parameters differ from the others."""
    workdir = tmp_path_factory.mktemp("run")
    config = narrow(optimizer__ema_decay=0.9, eval__num_score=9)  # sizes of one program
    mesh = sharding.make_mesh(jax.local_devices()[:1])
    shapes = states.abstract_state(config, task_of(config).build_networks(config), mesh)
    rng = np.random.default_rng(0)

    def draw(path, shape):
        """Random values, without compiling an initialisation; landmarks depend on the view."""
        place = jax.tree_util.keystr(path)
        about = 1.0 if place.endswith(("['scale']", "['var']")) else 0.0
        bound = (20 if "['head']" in place else 1.7) / np.sqrt(np.prod(shape.shape[:-1]) + 10)
        array = about + rng.uniform(-1, 1, shape.shape) * (0.3 if about else bound)
        return jax.device_put(array.astype(shape.dtype), shape.sharding)

    state = jax.tree_util.tree_map_with_path(draw, shapes)
    run_folder.claim(
        workdir,
        config,
        run_folder.Record("a", "", {}, notes=["a note"], hardware=["2 processor cores"]),
    )
    with checkpoints.Checkpoints(workdir, config) as saved:
        saved.save(7, state, 90.0)
    return workdir, config, jax.device_get(state)


@pytest.fixture(scope="module")
def protocols(run):
    """Synthetic faces, and others whose photos and labels are noise."""
    rng = np.random.default_rng(0)

    def faces(count: int, name: str) -> LabelledSet:
        views = rng.integers(0, 256, (count, 16, 16, 3), np.uint8)
        return LabelledSet(views, rng.uniform(-1, 1, (count, 4, 2)), name)

    noise = Protocol("noise", "tight", faces(9, "nine"), faces(3, "three"))
    return [*run_evaluation.open_faces(run[1], ["synthetic"]), noise]


@pytest.fixture(scope="module")
def find(run):
    """The run's detector, without the packing."""
    _, config, state = run
    return ViewDetector(config, run_evaluation.trained_variables(state))


@pytest.fixture(scope="module")
def packed(run, protocols):
    return pack_run.pack_run(run[0], protocols, ["landmarks-jax", "export", "--workdir", "a run"])


def test_the_averaged_parameters_are_packed(run, packed):
    _, config, state = run
    expected = {
        "params": state.averaged["detector"],
        "batch_stats": state.batch_stats["detector"],
    }
    jax.tree.map(np.testing.assert_array_equal, dict(packed.variables), expected)
    assert packed.config == packed_file.inference_config(config)
    plain = dataclasses.replace(state, averaged={})
    jax.tree.map(
        np.testing.assert_array_equal,
        run_evaluation.trained_variables(plain),
        {"params": state.params["detector"], "batch_stats": state.batch_stats["detector"]},
    )


def test_the_summary_holds_the_provenance(packed):
    summary = packed.summary
    assert summary["trained_on"] == {"source": "synthetic", "crop": "center"}
    assert summary["notes"] == ["a note"]
    assert summary["provenance"]["command"] == "landmarks-jax export --workdir 'a run'"
    assert summary["provenance"]["steps"] == 7
    assert summary["provenance"]["training_minutes"] == 1.5
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", summary["packed_on"])
    assert summary["point_names"][:3] == ["left eye", "right eye", "nose"]
    assert [scores["protocol"] for scores in summary["scores"]] == ["synthetic", "noise"]
    assert [scores["crop"] for scores in summary["scores"]] == ["center", "tight"]
    assert [scores["fit"]["faces"] for scores in summary["scores"]] == [12, 9]
    assert [scores["score"] for scores in summary["scores"]] == [
        {"name": "9 synthetic faces", "faces": 9},
        {"name": "three", "faces": 3},
    ]


def ridge(x: np.ndarray, y: np.ndarray):
    """The regression of the paper's evaluation, solved as least squares with a penalty."""
    x, y = x.reshape(len(x), -1).astype(np.float64), y.reshape(len(y), -1).astype(np.float64)
    mean_x, mean_y = x.mean(0), y.mean(0)
    penalty = np.sqrt(1e-4 * (((x - mean_x).T @ (x - mean_x)).max() + 1e-12))
    rows = np.vstack([x - mean_x, penalty * np.eye(x.shape[1])])
    targets = np.vstack([y - mean_y, np.zeros((x.shape[1], y.shape[1]))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return lambda new: ((new.reshape(len(new), -1) - mean_x) @ weights + mean_y).reshape(
        len(new), -1, 2
    )


def test_scores_by_their_definition(find, packed, protocols):
    for protocol, scores in zip(protocols, packed.summary["scores"], strict=True):
        predict = ridge(find(protocol.fit.views), protocol.fit.points)
        output = find.find(protocol.score.views)
        predicted = predict(output["landmarks"])
        labels = protocol.score.points
        errors = []
        for face in range(len(labels)):
            eyes = np.hypot(*(labels[face, 0] - labels[face, 1]))
            distances = [np.hypot(*offset) for offset in predicted[face] - labels[face]]
            errors.append(100 * np.mean(distances) / eyes)
        assert scores["forward"] == pytest.approx(np.mean(errors), abs=2e-3)
        middle = protocol.fit.points.mean(0)
        eyes = np.linalg.norm(labels[:, 0] - labels[:, 1], axis=-1)
        control = np.linalg.norm(middle - labels, axis=-1).mean(1) / eyes
        assert scores["mean_shape"] == pytest.approx(100 * control.mean(), abs=2e-3)

        # The faces by size, in thirds; all groups of a grouping together have the mean error.
        sizes = [group for group in scores["groups"] if group["name"].startswith("size: ")]
        assert [group["faces"] for group in sizes] == ([3] * 3 if len(labels) == 9 else [1] * 3)
        eyes = np.linalg.norm(labels[:, 0] - labels[:, 1], axis=-1)
        small = np.argsort(eyes)[: sizes[0]["faces"]]
        assert sizes[0]["forward"] == pytest.approx(np.mean(np.array(errors)[small]), abs=2e-3)
        for row in ("forward", "mean_shape"):
            total = sum(group["faces"] * group[row] for group in sizes)
            assert total / len(labels) == pytest.approx(scores[row], abs=2e-3)

        # Faces by mean confidence, in at most five parts of equal size.
        confidence = output["confidence"].mean(1)
        order = sorted(range(len(labels)), key=lambda face: confidence[face])
        table = scores["confidence"]
        assert [part["faces"] for part in table] == (
            [2, 2, 2, 2, 1] if len(order) == 9 else [1] * 3
        )
        start = 0
        for part in table:
            faces = order[start : start + part["faces"]]
            start += part["faces"]
            values = [confidence[face] for face in faces]
            assert part["lowest"] == pytest.approx(min(values), abs=1e-4)
            assert part["highest"] == pytest.approx(max(values), abs=1e-4)
            mean = np.mean([errors[face] for face in faces])
            assert part["forward"] == pytest.approx(mean, abs=2e-3)

    labelled = packed.regressor(find(protocols[0].score.views))
    predict = ridge(find(protocols[0].fit.views), protocols[0].fit.points)
    np.testing.assert_allclose(labelled, predict(find(protocols[0].score.views)), atol=1e-6)


def test_a_packed_run_gives_the_points_of_the_run(find, packed, protocols, tmp_path):
    """From checkpoint to packed file, and from photo to labelled points."""
    packed_file.write(tmp_path / "a", packed)
    detector = api.load_detector(tmp_path / "a")
    faces = SyntheticFaces(2**31 + 1, 9, 20)
    photos = np.stack([faces.photo(i) for i in range(9)])
    normalised = find(protocols[0].score.views)
    assert normalised.std(0).max() > 0.01
    batch = detector(photos)
    # The view is the central 16 of 20 pixels.
    np.testing.assert_allclose(batch.landmarks, (normalised + 1) * 8 + 2 - 0.5, atol=1e-3)
    labelled = packed.regressor(normalised)
    np.testing.assert_allclose(batch.labelled, (labelled + 1) * 8 + 2 - 0.5, atol=1e-3)
    assert detector.point_names[2] == "nose"


def test_some_landmarks_are_packed_as_in_the_whole(run, find, protocols):
    some = pack_run.pack_run(run[0], protocols[:1], kept=range(1, 3))
    views = protocols[0].score.views
    own = ViewDetector(some.config, some.variables)(views)
    np.testing.assert_allclose(own, find(views)[:, 1:3], atol=1e-6)
    assert some.config.model.num_landmarks == 2
    assert some.regressor.matrix.shape == (10, 4)


@pytest.mark.slow
def test_some_landmarks_are_scored_in_a_folder_of_their_own(run, protocols):
    some = pack_run.pack_run(run[0], protocols[:1], kept=range(1, 3))
    run_evaluation.evaluate_run(run[0], protocol_names=["synthetic"], kept=range(1, 3))
    path = run[0] / "evaluation-1-3" / "synthetic-center.json"
    result = json.loads(path.read_text())
    assert result["num_landmarks"] == 2
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert forward == pytest.approx(some.summary["scores"][0]["forward"], abs=1e-3)


@pytest.mark.parametrize("landmarks", ["5", "3:1", "0:0", "0:99", "a:b"])
def test_landmarks_that_a_run_does_not_have_are_refused(run, tmp_path, landmarks):
    out = str(tmp_path / "a")
    args = ["--workdir", str(run[0]), "--noregressor", "--out", out, "--landmarks", landmarks]
    code, _, err = call("export", *args)
    assert code == 2
    assert f"landmarks {landmarks}: must be" in err


def test_without_labelled_faces_there_is_no_regressor(run, tmp_path):
    packed = pack_run.pack_run(run[0], [])
    assert packed.regressor is None
    assert packed.summary["scores"] == packed.summary["point_names"] == []
    packed_file.write(tmp_path / "a", packed, "float16")
    assert packed_file.read(tmp_path / "a").regressor is None


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(WorkdirError, match=re.escape(str(tmp_path))):
        pack_run.pack_run(tmp_path, [])


def test_opening_faces_leaves_the_configuration_as_it_is():
    config = narrow()
    before = config.to_dict()
    with pytest.raises(DataError, match="/nowhere/training"):
        run_evaluation.open_faces(config, ["aflw-995"], aflw="/nowhere")
    assert config.to_dict() == before
    assert [p.name for p in run_evaluation.open_faces(config)] == list(config.eval.protocols)
    for options in ({"fit": "a.csv"}, {"crops": ("box",)}, {"protocol_names": ["aflw-1"]}):
        with pytest.raises(ConfigError, match="--"):
            run_evaluation.open_faces(config, **options)
    config.eval.protocols = ()
    with pytest.raises(ConfigError, match="no labelled faces are named"):
        run_evaluation.open_faces(config)


@pytest.mark.parametrize(
    ("crop", "order"), [("center", ["center", "box"]), ("box", ["box", "center"])]
)
def test_the_regressor_is_for_the_views_of_the_runs_crop(crop, order, tmp_path):
    places = {
        "celeba": str(datasets.celeba(tmp_path / "celeba", (6, 1, 1))),
        "mafl": str(datasets.mafl(tmp_path / "mafl", [4, 1, 6, 2], [8, 3])),
        "protocol_names": ["mafl"],
    }
    config = narrow(data__crop=crop, views__scale_std=0.0, views__shift_std=0.0)
    workdir = tmp_path / "run"
    run_folder.claim(workdir, config, run_folder.Record("", "", {}))
    assert [protocol.crop for protocol in pack_run.open_faces(workdir, places)] == order
