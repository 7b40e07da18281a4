"""Unsupervised landmark discovery in JAX and Flax.

`load_detector` loads a trained detector; the rest of the package trains and scores detectors.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from landmarks_jax.inference.api import LandmarkDetector, Landmarks, load_detector

__version__ = "0.1.0"
__all__ = ["LandmarkDetector", "Landmarks", "load_detector"]


def __getattr__(name: str) -> Any:
    """Imports the inference API, and with it JAX and Flax, on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from landmarks_jax.inference import api  # noqa: PLC0415

    return getattr(api, name)
