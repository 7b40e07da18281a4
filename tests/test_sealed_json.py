"""JSON objects that hold their own SHA-256."""

import hashlib
import json

import pytest

from landmarks_jax.system.sealed_json import sealed, unsealed

FIELDS = {"b": [1, 2.5, None], "a": {"y": "\udcff", "x": True}}


def test_the_digest_is_that_of_the_sorted_fields():
    text = '{"a": {"x": true, "y": "\\udcff"}, "b": [1, 2.5, null]}'
    made = sealed(FIELDS)
    assert list(made) == ["b", "a", "sha256"]
    assert made["sha256"] == hashlib.sha256(text.encode()).hexdigest()
    assert unsealed(json.loads(json.dumps(made))) == FIELDS
    assert sealed(made)["sha256"] != made["sha256"]


@pytest.mark.parametrize(
    "other",
    [{**sealed(FIELDS), "b": [1, 2.5]}, {**sealed(FIELDS), "c": 0}, {**FIELDS, "sha256": None}],
)
def test_changed_fields_are_refused(other):
    with pytest.raises(ValueError, match="damaged: the SHA-256 of its fields differs"):
        unsealed(other)


@pytest.mark.parametrize("other", [FIELDS, {}, [sealed(FIELDS)], "x", None])
def test_anything_else_is_refused(other):
    with pytest.raises(ValueError, match="not a JSON object with its own SHA-256"):
        unsealed(other)
