r"""Published PyTorch checkpoints as a run's folder, which eval.py and export.py take.

    python -m landmarks_jax.cli.convert_checkpoint --detector model_34.fan.pth \
        --generator model_34.gen.pth --core fan_109.pth --workdir runs/published

`--core` is for adapted detectors, whose frozen weights are in another file. The folder's
configuration is `--config`, `configs/released.py` unless given, with the sizes of the networks as
in the files.
"""

from pathlib import Path

from absl import flags
from ml_collections import config_flags

from landmarks_jax.cli import entry

_CONFIG = config_flags.DEFINE_config_file("config", None, "How they were trained.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The run's folder to make.", required=True)
_DETECTOR = flags.DEFINE_string("detector", None, "The detector's file.", required=True)
_GENERATOR = flags.DEFINE_string("generator", None, "The generator's file, if there is one.")
_CORE = flags.DEFINE_string("core", None, "The core's file, of an adapted detector.")


def main() -> None:
    """Converts."""
    # Only now, so that --help and a wrong flag answer at once.
    from landmarks_jax.training import import_published  # noqa: PLC0415

    config = import_published.adopt(
        Path(_WORKDIR.value),
        _CONFIG.value,
        detector=Path(_DETECTOR.value),
        generator=Path(_GENERATOR.value) if _GENERATOR.value else None,
        core=Path(_CORE.value) if _CORE.value else None,
    )
    sizes = ", ".join(f"{field} {value}" for field, value in config.model.items())
    print(f"{_WORKDIR.value}: {sizes}; views of {config.views.size} pixels")


if __name__ == "__main__":
    entry.run(main, default_config="configs/released.py")
