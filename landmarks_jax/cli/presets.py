"""Configuration files by path, or shipped ones by name."""

from pathlib import Path

from landmarks_jax import configs
from landmarks_jax.system.errors import ConfigError

FOLDER = Path(configs.__file__).parent


def names() -> list[str]:
    """The shipped configurations, without the base of all."""
    return sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "base"))


def path_of(config: str) -> str:
    """The file of a configuration.

    Args:
      config: a path, or a shipped preset as `NAME` or `configs/NAME.py`. A file of the user's own
        comes first.

    Raises:
      ConfigError: there is no such file and no such preset.
    """
    path = Path(config)
    if path.suffix == ".py" and path.is_file():
        return config
    shipped = FOLDER / f"{path.stem}.py"
    if config in (path.stem, f"configs/{path.name}") and shipped.is_file():
        return str(shipped)
    raise ConfigError(
        f"--config {config}: no such configuration file; give a path, or the name of a preset: "
        f"{', '.join(names())}"
    )


def short_name(config: str) -> str:
    """The name of a shipped preset given by its path; any other path as it is."""
    path = Path(config)
    return path.stem if path.resolve().parent == FOLDER.resolve() else config
