"""Box views end to end: from decoded photos, from their prepared form, and resident."""

import json
import logging

import jax
import numpy as np
import pytest
from PIL import Image

from landmarks_jax.data import prepared
from landmarks_jax.data.loader import framing_of
from landmarks_jax.data.sources import registry
from landmarks_jax.evaluation import run_evaluation
from landmarks_jax.system.errors import ConfigError, DataError
from landmarks_jax.tasks import landmarks
from landmarks_jax.training import loop
from tests.running import TINY, narrow
from tests.test_box_views import smooth_photo

BOX = {"data__crop": "box", "views__scale_std": 0.0, "views__shift_std": 0.0}


@pytest.fixture(name="table")
def make_table(tmp_path, monkeypatch):
    """Ten labelled photos, each of another size, and their table."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    face = np.array([[20, 16], [36, 15], [29, 25], [22, 33], [34, 34]])
    lines = ["file," + ",".join(f"{axis}{i}" for i in range(1, 6) for axis in "xy")]
    (tmp_path / "photos").mkdir()
    for i in range(10):
        Image.fromarray(smooth_photo(48 + i, 56 - i)).save(tmp_path / "photos" / f"{i}.png")
        points = face + rng.normal(0, 1.5, face.shape)
        lines.append(f"photos/{i}.png," + ",".join(f"{value:.2f}" for value in points.ravel()))
    (tmp_path / "points.csv").write_text("\n".join(lines))
    return tmp_path / "points.csv"


def last_row(run):
    row = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    measured = ("seconds", "images_per_second", "wait_ms", "host_peak_mib")
    return {k: v for k, v in row.items() if k not in measured}


@pytest.mark.slow
def test_box_views_train_alike_from_photos_prepared_and_resident(
    table, tmp_path, caplog, monkeypatch, default_fusion
):
    config = narrow(
        **BOX, data__source="folder", data__landmarks=str(table), views__bend_std=0.03,
        objective__equivariance_weight=1.0, train__steps=2, train__picture_every=2, **TINY,
    )  # fmt: skip
    compiled, lowered = [], jax.stages.Lowered.compile
    monkeypatch.setattr(
        jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(1) or lowered(*a, **k)
    )
    drawn, draw = [], landmarks.draw

    def watch(key, step, canvases, points=None, **options):
        drawn.append((canvases.shape, points.shape))
        return draw(key, step, canvases, points, **options)

    monkeypatch.setattr(landmarks, "draw", watch)
    with caplog.at_level(logging.INFO, "landmarks_jax"):
        assert loop.train(config, tmp_path / "streamed") == 0
    assert compiled == [1]
    assert set(drawn) == {((8, 36, 36, 3), (8, 5, 2))}
    assert "10 photos of" in caplog.text
    assert "trained with the box crop, made from the annotation" in caplog.text
    assert (tmp_path / "streamed" / "pictures" / "step-000002.png").stat().st_size > 5_000
    row = last_row(tmp_path / "streamed")
    assert row["equivariance"] > 0
    assert all(np.isfinite(list(row.values())))

    prepared.prepare(registry.open_labelled(str(table)), framing_of(config), tmp_path / "made")
    config.data.source, config.data.roots = "prepared", (str(tmp_path / "made"),)
    config.train.picture_every = 0
    assert loop.train(config, tmp_path / "read") == 0
    assert last_row(tmp_path / "read") == row
    config.data.resident, config.train.picture_every = True, 2
    assert loop.train(config, tmp_path / "resident") == 0
    assert last_row(tmp_path / "resident") == row
    pictures = [tmp_path / run / "pictures" for run in ("streamed", "resident")]
    one, other = ((folder / "step-000002.png").read_bytes() for folder in pictures)
    assert one == other
    config.data.resident = False

    with pytest.raises(ConfigError, match="evaluation cuts its own, so name the list"):
        run_evaluation.open_faces(
            config, fit=str(tmp_path / "made"), score=str(table), crops=("box",)
        )


def test_points_without_a_box_stop_a_training_before_it_starts(table, tmp_path):
    lines = table.read_text().splitlines()
    lines[3] = "photos/2.png," + ",".join(["9"] * 10)
    table.write_text("\n".join(lines))
    config = narrow(**BOX, data__source="folder", data__landmarks=str(table))
    with pytest.raises(DataError, match=r"photos/2.png: the box of its points is 0 x 0 pixels"):
        loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
