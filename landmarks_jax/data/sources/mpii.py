"""MPII Human Pose (Andriluka et al., CVPR 2014): people with up to 16 joints each, for pretraining.

The official .mat file holds a struct `RELEASE`: for image i `annolist(i).image.name`, its people
`annolist(i).annorect`, `img_train(i)` and `single_person{i}`, the numbers of the people that stand
well apart from others. A person has the head's box `x1 y1 x2 y2`, a rough centre `objpos.x`,
`objpos.y`, `scale`, the person's height over 200 pixels, and joints `annopoints.point` with `x`,
`y`, `id` and `is_visible`. Pixels count from 1 there and from 0 here. `annolist(i).vididx` is the
number of the video that the image is a frame of; some images have none.

A photo shows one person: the square of 375 times `scale` about the rough centre, moved down by 15
times `scale` so that feet stay inside (Newell et al. 2016 look at its middle 250). With canvases of
1.5 times the view the view shows that middle, and turned or shrunken views still find the photo.

The joints of test images are not published, so a part of the training images is for validation: the
frames of about every tenth video, chosen by the SHA-256 of its number, of its name where an image
has no video. Frames of one video are never on both sides.

Joints, by number: right ankle, knee, hip, left hip, knee, ankle, pelvis, thorax, upper neck, top of
the head, right wrist, elbow, shoulder, left shoulder, elbow, wrist; right is the person's own.
"""

import dataclasses
import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import matlab, origins, photos
from landmarks_jax.system.errors import DataError

FOLDER = "images"
ANNOTATIONS = "mpii_human_pose_v1_u12_1.mat"
NUM_JOINTS = 16
# Joints, then two opposite corners of the head's box.
NUM_POINTS = NUM_JOINTS + 2
# Of PCKh: the unit of errors is this share of the head box's diagonal, as in MPII's own tool.
HEAD_SHARE = 0.6
# Of PCKh@0.5: a joint is found within so many units of its annotation.
FOUND_WITHIN = 0.5
PARTS = ("train", "validation")
# In units of a person's scale, pixels.
_SQUARE = 375.0
_LOWERED = 15.0
# A larger one comes of a wrong number: the square of such a person would fill the memory.
_LARGEST_SCALE = 50.0


@dataclasses.dataclass(frozen=True)
class Person:
    """One person of a training image.

    Attributes:
      image: the photo's file name.
      place: where the annotation stands, for messages.
      joints: `[16, 2]` in pixels, NaN where a joint has no annotation.
      visible: `[16]`, annotated and not marked as hidden.
      head: `[2, 2]` two opposite corners of the head's box, in pixels.
      center: `[2]`, the rough middle, in pixels.
      scale: the person's height over 200 pixels.
      apart: whether nobody else stands near.
      part: "train" or "validation".
    """

    image: str
    place: str
    joints: np.ndarray
    visible: np.ndarray
    head: np.ndarray
    center: np.ndarray
    scale: float
    apart: bool
    part: str

    @property
    def square(self) -> tuple[int, int, int]:
        """Left, top and side of what the person's photo shows, in whole pixel edges."""
        side = max(round(_SQUARE * self.scale), 1)
        x, y = self.center + 0.5 + np.array([0.0, _LOWERED * self.scale]) - side / 2
        return round(x), round(y), side

    @property
    def points(self) -> np.ndarray:
        """`[18, 2]` float32 joints, then the head's corners, in pixels of the square."""
        left, top, _ = self.square
        return np.concatenate([self.joints, self.head]) - np.array([left, top], np.float32)


