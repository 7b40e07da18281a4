"""Every cell of every table traced at the presets' full widths, and its parameters counted."""

import importlib

import pytest

from landmarks_jax import geometry
from landmarks_jax.configs import paper, released
from landmarks_jax.studies import dry_run
from landmarks_jax.studies.cells import CELLS, Base, cells_of, config_of
from tests.experimenting import base_of
from tests.running import shrink

# Detector, then encoder and decoder, of the method's description: by K and by (c, K).
DETECTOR = {10: 6_234_762, 30: 6_239_902, 50: 6_245_042}
GENERATOR = {
    "paper": {10: 9_030_824, 30: 10_334_749, 50: 11_733_074},
    "released": {10: 2_424_424, 30: 3_124_189, 50: 3_918_354},
}


@pytest.mark.parametrize("preset", ["paper", "released"])
@pytest.mark.parametrize(
    "names",
    [
        ("baseline-k10", "inter-k10"),
        ("cycle-k10", "all-k10", "perceptual-only-k10"),
        ("all-k30", "all-k50"),
        ("vgg19-k10", "pixel-only-k10"),
    ],
    ids="+".join,
)
def test_every_cell_of_the_presets_traces_with_the_papers_parameters(preset, names):
    config = importlib.import_module(f"landmarks_jax.configs.{preset}").get_config()
    base = Base(f"configs/{preset}.py", config, {})
    text, right = dry_run.check(cells_of((), names), base)
    assert right
    lines = text.splitlines()
    for name, line in zip(names, lines, strict=False):
        count = CELLS[name].num_landmarks
        assert line.startswith(
            f"{name}: detector {DETECTOR[count]:,} parameters as known; generator "
            f"{GENERATOR[preset][count]:,} parameters as known; "
        )
        taps = {"vgg19-k10": "vgg19 relu1_2, relu2_2, relu3_4, relu4_4",
                "pixel-only-k10": "no network"}  # fmt: skip
        assert line.endswith(taps.get(name, "vgg16 relu1_2, relu2_2, relu3_3, relu4_3"))
    assert lines[-1] == f"{len(names)} cells of {base.file} traced"


def test_all_cells_are_traced_above():
    marks = test_every_cell_of_the_presets_traces_with_the_papers_parameters.pytestmark
    (groups,) = [mark.args[1] for mark in marks if mark.args[0] == "names"]
    assert {name for names in groups for name in names} == set(CELLS)


def test_a_narrow_base_is_traced_once_a_shape_and_has_no_known_count(monkeypatch):
    base = narrow_base(paper.get_config())
    traced = dry_run.trace(config_of(CELLS["all-k10"], base, 0))
    calls = []
    monkeypatch.setattr(dry_run, "trace", lambda config: calls.append(config) or traced)
    text, right = dry_run.check(cells_of((), ("all-k10", "perceptual-only-k10")), base)
    assert right
    assert len(calls) == 1
    assert f"detector {traced.detector:,} parameters; generator" in text
    assert dry_run.expected(base.config) == (None, None)


def narrow_base(config, **fields):
    shrink(config)
    config.perceptual.taps = ("relu1_2",)
    return base_of(config, **fields)


def test_box_views_are_traced_with_the_points_they_are_made_from(monkeypatch):
    base, seen = narrow_base(released.get_config()), []
    real = geometry.turned_box
    monkeypatch.setattr(
        geometry, "turned_box", lambda points, *a: seen.append(points.shape) or real(points, *a)
    )
    assert base.config.data.crop == "box"
    dry_run.trace(config_of(CELLS["all-k10"], base, 0))
    assert seen == [(base.config.train.batch_size, 5, 2)] * 2


def test_an_adapted_base_is_traced_and_counted_folded():
    given = {"init__mode": "adapt", "init__core": "runs/mpii"}
    plain, adapted = (
        dry_run.trace(config_of(CELLS["all-k10"], narrow_base(paper.get_config(), **fields), 0))
        for fields in ({}, given)
    )
    assert adapted == plain


def test_a_wrong_count_is_said(monkeypatch):
    monkeypatch.setattr(dry_run, "trace", lambda config: dry_run.Parameters(6_234_763, 9_030_824))
    text, right = dry_run.check(cells_of((), ("all-k10",)), base_of())
    assert not right
    assert "detector 6,234,763 parameters, not 6,234,762; generator 9,030,824 parameters as" in text
