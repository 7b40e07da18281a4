"""Draws a standing person seen from the front, whose limbs move at their joints.

The frame of a figure has the middle of its hips at (0, 0); a figure of usual limbs is about 1 high;
y points down. Left and right are those of the image.
"""

from typing import NamedTuple

import numpy as np
from PIL import Image

from benchmarks import drawn_scene
from benchmarks.drawn_pen import Pen, ellipse, pose
from landmarks_jax import geometry

SIDES = ("left", "right")
JOINTS = ("shoulder", "elbow", "wrist", "hip", "knee", "ankle")
POINTS = (
    "neck",
    "pelvis",
    "head",
    *(f"{side}_{joint}" for side in SIDES for joint in JOINTS),
)
SIZE = (160, 200)  # of an image, about


class Look(NamedTuple):
    """Colours `[3]` of a figure, and the cut of its hair and clothes.

    Attributes:
      skin: of face and hands.
      hair: of hair and eyebrows.
      shirt: of the shirt.
      trousers: of the trousers.
      shoes: of shoes and belt.
      second: of stripes.
      stripes: "none", "across" or "along".
      sleeves: whether they are long.
      legs: whether the trousers are long.
      long_hair: whether hair falls to the shoulders.
    """

    skin: np.ndarray
    hair: np.ndarray
    shirt: np.ndarray
    trousers: np.ndarray
    shoes: np.ndarray
    second: np.ndarray
    stripes: str
    sleeves: bool
    legs: bool
    long_hair: bool


class Figure(NamedTuple):
    """The shape of a figure.

    Attributes:
      points: `[15, 2]`, in the order of `POINTS`; `head` is the middle of the face.
      head: radii of the head, across and along.
      tilt: of the head, radians, clockwise.
      weight: half thickness of the limbs, as a factor.
    """

    points: np.ndarray
    head: tuple[float, float]
    tilt: float
    weight: float

    def point(self, name: str) -> np.ndarray:
        """The point `[2]` of a name."""
        return self.points[POINTS.index(name)]


def shape(rng: np.random.Generator) -> Figure:
    """Draws the sizes of a figure and the angles of its joints."""
    sizes = np.exp(rng.normal(0, 1, 8) * (0.09, 0.1, 0.06, 0.06, 0.06, 0.06, 0.06, 0.07))
    shoulders, hips, trunk, upper, fore, thigh, shin, skull = sizes
    lean = np.radians(rng.normal(0, 5))
    up = np.array([np.sin(lean), -np.cos(lean)])
    out = np.array([np.cos(lean), np.sin(lean)])
    neck = 0.31 * trunk * up
    tilt = lean + np.radians(np.clip(rng.normal(0, 8), -20, 20))
    radii = 0.062 * skull, 0.08 * skull
    head = neck + (0.045 + radii[1]) * np.array([np.sin(tilt), -np.cos(tilt)])
    points = [neck, np.zeros(2), head]
    for side in (-1, 1):
        shoulder = neck - 0.025 * up + side * 0.105 * shoulders * out
        arm = np.clip(rng.normal(35, 28), -5, 150)
        elbow = shoulder + 0.165 * upper * _direction(side, arm)
        wrist = elbow + 0.145 * fore * _direction(side, arm + np.clip(rng.normal(8, 20), -50, 60))
        hip = np.array([side * 0.058 * hips, 0.0])
        leg = np.clip(rng.normal(10, 15), -6, 45)
        knee = hip + 0.225 * thigh * _direction(side, leg)
        ankle = knee + 0.21 * shin * _direction(side, leg - np.clip(rng.normal(3, 16), -25, 45))
        points += [shoulder, elbow, wrist, hip, knee, ankle]
    return Figure(np.stack(points), radii, float(tilt), float(np.exp(rng.normal(0, 0.15))))


def _direction(side: int, degrees: float) -> np.ndarray:
    """The unit vector `[2]` at an angle from straight down, positive away from the body."""
    angle = np.radians(degrees)
    return np.array([side * np.sin(angle), np.cos(angle)])


def look(rng: np.random.Generator) -> Look:
    """Draws colours and clothes."""
    tone = rng.uniform(0, 1)
    skin_color = np.array([0.95, 0.78, 0.66]) * (1 - tone) + np.array([0.42, 0.27, 0.18]) * tone
    hair = drawn_scene.color(rng, 0.06, 0.2 if rng.random() < 0.6 else 0.7, 0.05)
    return Look(
        skin_color,
        hair + np.array([0.04, 0, -0.04]),
        drawn_scene.color(rng, 0.2, 0.9, 0.22),
        drawn_scene.color(rng, 0.1, 0.7, 0.14),
        drawn_scene.color(rng, 0.05, 0.6, 0.12),
        drawn_scene.color(rng, 0.1, 0.95, 0.2),
        str(rng.choice(["none", "across", "along"], p=[0.5, 0.3, 0.2])),
        bool(rng.random() < 0.6),
        bool(rng.random() < 0.7),
        bool(rng.random() < 0.4),
    )


