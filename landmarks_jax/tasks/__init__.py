"""What a run trains: landmarks without labels, or joints with labels for a core."""

from ml_collections import ConfigDict

from landmarks_jax.tasks import landmarks, pose
from landmarks_jax.tasks.task import Task

_LANDMARKS: Task = landmarks
_POSE: Task = pose
TASKS = {"landmarks": _LANDMARKS, "pose": _POSE}


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration, `config.objective.task`."""
    return TASKS[config.objective.task]
