"""JSON objects that hold their own SHA-256, so that damage and edits are noticed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields, and as `sha256` their SHA-256, whatever their order."""
    return {**fields, "sha256": _digest(fields)}


def unsealed(fields: Any) -> dict[str, Any]:
    """The fields that `sealed` was given, from its result.

    Raises:
      ValueError: anything in them differs, or these are no fields with a SHA-256.
    """
    if not isinstance(fields, Mapping) or "sha256" not in fields:
        raise ValueError("not a JSON object with its own SHA-256")
    own = dict(fields)
    if own.pop("sha256") != _digest(own):
        raise ValueError("damaged: the SHA-256 of its fields differs")
    return own


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()
