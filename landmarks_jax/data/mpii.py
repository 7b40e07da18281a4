"""MPII Human Pose (Andriluka et al., CVPR 2014): people with up to 16 joints each, for pretraining.

The official .mat file holds a struct `RELEASE`: for image i `annolist(i).image.name`, its people
`annolist(i).annorect`, `img_train(i)` and `single_person{i}`, the numbers of the people that stand
well apart from others. A person has the head's box `x1 y1 x2 y2`, a rough centre `objpos.x`,
`objpos.y`, `scale`, the person's height over 200 pixels, and joints `annopoints.point` with `x`,
`y`, `id` and `is_visible`. Pixels count from 1 there and from 0 here.

Joints, by number: right ankle, knee, hip, left hip, knee, ankle, pelvis, thorax, upper neck, top of
the head, right wrist, elbow, shoulder, left shoulder, elbow, wrist; right is the person's own.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import files, lists, matlab, origins, photos
from landmarks_jax.errors import DataError

FOLDER = "images"
ANNOTATIONS = "mpii_human_pose_v1_u12_1.mat"
NUM_JOINTS = 16
# Of PCKh: the unit of errors is this share of the head box's diagonal.
_HEAD_SHARE = 0.6


@dataclasses.dataclass(frozen=True)
class Person:
    """One person of a training image.

    Attributes:
      image: the photo's file name.
      place: where the annotation stands, for messages.
      joints: `[16, 2]` in pixels, NaN where a joint has no annotation.
      visible: `[16]`, annotated and not marked as hidden.
      center: `[2]`, the rough middle, in pixels.
      scale: the person's height over 200 pixels.
      head_size: the unit of PCKh, in pixels.
      apart: whether nobody else stands near.
    """

    image: str
    place: str
    joints: np.ndarray
    visible: np.ndarray
    center: np.ndarray
    scale: float
    head_size: float
    apart: bool


class MpiiPeople(photos.PhotoFiles):
    """The annotated people of the training images, each with its whole photo.

    Attributes:
      people: their annotations, in the file's order. `points(i)` are `people[i].joints`.
    """

    def __init__(self, root: str, exclude: Sequence[str] = ()) -> None:
        """Reads the annotations and finds the photos.

        Args:
          root: the folder that holds `images` and `mpii_human_pose_v1_u12_1.mat`.
          exclude: list files of photos to leave out.

        Raises:
          DataError: a file is missing or malformed.
        """
        path = os.path.join(root, ANNOTATIONS)
        origins.need_file(path, origins.MPII)
        origins.need_folder(os.path.join(root, FOLDER), origins.MPII)
        listed, note = read_people(path)
        kept, excluded = lists.leave_out([_listed(person) for person in listed], exclude)
        self.people = [listed[i] for i in kept]
        entries = [(person.place, f"{FOLDER}/{person.image}") for person in self.people]
        found = lists.locate(entries, [root])
        lists.check_labelled(found, root)
        summary = photos.one_line(f"{len(found):,} people of {root}", excluded, note)
        super().__init__(found, np.stack([person.joints for person in self.people]), summary)


def _listed(person: Person) -> files.PhotoFile:
    return files.PhotoFile(person.image, person.image)


def read_people(path: str) -> tuple[list[Person], str]:
    """Reads the people of the training images who have joints, head box, centre and scale.

    Returns:
      The people, and a note of how many were left out ("" for none).

    Raises:
      DataError: the file cannot be read or is not of this structure.
    """
    found = matlab.items(matlab.read(path, ("RELEASE",))["RELEASE"])
    release = found[0] if len(found) == 1 else None
    columns = {}
    for name in ("annolist", "img_train", "single_person"):
        if not hasattr(release, name):
            raise DataError(f"{path}: RELEASE has no field {name!r}")
        columns[name] = matlab.items(getattr(release, name))
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) != 1:
        said = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        raise DataError(f"{path}: RELEASE must say as many of each: {said}")
    people: list[Person] = []
    incomplete = 0
    for i, (image, train, apart) in enumerate(zip(*columns.values(), strict=True), 1):
        if int(train) != 1:
            continue  # joints of test images are not published
        alone = {int(number) for number in matlab.items(apart)}
        for j, person in _people_of(image):
            place = f"{path}: annolist({i}).annorect({j})"
            if (read := _person(_image_name(image, place), person, place, j in alone)) is None:
                incomplete += 1
            else:
                people.append(read)
    if not people:
        raise DataError(f"{path}: no training image has a person with joints")
    note = f"{incomplete:,} without joints, head, centre or scale left out" if incomplete else ""
    return people, note


def _people_of(image: Any) -> Iterator[tuple[int, Any]]:
    """The people of an image by their numbers, from 1."""
    yield from enumerate(matlab.items(getattr(image, "annorect", None)), 1)


def _image_name(image: Any, place: str) -> str:
    name = matlab.field(matlab.field(image, "image"), "name")
    if not isinstance(name, str) or not name or "/" in name or "\\" in name:
        raise DataError(f"{place}: its image has no file name")
    return name


def _person(image: str, rect: Any, place: str, apart: bool) -> Person | None:
    """One person, or nothing where a part of the annotation is missing."""
    points = matlab.items(getattr(matlab.field(rect, "annopoints"), "point", None))
    position = matlab.field(rect, "objpos")
    fields = [matlab.field(rect, name) for name in ("x1", "y1", "x2", "y2", "scale")]
    fields += [matlab.field(position, name) for name in ("x", "y")]
    if not points or any(field is None for field in fields):
        return None
    x1, y1, x2, y2, scale, x, y = (_number(field, place) for field in fields)
    joints, visible = _joints(points, place)
    return Person(
        image=image,
        place=place,
        joints=joints,
        visible=visible,
        center=np.array([x - 1.0, y - 1.0], np.float32),
        scale=scale,
        head_size=_HEAD_SHARE * float(np.hypot(x2 - x1, y2 - y1)),
        apart=apart,
    )


def _joints(points: Sequence[Any], place: str) -> tuple[np.ndarray, np.ndarray]:
    """The joints `[16, 2]` and whether they are visible `[16]`."""
    joints = np.full((NUM_JOINTS, 2), np.nan, np.float32)
    visible = np.zeros(NUM_JOINTS, bool)
    for point in points:
        number = _number(matlab.field(point, "id"), f"{place}: a joint's id")
        if number not in range(NUM_JOINTS):
            raise DataError(f"{place}: joint {number:g}, must be from 0 to {NUM_JOINTS - 1}")
        joint = int(number)
        where = f"{place}: joint {joint}"
        if not np.isnan(joints[joint, 0]):
            raise DataError(f"{where} is annotated twice")
        joints[joint] = [_number(matlab.field(point, axis), where) - 1.0 for axis in "xy"]
        # Neck and head have no flag: they are annotated, and nothing says they are hidden.
        flag = matlab.field(point, "is_visible")
        visible[joint] = flag is None or _number(flag, where) != 0
    return joints, visible


def _number(value: Any, place: str) -> float:
    try:  # some flags are texts
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise DataError(f"{place}: {value} is not a number")
    return number
