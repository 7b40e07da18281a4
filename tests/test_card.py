"""The detector's card, and that the committed ones match their files."""

import dataclasses

import numpy as np
import pytest
from ml_collections import ConfigDict

from landmarks_jax.inference import card, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from tests.running import ROOT, narrow

SHIPPED = sorted((ROOT / "landmarks_jax" / "inference" / "pretrained").glob("*.safetensors"))
CARDS = ROOT / "docs" / "detectors"
PART = {"faces": 1995, "lowest": 0.3395, "highest": 0.81, "forward": 25.926}
GROUP = {
    "name": "yaw: frontal",
    "limits": "below 0.1 eye distances",
    "faces": 1500,
    "forward": 15.04,
    "mean_shape": 20.5,
}
SCORE = {
    "protocol": "aflw-995",
    "crop": "box",
    "fit": {"name": "training.txt", "faces": 2000},
    "score": {"name": "testing.txt", "faces": 995},
    "forward": 16.444,
    "mean_shape": 24.097,
    "groups": [GROUP],
    "confidence": [PART, {**PART, "lowest": 0.81, "highest": 0.99, "forward": 8.0}],
}
SUMMARY = {
    "trained_on": {"source": "folder", "crop": "center"},
    "photos": "Ninety photos of shoes, for research only.",
    "notes": ["perceptual loss of VGG-16"],
    "provenance": {
        "steps": 1500,
        "training_minutes": 28.93,
        "landmarks_jax": "0.1.0",
        "jax": "0.10.2",
        "flax": "0.12.8",
        "device": "1 x cpu",
        "machine": "x86_64",
    },
    "packed_on": "2026-11-22",
    "scores": [SCORE],
    "point_names": ["heel", "toe"],
}


@pytest.fixture
def packed():
    variables = {"params": {"a": np.zeros((3, 3, 2, 70)), "b": np.zeros(70)}, "batch_stats": {}}
    regressor = LinearMap(np.zeros((4, 6)), np.zeros(6), np.zeros(4))
    return packed_file.PackedDetector(
        packed_file.inference_config(narrow()), variables, regressor, SUMMARY
    )


def test_a_card_reports_the_packed_of_its_file(packed):
    text = card.to_markdown(packed, "shoes")
    assert text.startswith("# The detector shoes\n\n|")
    for line in (
        "| Output | 3 points discovered without labels; through a linear map also heel, toe |",
        "| Input | views of 16 x 16 pixels; images of any size are resampled |",
        "| Part of an image viewed without a box | the central 80% of its width and height |",
        "| Network | hourglass, detector channels 8, hourglass depth 1, 1,330 weights |",
        "- Ninety photos of shoes, for research only.",
        "- Source `folder`, crop `center`.",
        "- Perceptual loss of VGG-16.",
        "| aflw-995 | box | 2,000 | 995 | 16.4 | 24.1 |",
        "| aflw-995 | box | yaw: frontal | below 0.1 eye distances | 1,500 | 15.0 | 20.5 |",
        "| aflw-995 | box | 1,995 | 0.340 to 0.810 | 25.9 |",
        "| aflw-995 | box | 1,995 | 0.810 to 0.990 | 8.0 |",
    ):
        assert f"\n{line}\n" in text, line
    flowing = " ".join(text.split())
    assert "1,500 steps in 28.93 minutes. Packed on 2026-11-22" in flowing
    assert "Do not use it to identify, track or judge people" in flowing
    assert "their owners' terms apply" in flowing
    assert "worthless" in flowing
    assert "The linear map in the file is that of the first row. Scores are of" in flowing
    assert "### By pose and size Yaw of the head is" in flowing
    prose = [line for line in text.splitlines() if not line.startswith("|")]
    assert max(map(len, prose)) <= 100


def test_things_without_heads_have_no_poses(packed):
    score = SCORE | {"groups": [GROUP | {"name": "size: small"}]}
    summary = SUMMARY | {"scores": [score]}
    text = " ".join(card.to_markdown(dataclasses.replace(packed, summary=summary), "a").split())
    assert "### By size Size is the distance that errors are in per cent of." in text
    assert "yaw" not in text.lower()


@pytest.mark.parametrize(
    ("crop", "words"), [("tight", "the whole image"), ("box", "none: it needs a box")]
)
def test_a_card_names_the_viewed_part(packed, crop, words):
    config = ConfigDict(packed.config).unlock()
    config.data.crop = crop
    text = card.to_markdown(dataclasses.replace(packed, config=config), "shoes")
    assert f"| Part of an image viewed without a box | {words}" in text
    assert ("in views cut around labelled points" in text) == (crop == "box")


def test_a_card_names_what_is_unknown(packed):
    text = card.to_markdown(dataclasses.replace(packed, regressor=None, summary={}), "shoes")
    assert "- The file does not name the photos.\n" in text
    assert "Not scored: it was packed without labelled faces to score." in text
    assert "linear map also" not in text
    scored = card.to_markdown(dataclasses.replace(packed, regressor=None), "shoes")
    assert "linear map in the file" not in scored


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_cards_of_shipped_detectors_are_up_to_date(path):
    assert (CARDS / f"{path.stem}.md").read_text() == card.to_markdown(
        packed_file.read(path), path.stem
    )


def test_every_card_has_its_detector():
    assert {path.stem for path in CARDS.glob("*.md")} == {path.stem for path in SHIPPED}