class MpiiPeople(photos.PhotoFiles):
    """The annotated people of the training images, a photo cut square for each.

    Attributes:
      people: their annotations, in the file's order. `points(i)` are `people[i].points`.
    """

    def __init__(self, root: str, part: str = "all", exclude: Sequence[str] = ()) -> None:
        """Reads the annotations and finds the photos.

        Args:
          root: the folder that holds `images` and `mpii_human_pose_v1_u12_1.mat`.
          part: all | train | validation.
          exclude: list files of photos to leave out.

        Raises:
          ConfigError: there is no such part.
          DataError: a file is missing or malformed, or nobody is in the part.
        """
        wanted = photos.parts(part, PARTS)
        everyone, note = read_people(_annotations(root))
        origins.need_folder(os.path.join(root, FOLDER), origins.MPII)
        listed = [person for person in everyone if person.part in wanted]
        if not listed:
            raise DataError(f"{root}: none of the {len(everyone):,} people is in the part {part!r}")
        kept, excluded = lists.leave_out([_listed(person) for person in listed], exclude)
        self.people = [listed[i] for i in kept]
        entries = [(person.place, f"{FOLDER}/{person.image}") for person in self.people]
        found = lists.locate(entries, [root])
        lists.check_labelled(found, root)
        chosen = "" if part == "all" else f" ({part})"
        summary = photos.one_line(f"{len(found):,} people of {root}{chosen}", excluded, note)
        super().__init__(found, np.stack([person.points for person in self.people]), summary)

    def photo(self, index: int) -> np.ndarray:
        """The person's square, `[S, S, 3]` uint8 RGB; beyond the photo its replicated border."""
        photo = super().photo(index)
        height, width = photo.shape[:2]
        left, top, side = self.people[index].square
        rows = np.clip(np.arange(top, top + side), 0, height - 1)
        columns = np.clip(np.arange(left, left + side), 0, width - 1)
        return photo[rows[:, None], columns]


def _annotations(root: str) -> str:
    """The path of the .mat file; an error says where it comes from."""
    path = os.path.join(root, ANNOTATIONS)
    origins.need_file(path, origins.MPII)
    return path


def people_of(root: str) -> list[Person]:
    """The people of a folder, without a look at their photos."""
    return read_people(_annotations(root))[0]


def _listed(person: Person) -> photo_files.PhotoFile:
    return photo_files.PhotoFile(person.image, person.image)


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
        if _number(train, f"{path}: img_train({i})") != 1:
            continue  # joints of test images are not published
        where = f"{path}: single_person({i})"
        alone = {int(_number(number, where)) for number in matlab.items(apart)}
        part = _part_of(image, f"{path}: annolist({i})")
        for j, person in _people_of(image):
            place = f"{path}: annolist({i}).annorect({j})"
            name = _image_name(image, place)
            read = _person(name, person, place, apart=j in alone, part=part)
            if read is None:
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


def _part_of(image: Any, place: str) -> str:
    """The part of a training image, by its video."""
    video = matlab.field(image, "vididx")
    if video is None:
        video = matlab.field(matlab.field(image, "image"), "name")
    else:
        video = int(_number(video, f"{place}: vididx"))
    digest = hashlib.sha256(str(video).encode()).digest()
    return PARTS[int.from_bytes(digest) % 10 == 0]


def _image_name(image: Any, place: str) -> str:
    name = matlab.field(matlab.field(image, "image"), "name")
    if not isinstance(name, str) or not name or "/" in name or "\\" in name:
        raise DataError(f"{place}: its image has no file name")
    return name


def _person(image: str, rect: Any, place: str, *, apart: bool, part: str) -> Person | None:
    """One person, or nothing where a part of the annotation is missing."""
    points = matlab.items(getattr(matlab.field(rect, "annopoints"), "point", None))
    position = matlab.field(rect, "objpos")
    fields = [matlab.field(rect, name) for name in ("x1", "y1", "x2", "y2", "scale")]
    fields += [matlab.field(position, name) for name in ("x", "y")]
    if not points or any(field is None for field in fields):
        return None
    x1, y1, x2, y2, scale, x, y = (_number(field, place) for field in fields)
    if scale <= 0 or (x1, y1) == (x2, y2):
        return None
    if scale > _LARGEST_SCALE:
        raise DataError(f"{place}: scale {scale:g}, must be at most {_LARGEST_SCALE:g}")
    joints, visible = _joints(points, place)
    return Person(
        image=image,
        place=place,
        joints=joints,
        visible=visible,
        head=np.array([[x1, y1], [x2, y2]], np.float32) - 1.0,
        center=np.array([x - 1.0, y - 1.0], np.float32),
        scale=scale,
        apart=apart,
        part=part,
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
