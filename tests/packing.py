"""A narrow packed detector with random weights, and smooth test images."""

import dataclasses

import numpy as np

from landmarks_jax.inference import face_finder, packed_file
from landmarks_jax.inference.linear_map import LinearMap
from landmarks_jax.models.detectors import build_detector

NUM_LANDMARKS = 3
POINT_NAMES = ("left eye", "right eye")
SCORE = {
    "protocol": "mine",
    "crop": "center",
    "fit": {"name": "fit.csv", "faces": 90},
    "score": {"name": "score.csv", "faces": 50},
    "forward": 12.5,
    "mean_shape": 20.0,
    "groups": [
        {"name": "yaw: all", "limits": "", "faces": 50, "forward": 12.5, "mean_shape": 20.0}
    ],
    "confidence": [{"faces": 50, "lowest": 0.1, "highest": 0.9, "forward": 12.5}],
}


def make(narrow_config, filled, **changes) -> packed_file.PackedDetector:
    """A detector of 16 x 16 views and three landmarks; `changes` like `data__crop="box"`."""
    sizes = {"compute_dtype": "float32", "data__canvas_size": 20, "views__size": 16}
    config = narrow_config(**{**sizes, **changes})
    size = config.views.size
    variables = filled(build_detector(config), (1, size, size, 3), use_running_average=True)
    # Random weights give flat heatmaps, whose landmarks hardly depend on the image.
    variables["params"]["head"]["kernel"] *= 10
    rng = np.random.default_rng(5)
    inputs, outputs = 2 * NUM_LANDMARKS, 2 * len(POINT_NAMES)
    matrix = rng.normal(size=(inputs, outputs)).T  # in Fortran order, as the regression gives it
    regressor = LinearMap(matrix, rng.normal(size=inputs), rng.normal(size=outputs))
    summary = {"point_names": list(POINT_NAMES), "scores": [SCORE]}
    return packed_file.PackedDetector(
        packed_file.inference_config(config), variables, regressor, summary
    )


def of_faces(packed: packed_file.PackedDetector) -> packed_file.PackedDetector:
    """The detector as one that knows what to view of a found face."""
    frame = face_finder.FaceFrame(0.1, -0.2, 1.5)
    fields = {"finder": face_finder.FINDER, "photos": 12, **frame._asdict()}
    return dataclasses.replace(packed, summary=packed.summary | {"face_frame": fields})


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth image `[height, width, 3]` uint8: the same scene at every size."""
    rng = np.random.default_rng(seed)
    y = ((np.arange(height) + 0.5) / height)[:, None, None, None]
    x = ((np.arange(width) + 0.5) / width)[None, :, None, None]
    wave, phase = rng.uniform(-3, 3, (2, 3, 4)), rng.uniform(0, 6, (3, 4))
    waves = np.sin(np.pi * (wave[0] * x + wave[1] * y) + phase)
    return (127.5 + 30 * waves.sum(-1)).clip(0, 255).round().astype(np.uint8)
