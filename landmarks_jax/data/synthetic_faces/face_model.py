"""The model of a synthetic face: its random properties and its landmarks.

A head is a unit sphere, stretched. A point `(X, Y)` on its front names a place of the face, the
same for every head (X to the right of the image, Y down, the middle of the head at 0). The sphere
is rotated by yaw and pitch, projected orthographically onto the image, stretched to the head's
width and height in *head units* (about the half height of a head), and placed by a similarity map.
Every step has an inverse, so pixels can ask which place of the face they show.
"""

import dataclasses
import itertools
import math
from typing import Any

import numpy as np

from landmarks_jax import geometry

# Share of a rotated face's sideways motion that the camera follows.
FRAMING = 0.7
# The Y of the rotated sphere below which the jaw narrows no further.
JAW_END = 1.2
# Half depth of every head, from front to back; head units.
HALF_DEPTH = 0.81

SKINS = np.array(
    [[0.98, 0.84, 0.76], [0.94, 0.76, 0.64], [0.85, 0.64, 0.49], [0.68, 0.47, 0.34],
     [0.50, 0.33, 0.24], [0.36, 0.23, 0.18]], np.float32)  # fmt: skip
HAIRS = np.array(
    [[0.09, 0.08, 0.09], [0.20, 0.13, 0.10], [0.36, 0.22, 0.13], [0.50, 0.22, 0.11],
     [0.80, 0.63, 0.36], [0.90, 0.80, 0.58], [0.62, 0.60, 0.60], [0.30, 0.24, 0.42]],
    np.float32)  # fmt: skip
HAIR_SHARES = (0.24, 0.24, 0.18, 0.08, 0.11, 0.06, 0.06, 0.03)
IRISES = np.array(
    [[0.24, 0.14, 0.07], [0.36, 0.22, 0.10], [0.30, 0.40, 0.22], [0.26, 0.45, 0.62],
     [0.42, 0.48, 0.52]], np.float32)  # fmt: skip
HAIR_STYLES = ("bald", "short", "swept", "fringe", "long", "curly", "bun", "beanie")
HAIR_STYLE_SHARES = (0.05, 0.18, 0.16, 0.12, 0.24, 0.11, 0.08, 0.06)
OCCLUSIONS = ("none", "patch", "hand", "microphone", "strand", "cup")
OCCLUSION_SHARES = (0.76, 0.05, 0.06, 0.05, 0.05, 0.03)


@dataclasses.dataclass(frozen=True)
class Face:
    """Everything that is random about one image.

    Angles are radians, colours `[3]` RGB in [0, 1]; X and Y are places of the face, see above.
    """

    shift: np.ndarray  # [2] middle of the head, before the camera follows a rotation; normalised
    scale: float  # head units to normalised coordinates
    roll: float  # positive: clockwise on a screen
    yaw: float  # positive: looks to the right of the image
    pitch: float  # positive: looks down

    width: float  # half width of the head, head units
    height: float  # half height of the head, head units
    jaw: float  # share of the width that is lost at the chin; negative: a square jaw
    skin: np.ndarray
    blush: float  # redness of the cheeks, 0 to 1
    eye_x: float  # X of the right eye; the left one is at -eye_x
    eye_y: float  # Y of both
    eye_width: float  # half width, head units
    eye_height: float  # half height of the open eye, head units
    eye_slant: float  # rise of the outer corner per head unit
    iris: np.ndarray
    brow_lift: float  # height above the eye, head units: identity and expression
    brow_tilt: float  # rise of the outer end per head unit
    brow_weight: float  # half thickness, head units
    nose_y: float  # Y of the tip
    nose_bump: float  # how far the tip stands out of the sphere, in its radii
    nose_width: float  # half width at the wings, head units
    mouth_y: float  # Y of the middle of the mouth
    mouth_x: float  # X of the right corner; the left one is at -mouth_x
    lip_weight: float  # thickness of the lower lip, head units
    lip: np.ndarray
    hair_style: str  # one of HAIR_STYLES
    hair: np.ndarray
    hair_volume: float  # radius of the hair, in radii of the head
    hair_line: float  # Y where it begins, above the nose
    hair_part: float  # X of the parting
    beard: str  # "none", "stubble", "full", "goatee", "moustache"
    glasses: str  # "none", "clear", "dark"
    glasses_round: float  # 0: square lenses, 1: round ones

    smile: float  # -1 to 1: lift of the corners of the mouth
    mouth_open: float  # half height of the opening, head units
    blink: float  # 0: open eyes, 1: closed
    gaze: np.ndarray  # [2] shift of the irises, in half widths of the eye

    light: np.ndarray  # [3] unit vector to the lamp: x right, y down, z to the viewer
    ambient: float  # light in the shadow, 0 to 1
    cast: np.ndarray  # [3] factors of the colours of the image
    contrast: float  # factor about middle grey
    gradient: np.ndarray  # [2] change of brightness per normalised unit

    clothes: np.ndarray  # [2, 3] colours of cloth and collar
    backdrop: np.ndarray  # [3, 3] colours of the background
    clutter: np.ndarray  # [6, 8] uniform numbers: shapes in the background
    phases: np.ndarray  # [8] of waves in hair, beard and stripes
    occlusion: str  # one of OCCLUSIONS
    cover: np.ndarray  # [6] uniform numbers: place, size, direction and colour of the occlusion


