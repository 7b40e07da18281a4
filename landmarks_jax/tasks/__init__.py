"""Training tasks: unsupervised landmarks, self-training, both, supervised pose to pretrain."""

from ml_collections import ConfigDict

from landmarks_jax.tasks import landmarks, pose, self_training, self_training_reconstruction
from landmarks_jax.tasks.task import Task

TASKS: dict[str, Task] = {
    "landmarks": landmarks,
    "self_training": self_training,
    "self_training_reconstruction": self_training_reconstruction,
    "pose": pose,
}


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration, `config.objective.task`."""
    return TASKS[config.objective.task]
