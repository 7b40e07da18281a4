"""A packed detector on new labels: scored, and refitted, by the commands."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from sklearn.linear_model import Ridge

from landmarks_jax import load_detector
from landmarks_jax.data.sources.mtfl import MtflFaces
from landmarks_jax.evaluation import labelled_faces, score_files
from landmarks_jax.inference import packed_file
from tests import datasets, packing
from tests.running import call
from tests.tiny_detector import TinyDetector


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lists")
    return datasets.mtfl(folder / "fit", 14), datasets.mtfl(folder / "score", 6, seed=1)


@pytest.fixture(scope="module")
def packed_path(narrow_config, filled, tmp_path_factory):
    path = tmp_path_factory.mktemp("packed") / "narrow.safetensors"
    packed_file.write(
        path, packing.make(narrow_config, filled, model__detector=TinyDetector.__module__)
    )
    return path


@pytest.fixture(scope="module")
def by_hand(lists, packed_path):
    return regressed(lists, packed_path)


def regressed(lists, detector, **options):
    """Detects in whole photos and regresses in their pixels: the map, and its mean error in %."""

    def points(path):
        faces = MtflFaces(str(path))
        photos = [faces.photo(i) for i in range(len(faces))]
        labels = np.stack([faces.points(i) for i in range(len(faces))])
        return load_detector(detector)(photos, **options).landmarks.astype(float), labels.astype(
            float
        )

    (x, y), (new, target) = map(points, lists)
    centred = x.reshape(len(x), -1) - x.reshape(len(x), -1).mean(0)
    ridge = Ridge(alpha=1e-4 * (centred.T @ centred).max())
    ridge.fit(x.reshape(len(x), -1), y.reshape(len(y), -1))
    distances = np.linalg.norm(
        ridge.predict(new.reshape(len(new), -1)).reshape(target.shape) - target, axis=-1
    )
    eyes = np.linalg.norm(target[:, 0] - target[:, 1], axis=-1)
    return ridge, 100 * np.mean(distances / eyes[:, None])


def test_a_packed_detector_is_scored_like_a_run(packed_path, lists, by_hand, tmp_path, monkeypatch):
    faces = (f"--fit={lists[0]}", f"--score={lists[1]}")
    out = tmp_path / "new" / "scores"
    code, printed, err = call("eval", f"--detector={packed_path}", *faces, f"--out={out}")
    assert code == 0, err
    names = ["csv", "json", *(f"{name}.png" for name in ("curve", "faces", "worst"))]
    stem = "faces-to-faces-center"
    files = {f"{stem}{'-' if name.endswith('png') else '.'}{name}" for name in names}
    assert {path.name for path in out.iterdir()} == files | {"table.md"}
    assert (out / "table.md").read_text().strip() == printed.strip()
    result = json.loads((out / f"{stem}.json").read_text())
    assert list(result["results"]) == ["running", "batch", "untrained", "mean_shape", "one_photo"]
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert forward == pytest.approx(by_hand[1], rel=1e-4)
    assert f" {forward:.2f} |" in printed
    assert "Note: packed detector narrow" in printed
    assert result["provenance"]["training_crop"] == "center"
    assert "--detector" in result["provenance"]["command"]

    monkeypatch.setattr(score_files.figures, "save", lambda *_: None)  # as slow as all the rest
    command = ("eval", f"--detector={packed_path}", f"--out={out}", *faces)
    code, printed, err = call(*command, "--landmarks=1:3")
    assert code == 0, err
    assert "| faces to faces | center | 2 | this detector" in printed
    assert "landmarks 1 to 2 of 3" in printed


@pytest.mark.slow
def test_the_mean_over_mirror_images_is_scored(packed_path, lists, by_hand, tmp_path):
    content, out = packed_file.read(packed_path), tmp_path / "paired.safetensors"
    mirror = {"photos": 12, "pairs": [{"first": 0, "second": 2, "distance": 0.02, "swapped": 0.0}]}
    packed_file.write(out, dataclasses.replace(content, summary={"mirror": mirror}, regressor=None))
    faces = f"--fit={lists[0]}", f"--score={lists[1]}", f"--out={tmp_path / 'scores'}", "--mirror"
    code, printed, err = call("eval", f"--detector={out}", *faces)
    assert code == 0, err
    result = json.loads((tmp_path / "scores" / "faces-to-faces-center.json").read_text())
    forward = result["results"]["running"]["forward"][-1]["mean"]
    assert forward == pytest.approx(regressed(lists, out, mirror=True)[1], rel=1e-3)
    assert abs(forward - by_hand[1]) > 0.01
    assert "Note: running statistics: means over views and their mirror images" in printed
    code, _, err = call("eval", f"--detector={packed_path}", *faces)
    assert (code, err.count("\n")) == (2, 1)
    assert "narrow has no landmarks that are known to mirror each other" in err


def test_a_packed_detector_gets_a_new_linear_map(packed_path, lists, by_hand, tmp_path):
    before, photo = packed_file.read(packed_path), MtflFaces(str(lists[1])).photo(2)
    out, card = tmp_path / "fitted.safetensors", tmp_path / "card.md"
    command = ("export", f"--detector={packed_path}", f"--fit={lists[0]}", f"--out={out}")
    code, printed, err = call(*command, f"--card={card}")
    assert code == 0, err
    assert printed.endswith("3 landmarks, 5 labelled points\n")
    after = packed_file.read(out)
    jax.tree.map(np.testing.assert_array_equal, dict(before.variables), dict(after.variables))
    note = "the linear map is fitted anew on 14 faces of faces, center crop"
    assert after.summary["notes"] == [note]
    assert (after.summary["scores"], after.summary["point_names"]) == ([], [])
    assert "- The linear map is fitted anew on 14 faces" in card.read_text()
    (measured,) = after.summary["leave_one_out"]
    assert (measured["photos"], measured["protocol"]) == (14, "faces")

    # Again, and scored; what was said of the last map goes.
    last = [*after.summary["notes"], *(f"{start} of its faces" for start in labelled_faces.NOTES)]
    summary = after.summary | {"notes": ["a note on the training", *last]}
    packed_file.write(out, dataclasses.replace(after, summary=summary))
    code, _, err = call(*command, f"--detector={out}", f"--score={lists[1]}")
    assert code == 0, err
    summary = packed_file.read(out).summary
    (score,) = summary["scores"]
    assert score["forward"] == pytest.approx(by_hand[1], abs=2e-3)
    assert (score["fit"]["faces"], score["score"]["faces"]) == (14, 6)
    assert summary["leave_one_out"] == []
    found = load_detector(out)(photo)
    expected = by_hand[0].predict(found.landmarks.reshape(1, -1).astype(float)).reshape(5, 2)
    np.testing.assert_allclose(found.labelled, expected, atol=2e-3)
    assert summary["notes"] == ["a note on the training", note]


def test_what_does_not_go_together_is_refused_in_a_line(packed_path, lists, tmp_path):
    detector, out = f"--detector={packed_path}", f"--out={tmp_path / 'scores'}"
    fit = f"--fit={lists[0]}"
    rows = [line.split() for line in lists[1].read_text().splitlines()]
    rows[2][2], rows[2][7] = f"{float(rows[2][1]) + 0.01:.2f}", rows[2][6]
    together = lists[1].with_name("together.txt")
    together.write_text("\n".join(map(" ".join, rows)))
    cases = {
        (detector,): "--detector: goes with --out",
        (detector, out, "--workdir=runs/a"): "instead of --workdir",
        ("--workdir=runs/a", out): "--out: goes with --detector",
        (detector, out): "no labelled faces are named: give a --protocol, or your own faces",
        (detector, out, f"--score={lists[0]}"): "--fit and --score go together",
        (detector, out, fit, "--protocol=synthetic"): "and without --protocol",
        (detector, out, fit, f"--score={lists[0]}"): "are also fitted on",
        (detector, out, fit, f"--score={together}"): (
            "together: AFLW/000003.jpg: the first two points (of a face: the eyes) are "
        ),
        ("--detector=none", out, fit): "none: no such file",
        (detector, out, "--protocol=mpii"): "for runs on joints",
        (detector, out, "--protocol=synthetic", "--landmarks=0:9"): "landmarks 0:9: must be",
    }
    for arguments, part in cases.items():
        code, printed, err = call("eval", *arguments)
        assert (code, printed, err.count("\n")) == (2, "", 1), (arguments, err)
        assert part in err
    assert not (tmp_path / "scores").exists()