def sample(seed: int, index: int) -> Face:
    """The face number `index` of the stream `seed`: the same on every machine, in any order."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, index], np.uint64)))
    return Face(
        **_pose(rng), **_features(rng), **_hair(rng), **_expression(rng), **_light(rng),
        **_scene(rng),
    )  # fmt: skip


def _bounded(rng: np.random.Generator, spread: float, bound: float) -> float:
    """A normal number of standard deviation `spread`, clipped to `bound` on both sides."""
    return float(np.clip(rng.normal(0, spread), -bound, bound))


def _pick(rng: np.random.Generator, options: Any, shares: tuple[float, ...]) -> Any:
    """One of a sequence of options, each with its share of the faces."""
    limits = itertools.accumulate(shares)
    place = rng.random()
    return next(
        (name for name, limit in zip(options, limits, strict=True) if place < limit), options[-1]
    )


def _sign(rng: np.random.Generator) -> float:
    """Either side, 1 or -1."""
    return 1.0 if rng.random() < 0.5 else -1.0


def _pose(rng: np.random.Generator) -> dict[str, Any]:
    # As loosely placed as AFLW's faces in MTFL: the mean shape errs by 24 % of the eye distance.
    return {
        "shift": np.array([_bounded(rng, 0.07, 0.14), _bounded(rng, 0.06, 0.12) - 0.05]),
        "scale": 0.67 + _bounded(rng, 0.035, 0.06),
        "roll": _bounded(rng, 0.17, 0.38),
        "yaw": _bounded(rng, 0.33, 0.68),
        "pitch": _bounded(rng, 0.12, 0.22),
    }


def _features(rng: np.random.Generator) -> dict[str, Any]:
    tone = rng.beta(0.9, 1.6) * (len(SKINS) - 1)
    low = min(int(tone), len(SKINS) - 2)
    skin = SKINS[low] + (tone - low) * (SKINS[low + 1] - SKINS[low])
    skin = np.clip(skin * rng.uniform(0.96, 1.04, 3), 0, 1).astype(np.float32)
    lip = skin * np.array([0.88, 0.58, 0.58]) + np.array([0.06, 0.0, 0.01])
    lipstick = np.array([0.78, 0.10, 0.20]) * rng.uniform(0.7, 1.1, 3)
    painted = rng.uniform(0.3, 0.7) if rng.random() < 0.33 else 0.0
    return {
        "width": rng.uniform(0.74, 0.83),
        "height": rng.uniform(1.04, 1.16),
        "jaw": rng.uniform(-0.12, 0.20),
        "skin": skin,
        "blush": rng.uniform(0, 1),
        "eye_x": rng.uniform(0.415, 0.48),
        "eye_y": rng.uniform(-0.07, 0.03),
        "eye_width": rng.uniform(0.165, 0.195),
        "eye_height": rng.uniform(0.070, 0.102),
        "eye_slant": rng.uniform(-0.08, 0.22),
        "iris": IRISES[rng.integers(len(IRISES))] * np.float32(rng.uniform(0.8, 1.2)),
        "brow_lift": rng.uniform(0.19, 0.27),
        "brow_tilt": rng.uniform(-0.12, 0.22),
        "brow_weight": rng.uniform(0.018, 0.042),
        "nose_y": rng.uniform(0.22, 0.31),
        "nose_bump": rng.uniform(0.16, 0.30),
        "nose_width": rng.uniform(0.10, 0.155),
        "mouth_y": rng.uniform(0.54, 0.62),
        "mouth_x": rng.uniform(0.26, 0.34),
        "lip_weight": rng.uniform(0.045, 0.085),
        "lip": (lip + painted * (lipstick - lip)).astype(np.float32),
    }


def _hair(rng: np.random.Generator) -> dict[str, Any]:
    style = _pick(rng, HAIR_STYLES, HAIR_STYLE_SHARES)
    volume = {"bald": 1.0, "short": 1.06, "curly": 1.24, "beanie": 1.13}.get(style, 1.11)
    line = {"fringe": -0.30, "swept": -0.46, "beanie": -0.42}.get(style, -0.52)
    color = _pick(rng, HAIRS, HAIR_SHARES)
    beards = ("none", "stubble", "full", "goatee", "moustache")
    bearded = style not in ("long", "bun", "fringe")
    return {
        "hair_style": style,
        "hair": np.clip(color * rng.uniform(0.85, 1.15), 0, 1).astype(np.float32),
        "hair_volume": volume + rng.uniform(-0.03, 0.05) * (style != "bald"),
        "hair_line": line + rng.uniform(-0.07, 0.07),
        "hair_part": _sign(rng) * rng.uniform(0.05, 0.4),
        "beard": _pick(rng, beards, (0.5, 0.18, 0.16, 0.08, 0.08)) if bearded else "none",
        "glasses": _pick(rng, ("none", "clear", "dark"), (0.82, 0.15, 0.03)),
        "glasses_round": rng.uniform(0, 1),
    }


def _expression(rng: np.random.Generator) -> dict[str, Any]:
    talks = rng.random() < 0.4
    return {
        "smile": float(np.clip(rng.normal(0.35, 0.45), -0.7, 1.0)),
        "mouth_open": rng.uniform(0.02, 0.12) if talks else 0.0,
        "blink": 1.0 if rng.random() < 0.05 else rng.uniform(0, 0.3),
        "gaze": (rng.uniform(-1, 1, 2) * np.array([0.2, 0.08])).astype(np.float32),
    }


def _light(rng: np.random.Generator) -> dict[str, Any]:
    warmth = rng.normal(0, 0.04) * np.array([1, 0.1, -1])  # from bluish to yellowish
    light = np.array([rng.uniform(-0.75, 0.75), rng.uniform(-0.7, -0.1), 1.0])
    return {
        "light": (light / np.linalg.norm(light)).astype(np.float32),
        "ambient": rng.uniform(0.32, 0.62),
        "cast": (1 + warmth + rng.normal(0, 0.02, 3)).clip(0.88, 1.12).astype(np.float32),
        "contrast": rng.uniform(0.9, 1.12),
        "gradient": rng.uniform(-0.14, 0.14, 2).astype(np.float32),
    }


def _scene(rng: np.random.Generator) -> dict[str, Any]:
    colors = rng.uniform(0.1, 0.9) + rng.normal(0, 0.11, 3) + rng.uniform(-0.18, 0.18, (3, 3))
    cloth = rng.uniform(0.05, 0.9, (2, 3))
    cloth += 0.45 * (cloth.mean(-1, keepdims=True) - cloth)
    return {
        "clothes": cloth.astype(np.float32),
        "backdrop": colors.clip(0.04, 0.96).astype(np.float32),
        "clutter": rng.random((6, 8), np.float32),
        "phases": (2 * np.pi * rng.random(8, np.float32)).astype(np.float32),
        "occlusion": _pick(rng, OCCLUSIONS, OCCLUSION_SHARES),
        "cover": rng.random(6, np.float32),
    }


class Head:
    """The geometry of one head: from places of the face to the image, and back."""

    def __init__(self, face: Face):
        self.face = face
        cos, sin = math.cos(face.yaw), math.sin(face.yaw)
        up, down = math.cos(face.pitch), math.sin(face.pitch)
        width = math.hypot(face.width * cos, HALF_DEPTH * sin)
        self.radii = np.array([width, face.height], np.float32)
        yaw = np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]])
        pitch = np.array([[1, 0, 0], [0, up, down], [0, -down, up]])
        self.rotation = (pitch @ yaw).astype(np.float32)
        middle = np.array([0, 0.2])
        drift = self.flat(self.surface(*middle)) - middle * [face.width, face.height]
        linear = geometry.similarity(face.roll, face.scale, np.zeros(2))
        self.to_image = geometry.similarity(
            face.roll, face.scale, face.shift - FRAMING * geometry.apply(linear, drift[None])[0]
        )
        self.from_image = geometry.invert(self.to_image).astype(np.float32)

    def surface(self, x: float, y: float, lift: float = 0.0) -> np.ndarray:
        """The place `(x, y)` of the face as a point `[3]`, `lift` radii above the sphere."""
        return (1 + lift) * np.array([x, y, math.sqrt(max(0.0, 1 - x * x - y * y))])

    def flat(self, point: np.ndarray) -> np.ndarray:
        """Projects a point `[3]` of the unrotated head to head units `[2]`."""
        x, y = self.rotation[:2] @ point
        y = float(y)
        taper = 1 - self.face.jaw * min(max(y, 0), JAW_END) ** 2
        return np.array([x * self.radii[0] * taper, y * self.radii[1]])

    def project(self, point: np.ndarray) -> np.ndarray:
        """Projects a point `[3]` of the unrotated head to normalised coordinates `[2]`."""
        return self.to_image[:, :2] @ self.flat(point) + self.to_image[:, 2]

    def landmarks(self) -> np.ndarray:
        """`[5, 2]` eyes, tip of the nose, corners of the mouth; normalised coordinates."""
        face = self.face
        corner_y = face.mouth_y - corner_lift(face)
        places = [
            self.surface(-face.eye_x, face.eye_y),
            self.surface(face.eye_x, face.eye_y),
            self.surface(0, face.nose_y, face.nose_bump),
            self.surface(-corner_x(face), corner_y),
            self.surface(corner_x(face), corner_y),
        ]
        return np.stack([self.project(place) for place in places])


def corner_x(face: Face) -> float:
    """X of the right corner of the mouth: a smile widens it, an open mouth narrows it."""
    return face.mouth_x * (1 + 0.16 * face.smile - 0.9 * face.mouth_open)


def corner_lift(face: Face) -> float:
    """How far the corners of the mouth lie above its middle, in Y."""
    return 0.065 * face.smile