def draw(rng: np.random.Generator, size: tuple[int, int]) -> tuple[Image.Image, np.ndarray]:
    """Draws a figure in an image of its own background.

    Returns:
      The image, and the points `[15, 2]` in its pixels.
    """
    figure = shape(rng)
    to_image = pose(rng, size, outline(figure), share=0.85, rotation=6)
    pen = Pen(drawn_scene.backdrop(rng, size), to_image)
    dress(pen, figure, look(rng))
    return pen.finish(), geometry.apply(to_image, figure.points)


def outline(figure: Figure) -> np.ndarray:
    """Points `[n, 2]` around a figure: hands, shoes and hair reach beyond the joints."""
    reach = np.array([[-0.07, -0.11], [0.07, -0.11], [-0.07, 0.05], [0.07, 0.05]])
    return (figure.points[:, None] + reach).reshape(-1, 2)


def dress(pen: Pen, figure: Figure, look: Look) -> None:
    """Draws a figure, from what is behind to what is in front."""
    if look.long_hair:
        back = _ahead(figure, [(0, 0.25)])[0]
        behind = ellipse(back, (1.25 * figure.head[0], 1.35 * figure.head[1]), figure.tilt)
        pen.polygon(behind, 0.8 * look.hair)
    for side in SIDES:
        _draw_leg(pen, figure, look, side)
    _draw_trunk(pen, figure, look)
    for side in SIDES:
        _draw_arm(pen, figure, look, side)
    _draw_head(pen, figure, look)


def _limb(
    pen: Pen, start: np.ndarray, end: np.ndarray, widths: tuple[float, float], color: np.ndarray
) -> None:
    """Draws a part of a limb: round, with a dark edge and light from the left."""
    line = np.linspace(start, end, 5)
    half = np.linspace(*widths, 5)
    pen.ribbon(line, half, 0.62 * color)
    pen.ribbon(line, 0.84 * half, color)
    light = line - 0.3 * half[:, None] * np.array([1.0, 0.2])
    pen.ribbon(light, 0.3 * half, np.clip(1.15 * color + 0.03, 0, 1))


def _crease(pen: Pen, joint: np.ndarray, end: np.ndarray, half: float, color: np.ndarray) -> None:
    """Draws a dark line across a limb at its joint."""
    along = (end - joint) / np.linalg.norm(end - joint)
    across = 0.75 * half * np.array([-along[1], along[0]])
    pen.ribbon(np.stack([joint - across, joint + across]), np.full(2, 0.004), 0.5 * color)


def _draw_leg(pen: Pen, figure: Figure, look: Look, side: str) -> None:
    hip, knee, ankle = (figure.point(f"{side}_{name}") for name in ("hip", "knee", "ankle"))
    w = figure.weight
    lower = look.trousers if look.legs else look.skin
    outward = -1 if side == "left" else 1
    toe = ankle + np.array([0.04 * outward, 0.026])
    _limb(pen, ankle + np.array([0, 0.012]), toe, (0.024, 0.019), look.shoes)
    slim = 1.0 if look.legs else 0.8
    _limb(pen, knee, ankle, (0.037 * w * slim, 0.025 * w * slim), lower)
    _limb(pen, hip, knee, (0.052 * w, 0.041 * w), look.trousers)
    _crease(pen, knee, ankle, 0.039 * w, look.trousers)
    _crease(pen, ankle, knee, 0.026 * w * slim, lower)


def _draw_arm(pen: Pen, figure: Figure, look: Look, side: str) -> None:
    shoulder, elbow, wrist = (figure.point(f"{side}_{n}") for n in ("shoulder", "elbow", "wrist"))
    w = figure.weight
    lower = look.shirt if look.sleeves else look.skin
    along = (wrist - elbow) / np.linalg.norm(wrist - elbow)
    outward = -1 if side == "left" else 1
    thumb = outward * -0.022 * np.array([along[1], -along[0]])
    palm = wrist + 0.032 * along
    _limb(pen, wrist, wrist + 0.02 * along + thumb, (0.012, 0.008), look.skin)
    _limb(pen, wrist + 0.008 * along, palm, (0.018, 0.02), look.skin)
    slim = 1.0 if look.sleeves else 0.8
    _limb(pen, elbow, wrist, (0.029 * w * slim, 0.021 * w * slim), lower)
    _limb(pen, shoulder, elbow, (0.036 * w, 0.031 * w), look.shirt)
    _crease(pen, elbow, wrist, 0.03 * w, look.shirt)
    _crease(pen, wrist, elbow, 0.022 * w * slim, lower)


