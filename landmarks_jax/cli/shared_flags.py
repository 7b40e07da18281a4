"""Flags that several subcommands share."""

from pathlib import Path
from typing import Any

from absl import flags

from landmarks_jax.data.framing import CROPS

# Folders that stand in for those of the run's configuration: each flag is a field of config.eval.
_FOLDERS = {
    "aflw": "Folder of AFLW's lists (aflw-995, aflw-dev)",
    "aflw_release": "Folder of aflw_release-2 (aflw)",
    "celeba": "CelebA's folder (mafl)",
    "mafl": "Folder of MAFL's lists (mafl)",
    "mpii": "MPII's folder (mpii)",
}
_KEYWORDS = {"protocol": "protocol_names", "crop": "crops"}


def add_labelled_faces(values: flags.FlagValues) -> None:
    """Defines the flags that name labelled faces to score a run on."""
    flags.DEFINE_multi_string(
        "protocol",
        None,
        "synthetic | mafl | aflw | aflw-995 | aflw-dev, or mpii for a run on joints; default: the "
        "run's config.eval.protocols.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "fit",
        None,
        "Labelled faces that the linear map is fitted on: .csv, .txt, a prepared folder or one "
        "with .pts files.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "score", None, "Labelled faces to score, in the same forms.", flag_values=values
    )
    flags.DEFINE_multi_enum(
        "crop",
        [],
        CROPS,
        "With --fit and --score; default: the crop of the run's training.",
        flag_values=values,
    )
    for name, what in _FOLDERS.items():
        flags.DEFINE_string(name, None, f"{what}, if not the run's.", flag_values=values)
    flags.DEFINE_bool(
        "mafl_as_released",
        None,
        "Fit without three photos of MAFL, as the released code does.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "pts_points",
        None,
        "5 or 68: points of --fit and --score folders with .pts files.",
        flag_values=values,
    )


def labelled_faces(values: flags.FlagValues) -> dict[str, Any]:
    """Those flags as keywords of `run_evaluation.open_faces`."""
    names = ("protocol", "fit", "score", "crop", *_FOLDERS, "mafl_as_released", "pts_points")
    return {_KEYWORDS.get(name, name): values[name].value for name in names}


def add_transfer(values: flags.FlagValues) -> None:
    """Defines --transfer."""
    flags.DEFINE_string(
        "transfer",
        None,
        "Folder of `landmarks-jax transfer` to continue from, if --workdir has no checkpoint yet.",
        flag_values=values,
    )


def transfer(values: flags.FlagValues) -> Path | None:
    """The folder that --transfer names."""
    return Path(values.transfer) if values.transfer else None
