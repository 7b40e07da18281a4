"""Training tasks: unsupervised landmarks, and supervised pose to pretrain the detector."""

from ml_collections import ConfigDict

from landmarks_jax.tasks import landmarks, pose
from landmarks_jax.tasks.task import Task

TASKS: dict[str, Task] = {"landmarks": landmarks, "pose": pose}


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration, `config.objective.task`."""
    return TASKS[config.objective.task]
