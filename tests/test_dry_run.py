"""Every cell of every table traced at the presets' full widths, and its parameters counted."""

import importlib

import pytest

from landmarks_jax import geometry
from landmarks_jax.configs import paper, released
from landmarks_jax.studies import dry_run
from landmarks_jax.studies.paper_cells import CELLS, Base, cells_of, config_of
from tests.cell_runs import base_of
from tests.running import shrink

# Detector, then encoder and decoder, of the method's description: by K and by (c, K).
DETECTOR = {10: 6_234_762, 30: 6_239_902, 50: 6_245_042}
GENERATOR = {
    "paper": {10: 9_030_824, 30: 10_334_749, 50: 11_733_074},
    "released": {10: 2_424_424, 30: 3_124_189, 50: 3_918_354},
}


def narrow_base(config, **fields):
    shrink(config)
    config.perceptual.taps = ("relu1_2",)
    return base_of(config, **fields)


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_every_cell_has_the_papers_parameters(preset, monkeypatch):
    monkeypatch.setattr(dry_run, "trace_step", lambda *_: None)
    trace, seen = dry_run.trace, {}

    def once_for_each_size(config):
        landmarks = config.model.num_landmarks
        if landmarks not in seen:
            seen[landmarks] = trace(config)
        return seen[landmarks]

    monkeypatch.setattr(dry_run, "trace", once_for_each_size)
    config = importlib.import_module(f"landmarks_jax.configs.{preset}").get_config()
    text, correct = dry_run.check(list(CELLS.values()), Base(preset, config, {}))
    assert correct
    lines = text.splitlines()
    for name, line in zip(CELLS, lines, strict=False):
        count = CELLS[name].num_landmarks
        assert line.startswith(
            f"{name}: detector {DETECTOR[count]:,} parameters as known; generator "
            f"{GENERATOR[preset][count]:,} parameters as known; "
        )
        taps = {"vgg19-k10": "vgg19 relu1_2, relu2_2, relu3_4, relu4_4",
                "pixel-only-k10": "no network"}  # fmt: skip
        assert line.endswith(taps.get(name, "vgg16 relu1_2, relu2_2, relu3_3, relu4_3"))
    assert lines[-1] == f"{len(CELLS)} cells of {preset} traced"


@pytest.mark.parametrize(("preset", "cell"), [("paper", "all-k50"), ("released", "vgg19-k10")])
def test_a_step_is_traced_at_full_width(preset, cell):
    config = importlib.import_module(f"landmarks_jax.configs.{preset}").get_config()
    counts = dry_run.trace(config_of(CELLS[cell], Base(preset, config, {}), 0))
    landmarks = CELLS[cell].num_landmarks
    assert counts == (DETECTOR[landmarks], GENERATOR[preset][landmarks])


def test_a_step_of_the_other_compositions_and_losses_is_traced():
    names = ("baseline-k10", "inter-k10", "cycle-k10", "pixel-only-k10")
    text, correct = dry_run.check(cells_of((), names), narrow_base(paper.get_config()))
    assert correct
    assert len(text.splitlines()) == len(names) + 1


def test_a_narrow_base_is_traced_once_a_shape_and_has_no_known_count(monkeypatch):
    monkeypatch.setattr(dry_run, "trace_step", lambda *_: None)
    base = narrow_base(paper.get_config())
    traced = dry_run.trace(config_of(CELLS["all-k10"], base, 0))
    calls = []
    monkeypatch.setattr(dry_run, "trace", lambda config: calls.append(config) or traced)
    text, correct = dry_run.check(cells_of((), ("all-k10", "perceptual-only-k10")), base)
    assert correct
    assert len(calls) == 1
    assert f"detector {traced.detector:,} parameters; generator" in text
    assert dry_run.expected(base.config) == (None, None)


def test_box_views_are_traced_with_the_points_they_are_made_from(monkeypatch):
    base, seen = narrow_base(released.get_config()), []
    real = geometry.rotated_box
    monkeypatch.setattr(
        geometry, "rotated_box", lambda points, *a: seen.append(points.shape) or real(points, *a)
    )
    assert base.config.data.crop == "box"
    dry_run.trace(config_of(CELLS["all-k10"], base, 0))
    assert set(seen) == {(base.config.train.batch_size, 5, 2)}


def test_an_adapted_base_is_traced_and_counted_folded(monkeypatch):
    fields = {"init__mode": "adapt", "init__core": "runs/mpii"}
    adapted_base = narrow_base(paper.get_config(), **fields)
    adapted = dry_run.trace(config_of(CELLS["all-k10"], adapted_base, 0))
    monkeypatch.setattr(dry_run, "trace_step", lambda *_: None)
    plain = dry_run.trace(config_of(CELLS["all-k10"], narrow_base(paper.get_config()), 0))
    assert adapted == plain


def test_a_wrong_count_is_reported(monkeypatch):
    monkeypatch.setattr(dry_run, "trace", lambda config: dry_run.Parameters(6_234_763, 9_030_824))
    text, correct = dry_run.check(cells_of((), ("all-k10",)), base_of())
    assert not correct
    assert "detector 6,234,763 parameters, not 6,234,762; generator 9,030,824 parameters as" in text
