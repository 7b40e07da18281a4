"""The configuration of a training on the user's own photos, by what the machine has."""

import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict

from landmarks_jax import config as configuration
from landmarks_jax.data import file_search, framing, photo_files, survey
from landmarks_jax.data.sources.folder import FolderPhotos
from landmarks_jax.system import cache
from landmarks_jax.system.errors import ConfigError, WorkdirError, wrong_field
from landmarks_jax.tasks import task_of
from landmarks_jax.training import run_folder, start_points, transfer_files

_LOGGER = logging.getLogger(__name__)
# On a GPU, at the widths of `base`.
_ON_GPU = {
    "data.canvas_size": 160,
    "data.max_photos": 20_000,
    "views.size": 128,
    "model.detector_channels": 256,
    "model.hourglass_depth": 4,
}
# Given one of the first two, a run takes none of them: the depth is bounded by the view's size.
_SIZES = ("views.size", "data.canvas_size", "model.hourglass_depth")
_FEATURES = ("network", "taps", "weights")


class _File(NamedTuple):
    """A file of VGG's weights, and the taps whose features are compared."""

    name: str
    network: str
    taps: tuple[str, ...]


# The best first.
_FILES = (
    _File("vgg19.npz", "vgg19", ("relu3_4", "relu4_4")),
    _File("vgg19_conv1_1_to_conv4_4.npz", "vgg19", ("relu3_4", "relu4_4")),
    _File("vgg16.npz", "vgg16", ("relu3_3", "relu4_3")),
    _File("vgg16_conv1_1_to_conv3_3.npz", "vgg16", ("relu3_3",)),
)


def name_of(arguments: Sequence[str]) -> str:
    """A name for a run on some folders, image files or globs: that of the first one's folder."""
    first = arguments[0]
    if not os.path.lexists(first):
        first = re.split(r"[*?\[]", first)[0]
    path = first if os.path.isdir(first) else os.path.dirname(first)
    name = os.path.basename(os.path.realpath(path))
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "photos"


def folder_of(arguments: Sequence[str]) -> Path:
    """The default folder of a run on some photos.

    Raises:
      WorkdirError: it holds a run on others, whose photos may have the same names.
    """
    workdir = Path("runs") / name_of(arguments)
    if run_folder.is_run(workdir):
        data = run_folder.read_config(workdir).data
        if {*map(os.path.realpath, data.roots)} != {*map(os.path.realpath, arguments)}:
            raise WorkdirError(
                f"{workdir}: holds a run on {photo_files.some(data.roots) or data.source}; name "
                "another folder by --workdir, or this one if its photos have moved"
            )
    return workdir


def look(config: ConfigDict, arguments: Sequence[str], workdir: Path) -> None:
    """Says in the log what the photos of a new run are, and what will go wrong; see `data.survey`.

    Raises:
      ConfigError: the crop needs points.
      WorkdirError: the run would be in a folder of photos, and its images among them.
      DataError: there are no photos, or too few different ones.
    """
    if config.data.crop == "box":
        raise wrong_field(config, "data.crop", "center or tight for photos without points")
    named = (path for argument in arguments for path in file_search.expand(argument))
    for folder in filter(os.path.isdir, named):
        if workdir.resolve().is_relative_to(Path(folder).resolve()):
            raise WorkdirError(
                f"{workdir}: is in the folder of photos {folder}, to which a run would add images; "
                "name a folder outside of it by --workdir"
            )
    frame = framing.of_config(config)
    found = survey.survey(FolderPhotos(arguments, config.data.exclude), frame)
    for line in found.lines:
        _LOGGER.info("%s", line)
    for warning in found.warnings:
        _LOGGER.warning("warning: %s", warning)


def configured(
    preset: ConfigDict,
    given: Mapping[str, Any],
    arguments: Sequence[str],
    workdir: Path,
    *,
    choose: bool,
    transfer: Path | None = None,
) -> ConfigDict:
    """The configuration of a run on some photos: that of the run if it exists, or a new one.

    Args:
      preset: with the user's own values.
      given: these values by field, such as `train.steps`; they stay.
      arguments: folders, image files and globs.
      workdir: the run's folder.
      choose: whether a run that exists keeps its configuration, and a new one takes what the
        machine has: VGG's features, a GPU. Otherwise the configuration is the preset's.
      transfer: the folder of transfer files that a new run continues from.

    Raises:
      ConfigError: the photos are given in a field as well, or a field cannot work.
      WorkdirError: the run's configuration, or the transfer files, cannot be read.
    """
    for field in ("data.roots", "data.source", "data.landmarks"):
        if field in given:
            raise ConfigError(f"--config.{field}: name the photos by arguments, or by this field")
    photos = {"data.source": "folder", "data.roots": tuple(arguments)}
    if choose and run_folder.is_run(workdir):
        preset, photos = run_folder.read_config(workdir), {**given, **photos}
    elif choose and transfer is not None:
        preset, photos = transfer_files.read(transfer).config, {**given, **photos}
    else:
        if "data.exclude" not in given:
            photos["data.exclude"] = ()  # a preset's lists are of its own data set
        photos |= _choices(given) if choose else {}
    config = configuration.with_fields(preset, photos)
    configuration.validate(config)
    if task_of(config).MAKES_TARGETS:
        start_points.first(config)  # raises what would be raised after the features
    steps, decay = config.train.steps, config.optimizer.cosine_steps
    if 0 < decay < steps:
        _LOGGER.warning(
            "warning: config.train.steps = %d: from step %d on the learning rate is 0 and nothing "
            "is learned; a new run can have a larger config.optimizer.cosine_steps",
            steps,
            decay,
        )
    return config


def _choices(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a new run takes by what is there, but for those given; says so in the log."""
    fields = {} if any(f"targets.{name}" in given for name in _FEATURES) else _features()
    if jax.default_backend() == "cpu":
        _LOGGER.info("model: narrow, for processors (config.model, config.views.size)")
    else:
        _LOGGER.info("model: wide, for a GPU (config.model, config.views.size)")
        sizes_given = any(name in given for name in _SIZES[:2])
        fields |= {k: v for k, v in _ON_GPU.items() if not (sizes_given and k in _SIZES)}
    if steps := given.get("train.steps"):
        fields["optimizer.cosine_steps"] = steps  # the learning rate ends at 0
    return {name: value for name, value in fields.items() if name not in given}


def _features() -> dict[str, Any]:
    folders = (Path("data/weights"), cache.folder() / "weights")
    for file in _FILES:
        for path in (folder / file.name for folder in folders):
            if path.is_file():
                _LOGGER.info("features: those of %s in %s (config.targets)", file.network, path)
                return {
                    "targets.network": file.network,
                    "targets.taps": file.taps,
                    "targets.weights": str(path),
                    "targets.components": 128,
                }
    _LOGGER.warning(
        "features: histograms of gradients (config.targets); VGG-19's find better points, "
        "docs/own-things.md says how much. Get them with: landmarks-jax convert vgg "
        "--download vgg19 --out %s",
        folders[1] / _FILES[0].name,
    )
    return {}
