"""Draws the hair of a synthetic face: behind the neck, on the head, and the beard."""

import math

import numpy as np

from landmarks_jax.data.synthetic_faces.canvas import box, ellipse, fill, smoothstep
from landmarks_jax.data.synthetic_faces.face_model import Face
from landmarks_jax.data.synthetic_faces.portrait import Portrait


def hair_color(face: Face, tone: np.ndarray) -> np.ndarray:
    """Hair `[3, h, w]` under a light `tone` `[h, w]`."""
    return face.hair[:, None, None] * tone + 0.10 * np.square(np.maximum(tone - 0.55, 0))


def draw_hair_behind(portrait: Portrait) -> None:
    """Draws long hair that falls behind the neck, and a bun on top of the head."""
    face, pixel, width = portrait.face, portrait.pixel, portrait.head.radii[0]
    u, v = portrait.u, portrait.v
    if face.hair_style == "bun":
        top = -face.height * face.hair_volume
        outline = ellipse(u - 0.3 * math.sin(face.yaw), v - top, 0.30, 0.26)
        tone = 0.9 + 0.15 * np.sin(20 * u + 8 * v) - 1.5 * (v - top)
        portrait.canvas.paint(portrait.canvas.whole, fill(outline, pixel), hair_color(face, tone))
    elif face.hair_style == "long":
        center = portrait.head.to_image[:, 2].astype(np.float32)
        u = (portrait.canvas.x - center[0]) * (1 / face.scale)  # it hangs straight down
        v = (portrait.canvas.y - center[1]) * (1 / face.scale)
        u = u + (0.25 * math.sin(face.yaw) + 0.03 * np.sin(4 * v + face.phases[3]))
        length = 0.85 + 0.13 * face.phases[2]
        flare = 1 + 0.10 * v
        half = float(width) * (face.hair_volume + 0.10)
        outline = box(u / flare, v - length + 0.55, half, length, 0.7 * half)
        strands = np.sin(16 * u + 2 * np.sin(3 * v) + face.phases[4])
        tone = 0.62 + 0.14 * strands + 0.15 * face.light[0] * u
        tone = tone - 0.25 * smoothstep(0.75, 0.35, np.abs(u))
        portrait.canvas.paint(portrait.canvas.whole, fill(outline, 0.05), hair_color(face, tone))


def hair_distance(face: Face, x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The distance to the hair's edge, negative under it, at points of the unrotated sphere."""
    bottoms = {"long": 0.85, "short": 0.02, "beanie": -0.25, "bun": 0.05, "curly": 0.25}
    bottom = bottoms.get(face.hair_style, 0.15) + 0.4 * smoothstep(0.0, -0.4, z)
    aside = x - np.float32(face.hair_part)
    edge = np.float32(face.hair_line) + 0.25 * np.square(x)
    if face.hair_style == "swept":
        edge = edge + 0.25 * aside * np.float32(-np.sign(face.hair_part))
    elif face.hair_style == "fringe":
        edge = edge + 0.025 * np.sin(19 * x + face.phases[5])
    elif face.hair_style in ("long", "bun"):
        edge = edge - 0.16 + 0.55 * np.minimum(np.abs(aside), 0.6)
    elif face.hair_style == "short":
        edge = edge - 0.09 * np.square(np.sin(4 * x))
    if face.hair_style == "long":
        side = smoothstep(0.78, 0.54, z + 0.7 * np.maximum(y, 0))
    else:
        side = smoothstep(0.57, 0.33, z)
    drop = bottom - edge
    steepness = 4 * 6 * side * (1 - side) * drop  # a soft edge must not harden where it plunges
    return (y - edge - drop * side) / (1 + np.maximum(steepness, 0))


def draw_hair(portrait: Portrait) -> None:
    """Draws the hair on the head as a shell around it, or a beanie."""
    face, pixel = portrait.face, portrait.pixel
    if face.hair_style == "bald":
        return
    x, y, z, rim = portrait.x, portrait.y, portrait.z, portrait.rim
    edge = hair_distance(face, x, y, z)
    if face.hair_style == "curly":
        waves = np.sin(11 * x + face.phases[4]) * np.sin(9 * y + 5 * z + face.phases[5])
        rim = rim + 0.045 * waves
    rise = 1 + (face.hair_volume - 1) * smoothstep(
        0.02, -0.30, edge
    )  # it lies flat where it begins
    inside = fill((rim - rise) * portrait.head.radii[0], max(pixel, 0.03))
    covered = inside * fill(edge * face.height, max(pixel, 0.05))
    shadow = inside * fill(edge - 0.05, 0.12) * portrait.skin
    portrait.canvas.paint(portrait.canvas.whole, 0.30 * shadow, 0.3 * face.skin)
    tone = 0.45 + 0.50 * portrait.lit
    ridges = np.minimum(3 * portrait.normal[2], 1)  # too fine to draw towards the outline
    if face.hair_style == "beanie":
        tone += ridges * 0.07 * np.sin(26 * np.arctan2(x, z))
        tone -= 0.2 * fill(np.abs(edge + 0.30) - 0.01, 0.04)
        color = face.clothes[1][:, None, None] * tone
    elif face.hair_style == "curly":
        wave = 13 * x + 2.2 * np.sin(8 * y + face.phases[6])
        tone += 0.15 * np.sin(wave) * np.sin(13 * y + 2.2 * np.sin(7 * x + face.phases[7]))
        color = hair_color(face, tone)
    else:
        angle = np.arctan2(x - np.float32(0.5 * face.hair_part), z + 0.3)
        strands = 0.10 * np.sin(15 * angle + face.phases[6]) + 0.07 * np.sin(31 * angle + 3 * y)
        tone += ridges * strands
        tone += 0.35 * np.square(np.maximum(1 - np.square((portrait.normal[1] + 0.62) * 5), 0))
        color = hair_color(face, tone)
    portrait.canvas.paint(portrait.canvas.whole, covered, color)


def draw_beard(portrait: Portrait) -> None:
    """Draws stubble, a full beard, a goatee or a moustache."""
    face = portrait.face
    if face.beard == "none":
        return
    window = portrait.around(portrait.head.surface(0, 0.6), 1.1)
    x, y = portrait.x[window], portrait.y[window]
    u, v = portrait.near(window, 0, face.mouth_y)
    aside = np.abs(x)
    jaw = smoothstep(-0.04, 0.16, y - 0.50 + 1.3 * np.maximum(aside - 0.42, 0))
    lip = fill(ellipse(u, v + 0.13 - 0.5 * np.square(u), 0.30, 0.065), 0.05)
    chin = fill(ellipse(u, v - 0.26, 0.22, 0.22), 0.08)
    hair = {
        "stubble": 0.42 * np.maximum(jaw, lip),
        "full": 0.92 * np.maximum(jaw, lip),
        "goatee": 0.88 * np.maximum(chin, lip),
        "moustache": 0.92 * lip,
    }[face.beard]
    mouth = fill(ellipse(u, v - face.mouth_open, 0.24, 0.08 + face.mouth_open), 0.05)
    curls = 0.9 + 0.1 * np.sin(23 * x + 3 * np.sin(9 * y) + face.phases[0]) * np.sin(17 * y)
    color = face.hair[:, None, None] * (curls * (0.45 + 0.6 * portrait.tone[window]))
    portrait.paint(window, hair * (1 - 0.85 * mouth), color)
