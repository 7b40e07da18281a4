"""The page docs/own-things.md: all its commands, in its order, on drawn wings."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import drawn_things, drawn_wings
from landmarks_jax.cli import label
from landmarks_jax.cli import main as cli
from landmarks_jax.data.formats import deeplabcut, tps
from tests.running import ROOT, call
from tests.test_documented_commands import commands_of
from tests.test_own_photos import SMALL

PAGE = ROOT / "docs" / "own-things.md"
POINTS = ("root", "tip", "fork")


@pytest.fixture(name="folder")
def make_folder(tmp_path, monkeypatch):
    """Wings to train on and other ones, without their points."""
    for name, seed, count in (("wings", 1, 24), ("new", 2, 3)):
        drawn_things.write("wings", seed, count, tmp_path / "drawn" / name)
        (tmp_path / "drawn" / name / "photos").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def write_labels() -> None:
    """What a person would label, of four photos."""
    columns = [drawn_wings.POINTS.index(name) for name in POINTS]
    labels = {
        f"wings/{k:04}.jpg": drawn_things.photo("wings", 1, k).points[columns] for k in range(4)
    }
    Path("labels.csv").write_text(deeplabcut.write_labels(labels, POINTS))


@pytest.mark.slow
def test_every_command_runs(folder):
    ran = []
    for block, words in commands_of(PAGE):
        name, *arguments = words
        if not block or "vgg" in arguments:
            continue
        if name == "label":  # it shows a page, which tests/test_label_page.py drives
            values = cli.parse(name, label.COMMAND, arguments).flags
            assert (values.out, values.points) == ("labels.csv", list(POINTS))
            write_labels()
            continue
        code, out, err = call(name, *arguments, *(SMALL if name == "train" else ()))
        assert code == 0, (words, err)
        ran.append(name)
        if name == "train":
            assert "runs/wings/report.html" in out
            assert Path("runs/wings/report.html").is_file()
    assert ran == ["train", "eval", "export", "detect", "convert", "convert"]

    every = pd.read_csv(
        "runs/wings/evaluation/labels-tight/points.csv", header=[0, 1, 2], index_col=0
    )
    assert len(every) == 24
    code = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert code
    names: dict = {}
    exec(code[1], names)
    tips = names["tips"]
    assert list(tips.columns) == ["x", "y", "likelihood"]
    assert len(tips) == 3
    # TPS counts from the lower left corner, half a pixel below and beside the first pixel.
    found = tps.read("found/wings.tps")
    heights = np.array([drawn_things.photo("wings", 2, k).size[1] for k in range(3)])
    sizes = np.array([drawn_things.photo("wings", 2, k).size for k in range(3)])
    pixels = found.to_pixels(found.points, sizes)
    np.testing.assert_allclose(pixels[:, 1], tips[["x", "y"]].to_numpy(), atol=0.01)
    np.testing.assert_allclose(found.points[:, 1, 1], heights - 0.5 - tips["y"], atol=0.01)
