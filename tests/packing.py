"""A narrow packed detector for tests: drawn weights, sharp maps, a regressor to two points."""

import numpy as np

from landmarks_jax.inference import detector, packed_file
from landmarks_jax.inference.linear_map import LinearMap

NUM_LANDMARKS, NUM_LABELLED = 3, 2


def make(narrow_config, filled, **changes) -> packed_file.Packed:
    """A detector of 16 x 16 views and three landmarks; `changes` as `data__crop="box"`."""
    sizes = {"compute_dtype": "float32", "data__canvas_size": 20, "views__size": 16}
    config = narrow_config(**{**sizes, **changes})
    variables = filled(
        detector.build_detector(config),
        (1, config.views.size, config.views.size, 3),
        use_running_average=True,
    )
    # Drawn weights give flat maps, whose landmarks hardly move; these move with the picture.
    variables["params"]["head"]["kernel"] *= 10
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(2 * NUM_LANDMARKS, 2 * NUM_LABELLED)).T  # in Fortran order, as fitted
    regressor = LinearMap(
        matrix, rng.normal(size=2 * NUM_LANDMARKS), rng.normal(size=2 * NUM_LABELLED)
    )
    summary = {"point_names": ["left eye", "right eye"], "scores": [{"forward": 12.5}]}
    return packed_file.Packed(packed_file.needed_fields(config), variables, regressor, summary)


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A smooth picture `[height, width, 3]` uint8: the same scene at every size."""
    rng = np.random.default_rng(seed)
    y = ((np.arange(height) + 0.5) / height)[:, None, None, None]
    x = ((np.arange(width) + 0.5) / width)[None, :, None, None]
    wave, phase = rng.uniform(-3, 3, (2, 3, 4)), rng.uniform(0, 6, (3, 4))
    waves = np.sin(np.pi * (wave[0] * x + wave[1] * y) + phase)
    return (127.5 + 30 * waves.sum(-1)).clip(0, 255).round().astype(np.uint8)
