"""Decode and crop the photos of a configuration once, so that training decodes nothing.

landmarks-jax prepare --config NAME --out DIR [--config.data.FIELD=value ...]
landmarks-jax prepare --config paper --out prepared/celeba

Then train with --config.data.source=prepared --config.data.roots="('DIR',)".

With --shrink 160 it writes the photos themselves as small WebP files, to take to another machine;
there they are a folder of photos like any other.
"""

from landmarks_jax.cli.command import Call, Command, Flag
from landmarks_jax.system.errors import ConfigError

_FLAGS = (
    Flag("out", "The folder to make.", required=True),
    Flag(
        "shrink",
        "Write the photos themselves, with no side longer than this, in pixels.",
        kind=int,
        low=1,
        high=16383,  # WebP's limit
    ),
    Flag("quality", "With --shrink: quality of the WebP files.", 50, kind=int, low=0, high=100),
)


def _run(call: Call) -> None:
    from landmarks_jax import config as configuration  # noqa: PLC0415
    from landmarks_jax.data import loader, prepared, shrink  # noqa: PLC0415
    from landmarks_jax.data.sources import registry  # noqa: PLC0415
    from landmarks_jax.tasks import task_of  # noqa: PLC0415

    config, out, longest = call.flags.config, call.flags.out, call.flags.shrink
    configuration.validate(config)
    if longest and task_of(config).ON_JOINTS:
        raise ConfigError("--shrink: a folder of photos has no joints; prepare without it")
    framing = loader.framing_of(config)
    source = registry.open_source(config.data)
    print(source.summary)
    if longest:
        size = shrink.shrink(source, out, longest, call.flags.quality)
        print(f"{out}: {len(source)} photos, {size / 2**20:.1f} MiB")
        return
    prepared.prepare(source, framing, out)
    print(f"{out}: {len(source)} canvases of {framing.canvas_size} pixels")


COMMAND = Command(_run, _FLAGS, config="The configuration whose data is prepared.")