def _draw_trunk(pen: Pen, figure: Figure, look: Look) -> None:
    """Draws neck, shirt with stripes, hips, belt and its buckle at the pelvis."""
    neck, pelvis = figure.point("neck"), figure.point("pelvis")
    sides = [figure.point(f"{side}_{name}") for name in ("shoulder", "hip") for side in SIDES]
    left, right, left_hip, right_hip = sides
    w = figure.weight
    out = (right - left) / np.linalg.norm(right - left)
    _limb(pen, neck + (pelvis - neck) * 0.05, figure.point("head"), (0.03, 0.028), look.skin)
    _limb(pen, left_hip, right_hip, (0.055 * w, 0.055 * w), look.trousers)
    waist = 0.25 * neck + 0.75 * pelvis
    half = 0.5 * np.linalg.norm(right_hip - left_hip) + 0.035 * w
    collar, top, sleeve = 0.03 * out, np.array([0, -0.03]), 0.025 * w * out
    belt = np.stack([left_hip - np.array([0.045 * w, 0]), right_hip + np.array([0.045 * w, 0])])
    shirt = np.stack(
        [
            neck - collar, left + top, left - sleeve, waist - half * out, belt[0],
            belt[1], waist + half * out, right + sleeve, right + top, neck + collar,
        ]
    )  # fmt: skip
    pen.polygon(shirt, 0.62 * look.shirt)
    middle = shirt.mean(0)
    inside = middle + 0.93 * (shirt - middle)
    pen.polygon(inside, look.shirt)
    _draw_stripes(pen, look, inside)
    pen.polygon(ellipse(neck, (0.032, 0.024)), look.skin)
    pen.ribbon(belt, np.full(2, 0.012), 0.7 * look.shoes)
    pen.polygon(ellipse(pelvis, (0.014, 0.012)), np.array([0.85, 0.78, 0.5]))


def _draw_stripes(pen: Pen, look: Look, inside: np.ndarray) -> None:
    """Draws stripes from side to side of a shirt's outline `[10, 2]`, which begins at the neck."""
    left, right = inside[[1, 2, 3, 4]], inside[[8, 7, 6, 5]]
    shares = np.linspace(0.1, 0.9, 6)
    at = np.linspace(0, 1, 4)
    for share in shares if look.stripes != "none" else ():
        if look.stripes == "across":
            line = np.stack(
                [[np.interp(share, at, edge[:, k]) for k in (0, 1)] for edge in (left, right)]
            )
        else:
            line = (left + share * (right - left))[[0, 2, 3]]
        pen.ribbon(line, np.full(len(line), 0.009), look.second)


def _ahead(figure: Figure, places: list[tuple[float, float]]) -> np.ndarray:
    """Places of the head, in its radii from its middle, in the figure's frame: `[n, 2]`."""
    affine = geometry.similarity(np.array(figure.tilt), np.array(1.0), figure.point("head"))
    return geometry.apply(affine, np.array(places) * figure.head)


def _draw_head(pen: Pen, figure: Figure, look: Look) -> None:
    """Draws face, ears, eyes, brows, nose, mouth and hair."""
    across, along = figure.head
    tilt, middle = figure.tilt, figure.point("head")
    for ear in _ahead(figure, [(-1, 0.05), (1, 0.05)]):
        pen.polygon(ellipse(ear, (0.18 * across, 0.2 * along), tilt), 0.85 * look.skin)
    crown = _ahead(figure, [(0, -0.15)])[0]
    pen.polygon(ellipse(crown, (1.08 * across, along), tilt), look.hair)
    pen.polygon(ellipse(middle, (across, along), tilt), 0.7 * look.skin)
    pen.polygon(ellipse(middle, (0.94 * across, 0.95 * along), tilt), look.skin)
    t = np.linspace(np.pi * 1.04, np.pi * 1.96, 12)
    cap = [*zip(1.03 * np.cos(t), 1.03 * np.sin(t), strict=True), (0.75, -0.5), (-0.55, -0.55)]
    pen.polygon(_ahead(figure, cap), look.hair)
    dark = np.array([0.08, 0.06, 0.06])
    for side in (-1, 1):
        eye = _ahead(figure, [(0.38 * side, -0.08)])[0]
        pen.polygon(ellipse(eye, (0.2 * across, 0.11 * along), tilt), np.array([0.95, 0.95, 0.95]))
        pen.polygon(ellipse(eye, (0.1 * across, 0.1 * along), tilt), dark)
        brow = _ahead(figure, [(0.2 * side, -0.3), (0.58 * side, -0.27)])
        pen.ribbon(brow, np.full(2, 0.04 * along), 0.8 * look.hair)
    pen.ribbon(_ahead(figure, [(0, -0.05), (0.06, 0.24)]), np.full(2, 0.003), 0.7 * look.skin)
    mouth = _ahead(figure, [(-0.3, 0.52), (0, 0.58), (0.3, 0.52)])
    pen.ribbon(mouth, np.full(3, 0.05 * along), np.array([0.62, 0.25, 0.25]))
