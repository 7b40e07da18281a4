"""Flags that several subcommands share."""

import re
from collections.abc import Collection, Mapping
from typing import Any

from absl import flags

from landmarks_jax.cli.command import Flag
from landmarks_jax.data.framing import CROPS
from landmarks_jax.system.errors import ConfigError

_FOLDERS = {
    "aflw": "Folder of AFLW's lists (aflw-995, aflw-dev)",
    "aflw_release": "Folder of aflw_release-2 (aflw)",
    "celeba": "CelebA's folder (mafl)",
    "mafl": "Folder of MAFL's lists (mafl)",
    "celeba400": "Folder of a part of CelebA with its lists (celeba-400)",
    "mpii": "MPII's folder (mpii)",
}
# The labelled faces to score a run on. From `aflw` on, each is a field of config.eval.
LABELLED_FACES = (
    Flag(
        "protocol",
        "synthetic | mafl | celeba-400 | aflw | aflw-995 | aflw-dev, or mpii for a run on joints; "
        "default: the run's config.eval.protocols.",
        repeated=True,
    ),
    Flag(
        "fit",
        "Labelled faces that the linear map is fitted on: .csv, .tps, .json (COCO), .txt, a "
        "prepared folder or one with .pts files. Without --score they are scored by leave-one-out.",
    ),
    Flag("score", "Labelled faces to score, in the same forms."),
    Flag(
        "crop",
        "With --fit; default: the crop of the run's training.",
        [],
        choices=CROPS,
        repeated=True,
    ),
    Flag(
        "allow_duplicates",
        "Accept faces that are in both --fit and --score, or several times in one of them; the "
        "tables say so.",
        kind=bool,
    ),
    *(Flag(name, f"{what}, if not the run's.") for name, what in _FOLDERS.items()),
    Flag(
        "as_released",
        "As the released code: without three of MAFL's training photos, and with boxes that end "
        "before their last column and row.",
        kind=bool,
    ),
    Flag("pts_points", "5 or 68: points of --fit and --score folders with .pts files.", kind=int),
)
LANDMARKS = Flag(
    "landmarks",
    "Keep some of the landmarks only, in this order: numbers from 0, and ranges A:B from A to "
    "B - 1, such as 0,3,5:9. Reports, tables and figures count from 0 too; `landmarks-jax detect`, "
    "the card and the web page count from 1.",
)
_KEYWORDS = {"protocol": "protocol_names", "crop": "crops"}

TRANSFER = Flag(
    "transfer",
    "Folder of `landmarks-jax transfer` to continue from, if --workdir has no checkpoint yet.",
)


def labelled_faces(values: flags.FlagValues) -> dict[str, Any]:
    """The values of `LABELLED_FACES`, as keywords of `run_evaluation.open_faces`."""
    return {_KEYWORDS.get(flag.name, flag.name): values[flag.name].value for flag in LABELLED_FACES}


def landmarks(values: flags.FlagValues) -> tuple[int, ...] | None:
    """The landmarks that --landmarks keeps, None for all.

    Raises:
      ConfigError: they are not different numbers and ranges.
    """
    if values.landmarks is None:
        return None
    numbers: list[int] = []
    for part in values.landmarks.split(","):
        # Four digits are more than a detector can have landmarks.
        match = re.fullmatch(r"\s*([0-9]{1,4})(?::([0-9]{1,4}))?\s*", part)
        first = int(match[1]) if match else 0
        added = range(first, int(match[2] or first + 1)) if match else range(0)
        if not added or set(added) & set(numbers):
            raise ConfigError(
                f"--landmarks {values.landmarks}: must be different numbers from 0 and ranges, "
                "such as 0,3,5:9, where 5:9 is 5 to 8"
            )
        numbers += added
    return tuple(numbers)


def refuse_unused(
    values: flags.FlagValues, action: str, owners: Mapping[str, Collection[str]]
) -> None:
    """Refuses flags of other actions than the one that is run, which would be ignored.

    Args:
      values: the parsed flags.
      action: such as the `vgg` of `convert vgg`.
      owners: the actions that use a flag, by its name; all use the others.

    Raises:
      ConfigError: naming the flag.
    """
    for name, actions in owners.items():
        if values[name].present and action not in actions:
            raise ConfigError(f"--{name}: goes with {' or '.join(actions)}, not with {action}")
