"""Training tasks: unsupervised landmarks, self-training, supervised pose to pretrain."""

from ml_collections import ConfigDict

from landmarks_jax.tasks import landmarks, pose, self_training
from landmarks_jax.tasks.task import Task

TASKS: dict[str, Task] = {
    "landmarks": landmarks,
    "self_training": self_training,
    "pose": pose,
}


def task_of(config: ConfigDict) -> Task:
    """The task of a configuration, `config.objective.task`."""
    return TASKS[config.objective.task]
