"""MPII Human Pose (Andriluka et al., CVPR 2014): people with up to 16 joints each, for pretraining.

The official .mat file holds a struct `RELEASE`: for image i `annolist(i).image.name`, its people
`annolist(i).annorect`, `img_train(i)` and `single_person{i}`, the numbers of the people that stand
well apart from others. A person has the head's box `x1 y1 x2 y2`, a rough centre `objpos.x`,
`objpos.y`, `scale`, the person's height over 200 pixels, and joints `annopoints.point` with `x`,
`y` and `id`. Pixels count from 1 there and from 0 here. `annolist(i).vididx` is the number of the
video that the image is a frame of; some images have none.

A photo shows one person: the square of 375 times `scale` about the rough centre, shifted down by 15
times `scale` so that feet stay inside (Newell et al. 2016 use its middle 250). With canvases of 1.5
times the view, the view shows that middle, and rotated or shrunken views still lie in the photo.

The joints of test images are not published, so some training images are for validation: the frames
of about every tenth video, chosen by the SHA-256 of the video's number, or of the image's name if
it has no video. All frames of one video are in the same split.

Joints, by number: right ankle, knee, hip, left hip, knee, ankle, pelvis, thorax, upper neck, top of
the head, right wrist, elbow, shoulder, left shoulder, elbow, wrist; right is the person's own.
"""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from landmarks_jax.data import lists, photo_files
from landmarks_jax.data.sources import matlab, photos
from landmarks_jax.system.errors import DataError

ORIGIN = (
    "MPII Human Pose (http://human-pose.mpi-inf.mpg.de): mpii_human_pose_v1.tar.gz unpacked as "
    "images/000001163.jpg and on, and mpii_human_pose_v1_u12_1.mat of "
    "mpii_human_pose_v1_u12_2.zip beside that folder"
)
FOLDER = "images"
ANNOTATIONS = "mpii_human_pose_v1_u12_1.mat"
NUM_JOINTS = 16
# Joints, then two opposite corners of the head's box.
NUM_POINTS = NUM_JOINTS + 2
# Of PCKh: the unit of errors is this share of the head box's diagonal, as in MPII's own tool.
HEAD_SHARE = 0.6
# Of PCKh@0.5: a joint is found within this many units of its annotation.
FOUND_WITHIN = 0.5
SPLITS = ("train", "validation")
# In pixels per unit of scale: the side of a person's square, and its shift down.
_SQUARE = 375.0
_SHIFT_DOWN = 15.0
# A larger scale is an error in the file; the square of such a person would not fit in memory.
_LARGEST_SCALE = 50.0


@dataclasses.dataclass(frozen=True)
class Person:
    """One person of a training image.

    Attributes:
      image: the photo's file name.
      place: file and position of the annotation, for messages.
      joints: `[16, 2]` in pixels, NaN for a joint without annotation.
      head: `[2, 2]` two opposite corners of the head's box, in pixels.
      center: `[2]`, the rough centre, in pixels.
      scale: the person's height over 200 pixels.
      apart: whether nobody else stands near.
      split: "train" or "validation".
    """

    image: str
    place: str
    joints: np.ndarray
    head: np.ndarray
    center: np.ndarray
    scale: float
    apart: bool
    split: str

    @property
    def square(self) -> tuple[int, int, int]:
        """Left, top and side of the square that the person's photo shows, in whole pixel edges."""
        side = max(round(_SQUARE * self.scale), 1)
        x, y = self.center + 0.5 + np.array([0.0, _SHIFT_DOWN * self.scale]) - side / 2
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

    def __init__(self, root: str, split: str = "all", exclude: Sequence[str] = ()) -> None:
        """Reads the annotations and finds the photos.

        Args:
          root: the folder of `images` and `mpii_human_pose_v1_u12_1.mat`.
          split: "all", "train" or "validation".
          exclude: lists of photos to leave out.

        Raises:
          ConfigError: there is no such split.
          DataError: a file is missing or malformed, or the split is empty.
        """
        splits = photos.select_splits(split, SPLITS)
        everyone, note = read_people(_annotations(root))
        photos.need_folder(os.path.join(root, FOLDER), ORIGIN)
        listed = [person for person in everyone if person.split in splits]
        if not listed:
            raise DataError(f"{root}: none of the {len(everyone):,} people is in split {split!r}")
        images = [photo_files.PhotoFile(person.image, person.image) for person in listed]
        kept, excluded = lists.leave_out(images, exclude)
        self.people = [listed[i] for i in kept]
        entries = [(person.place, f"{FOLDER}/{person.image}") for person in self.people]
        files = lists.locate(entries, [root])
        sizes = lists.check_labelled(files, root)
        in_photo = np.stack([np.concatenate([p.joints, p.head]) for p in self.people])
        lists.check_points(in_photo, sizes, [person.place for person in self.people], missing=())
        chosen = "" if split == "all" else f" ({split})"
        summary = photos.one_line(f"{len(files):,} people of {root}{chosen}", excluded, note)
        super().__init__(files, np.stack([person.points for person in self.people]), summary)

    def photo(self, index: int) -> np.ndarray:
        """The person's square, `[S, S, 3]` uint8 RGB; beyond the photo its replicated border."""
        photo = super().photo(index)
        height, width = photo.shape[:2]
        left, top, side = self.people[index].square
        rows = np.clip(np.arange(top, top + side), 0, height - 1)
        columns = np.clip(np.arange(left, left + side), 0, width - 1)
        return photo[rows[:, None], columns]


