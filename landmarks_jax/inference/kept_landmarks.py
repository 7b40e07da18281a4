"""Some of a packed detector's landmarks, and their names."""

import dataclasses
from collections.abc import Sequence

from landmarks_jax.data.formats.records import are_point_names
from landmarks_jax.inference.packed_file import PackedDetector
from landmarks_jax.models.detectors import keep_landmarks, kept_note
from landmarks_jax.system.errors import ConfigError


def keep(packed: PackedDetector, numbers: Sequence[int]) -> PackedDetector:
    """Keeps some landmarks, without the linear map and the scores, which are of all of them.

    Args:
      packed: the detector.
      numbers: the landmarks to keep, from 0, in their new order.

    Raises:
      ConfigError: there are no such landmarks.
    """
    config, variables = keep_landmarks(packed.config, packed.variables, numbers)
    notes = [*packed.summary.get("notes", []), kept_note(packed.config, numbers)]
    summary = {**packed.summary, "notes": notes, "scores": [], "point_names": []}
    summary |= {"leave_one_out": []}
    if names := packed.summary.get("landmark_names"):
        summary["landmark_names"] = [names[number] for number in numbers]
    if mirror := packed.summary.get("mirror"):
        place = {number: i for i, number in enumerate(numbers)}
        ends = ("first", "second")
        pairs = [
            pair | dict(zip(ends, sorted(place[pair[end]] for end in ends), strict=True))
            for pair in mirror["pairs"]
            if all(pair[end] in place for end in ends)
        ]
        summary["mirror"] = mirror | {"pairs": pairs}
    return dataclasses.replace(
        packed, config=config, variables=variables, regressor=None, summary=summary
    )


def rename(packed: PackedDetector, names: Sequence[str]) -> PackedDetector:
    """Gives the landmarks names; without `names` they stay as they are.

    Raises:
      ConfigError: the names do not fit.
    """
    check_names(names, packed.config.model.num_landmarks)
    if not names:
        return packed
    return dataclasses.replace(packed, summary={**packed.summary, "landmark_names": list(names)})


def check_names(names: Sequence[str], count: int) -> None:
    """Refuses names, unless there are none, that are not one for each of `count` landmarks.

    Raises:
      ConfigError: there are more or fewer, some are equal, or cannot be printed.
    """
    if names and len(names) != count:
        raise ConfigError(f"--names: {len(names)} names for {count} landmarks; name each")
    if not are_point_names(names):
        raise ConfigError("--names: must be different, of printable characters")
