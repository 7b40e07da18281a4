"""Cuts the photos of a configuration to canvases once, so that training decodes nothing.

python prepare.py --config configs/NAME.py --out DIR [--config.data.field=value]

Then train with --config.data.source=prepared --config.data.roots="('DIR',)".

With --shrink 160 it writes the photos instead, as small WebP files to take to another machine;
there they are a folder of photos like any other.
"""

from absl import flags
from ml_collections import config_flags

from landmarks_jax.cli import entry

_CONFIG = config_flags.DEFINE_config_file("config", None, "The configuration whose data it is.")
_OUT = flags.DEFINE_string("out", None, "The folder to make.", required=True)
_SHRINK = flags.DEFINE_integer(
    "shrink",
    None,
    "Write the photos themselves, no side longer than this, in pixels.",
    lower_bound=1,
    upper_bound=16383,  # WebP's own
)
_QUALITY = flags.DEFINE_integer(
    "quality", 50, "With --shrink: of the WebP files.", lower_bound=0, upper_bound=100
)


def main() -> None:
    """Prepares."""
    from landmarks_jax import config as configuration  # noqa: PLC0415
    from landmarks_jax import crops  # noqa: PLC0415
    from landmarks_jax.data import loader, prepared, shrink  # noqa: PLC0415
    from landmarks_jax.data.sources import registry  # noqa: PLC0415
    from landmarks_jax.system.errors import ConfigError  # noqa: PLC0415

    configuration.validate(_CONFIG.value)
    crops.check(_CONFIG.value)
    if _SHRINK.value and _CONFIG.value.objective.task == "pose":
        raise ConfigError("--shrink: a folder of photos has no joints; prepare without it")
    framing = loader.framing_of(_CONFIG.value)
    source = registry.open_source(_CONFIG.value.data)
    print(registry.summary(source))
    if _SHRINK.value:
        size = shrink.shrink(source, _OUT.value, _SHRINK.value, _QUALITY.value)
        print(f"{_OUT.value}: {len(source)} photos, {size / 2**20:.1f} MiB")
        return
    prepared.prepare(source, framing, str(_OUT.value))
    print(f"{_OUT.value}: {len(source)} canvases of {framing.canvas_size} pixels")


if __name__ == "__main__":
    flags.mark_flag_as_required("config")
    entry.run(main)
