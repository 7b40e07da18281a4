"""Configuration files by path, or shipped ones by name."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from landmarks_jax import configs
from landmarks_jax.system.errors import ConfigError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

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


def load(config: str) -> "ConfigDict":
    """The configuration that `get_config()` of a file or a preset returns.

    Args:
      config: as for `path_of`.

    Raises:
      ConfigError: there is no such file, it does not work, or does not return a ConfigDict.
    """
    from ml_collections import ConfigDict  # noqa: PLC0415

    path = path_of(config)
    try:
        # Each time anew: callers change what they get.
        spec = importlib.util.spec_from_file_location("landmarks_jax_config", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        read = module.get_config()
    except Exception as error:  # whatever a user's file raises
        raise ConfigError(f"--config {config}: {type(error).__name__}: {error}") from error
    if not isinstance(read, ConfigDict):
        raise ConfigError(
            f"--config {config}: get_config() returns {type(read).__name__}, not a ConfigDict; end "
            "it with `return config`"
        )
    return read


def short_name(config: str) -> str:
    """The name of a shipped preset given by its path; any other path as it is."""
    path = Path(config)
    return path.stem if path.resolve().parent == FOLDER.resolve() else config