def open_config(data: Any) -> MpiiPeople:
    """Opens the photos of `config.data`."""
    (root,) = photos.roots_of(data, "the folder of images")
    return MpiiPeople(root, data.split, tuple(data.exclude))


def _annotations(root: str) -> str:
    path = os.path.join(root, ANNOTATIONS)
    photos.need_file(path, ORIGIN)
    return path


def people_of(root: str) -> list[Person]:
    """The people of a folder, without reading their photos."""
    return read_people(_annotations(root))[0]


def read_people(path: str) -> tuple[list[Person], str]:
    """Reads the people of training images that have joints, head box, centre and scale.

    Returns:
      The people, and a note of how many were left out ("" for none).

    Raises:
      DataError: the file cannot be read or has another structure.
    """
    structs = matlab.items(matlab.read(path, ("RELEASE",))["RELEASE"])
    release = structs[0] if len(structs) == 1 else None
    columns = {}
    for name in ("annolist", "img_train", "single_person"):
        if not hasattr(release, name):
            raise DataError(f"{path}: RELEASE has no field {name!r}")
        columns[name] = matlab.items(getattr(release, name))
    counts = {name: len(column) for name, column in columns.items()}
    if len(set(counts.values())) != 1:
        lengths = ", ".join(f"{count:,} of {name}" for name, count in counts.items())
        raise DataError(f"{path}: the fields of RELEASE differ in length: {lengths}")
    people: list[Person] = []
    incomplete = 0
    for i, (image, train, apart) in enumerate(zip(*columns.values(), strict=True), 1):
        if _number(train, f"{path}: img_train({i})") != 1:
            continue  # joints of test images are not published
        where = f"{path}: single_person({i})"
        alone = {int(_number(number, where)) for number in matlab.items(apart)}
        split = _split_of(image, f"{path}: annolist({i})")
        for j, rect in enumerate(matlab.items(getattr(image, "annorect", None)), 1):
            place = f"{path}: annolist({i}).annorect({j})"
            name = _image_name(image, place)
            person = _person(name, rect, place, apart=j in alone, split=split)
            if person is None:
                incomplete += 1
            else:
                people.append(person)
    if not people:
        raise DataError(f"{path}: no training image has a person with joints")
    note = f"{incomplete:,} without joints, head, centre or scale left out" if incomplete else ""
    return people, note


def _split_of(image: Any, place: str) -> str:
    video = matlab.field(image, "vididx")
    if video is None:
        video = matlab.field(matlab.field(image, "image"), "name")
    else:
        video = int(_number(video, f"{place}: vididx"))
    digest = hashlib.sha256(str(video).encode()).digest()
    return SPLITS[int.from_bytes(digest) % 10 == 0]


def _image_name(image: Any, place: str) -> str:
    name = matlab.field(matlab.field(image, "image"), "name")
    if not isinstance(name, str) or not name or "/" in name or "\\" in name:
        raise DataError(f"{place}: its image has no file name")
    return name


def _person(image: str, rect: Any, place: str, *, apart: bool, split: str) -> Person | None:
    """One person, or None if the annotation is incomplete."""
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
    return Person(
        image=image,
        place=place,
        joints=_joints(points, place),
        head=np.array([[x1, y1], [x2, y2]], np.float32) - 1.0,
        center=np.array([x - 1.0, y - 1.0], np.float32),
        scale=scale,
        apart=apart,
        split=split,
    )


def _joints(points: Sequence[Any], place: str) -> np.ndarray:
    """The joints `[16, 2]`, NaN without annotation."""
    joints = np.full((NUM_JOINTS, 2), np.nan, np.float32)
    for point in points:
        number = _number(matlab.field(point, "id"), f"{place}: a joint's id")
        if number not in range(NUM_JOINTS):
            raise DataError(f"{place}: joint {number:g}, must be from 0 to {NUM_JOINTS - 1}")
        joint = int(number)
        where = f"{place}: joint {joint}"
        if not np.isnan(joints[joint, 0]):
            raise DataError(f"{where} is annotated twice")
        joints[joint] = [_number(matlab.field(point, axis), where) - 1.0 for axis in "xy"]
    return joints


def _number(value: Any, place: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise DataError(f"{place}: {value} is not a number")
    return number
