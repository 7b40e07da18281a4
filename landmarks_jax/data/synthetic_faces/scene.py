"""Draws what surrounds a synthetic face: background, shoulders, occlusions, light."""

import math

import numpy as np

from landmarks_jax import geometry
from landmarks_jax.data.synthetic_faces.canvas import (
    Canvas,
    blob,
    box,
    capsule,
    clamp,
    ellipse,
    fill,
    smoothstep,
)
from landmarks_jax.data.synthetic_faces.face_model import Face, Head
from landmarks_jax.data.synthetic_faces.face_parts import draw_face
from landmarks_jax.data.synthetic_faces.hair import draw_hair, draw_hair_behind, hair_color
from landmarks_jax.data.synthetic_faces.portrait import Portrait, skin_color


def draw(face: Face, size: int) -> np.ndarray:
    """Draws a face: `[size, size, 3]`, uint8 RGB."""
    canvas = Canvas(size)
    portrait = Portrait(canvas, Head(face))
    draw_background(canvas, face)
    draw_torso(portrait)
    draw_hair_behind(portrait)
    draw_neck(portrait)
    draw_face(portrait)
    draw_hair(portrait)
    draw_occlusion(portrait)
    return develop(canvas, face)


def draw_background(canvas: Canvas, face: Face) -> None:
    """Fills the canvas with a gradient, stripes on some, and clutter out of focus."""
    first, second, third = face.backdrop
    slope = face.clutter[0, :2] - 0.5
    ramp = 0.5 + slope[0] * canvas.x + slope[1] * canvas.y
    canvas.pixels[:] = first[:, None, None] + (second - first)[:, None, None] * ramp
    if face.clutter[0, 2] < 0.3:
        angle, period = np.pi * face.clutter[0, 3], 5 + 12 * face.clutter[0, 4]
        wave = np.sin(period * (np.cos(angle) * canvas.x + np.sin(angle) * canvas.y))
        canvas.paint(canvas.whole, 0.5 * smoothstep(-0.3, 0.3, wave), third)
    for shape in face.clutter[1:]:
        draw_clutter(canvas, shape, third)


def draw_clutter(canvas: Canvas, shape: np.ndarray, color: np.ndarray) -> None:
    """Draws a disc or a rectangle from eight uniform numbers."""
    center = 2.4 * shape[:2] - 1.2
    radius = float(0.12 + 0.4 * shape[2])
    window = canvas.window(center, 1.6 * radius)
    x, y = canvas.x[:, window[1]] - center[0], canvas.y[window[0]] - center[1]
    cos, sin = math.cos(math.pi * shape[3]), math.sin(math.pi * shape[3])
    u, v = cos * x - sin * y, sin * x + cos * y
    if shape[4] < 0.5:
        outline = ellipse(u, v, radius, radius * (0.5 + 0.5 * shape[5]))
    else:
        outline = box(u, v, radius, radius * (0.2 + 0.6 * shape[5]), 0.04)
    blur = 0.03 + 0.18 * shape[6]
    tint = clamp(color + 0.55 * (shape[5:8] - 0.5))
    canvas.paint(window, 0.75 * fill(outline + blur / 2, blur), tint)


def draw_torso(portrait: Portrait) -> None:
    """Draws shoulders in cloth, upright under whatever the head does."""
    canvas, face = portrait.canvas, portrait.face
    center = portrait.head.to_image[:, 2]
    top = int(np.clip((center[1] + 0.45 + 1) / 2, 0, 1) * canvas.size)
    window = (slice(top, canvas.size), slice(0, canvas.size))
    u = (canvas.x - np.float32(center[0])) / face.scale
    v = (canvas.y[window[0]] - np.float32(center[1])) / face.scale
    slope = 1.16 + 0.22 * np.square(np.minimum(np.abs(u), 2))
    lit = 0.72 + 0.25 * face.light[0] * u - 0.3 * blob(u, v - 1.2, 0.75, 0.35)
    if face.phases[1] < 2:
        lit = lit * (0.85 + 0.15 * np.sign(np.sin(14 * v)))
    elif face.phases[1] < 3:
        lit = lit * (0.85 + 0.15 * np.sign(np.sin(14 * u)))
    cloth = face.clothes[0][:, None, None] * lit
    canvas.paint(window, fill(slope - v, portrait.pixel), cloth)


def draw_neck(portrait: Portrait) -> None:
    """Draws the neck from the head to the collar, in the shadow of the chin."""
    canvas, face, head = portrait.canvas, portrait.face, portrait.head
    jaw = geometry.apply(head.to_image, np.array([[-0.1 * np.sin(face.yaw), 0.45]]))[0]
    base = head.to_image[:, 2] + face.scale * np.array([0, 1.06])
    window = canvas.window((jaw + base) / 2, 0.62 * face.scale + 0.1)
    x, y = canvas.x[:, window[1]], canvas.y[window[0]]
    radius = face.scale * face.width
    outline, along, across = capsule(x, y, jaw, base, (0.56 * radius, 0.54 * radius))
    collar = smoothstep(1.12, 1.22, (y - np.float32(head.to_image[1, 2])) / face.scale)
    canvas.paint(window, collar * fill(outline - 0.05, canvas.pixel), 0.85 * face.clothes[1])
    tone = face.ambient * 0.8 + 0.30 + 0.16 * face.light[0] * -across - 0.1 * np.square(across)
    tone = tone - 0.40 * smoothstep(0.95, 0.6, along)
    canvas.paint(window, fill(outline, canvas.pixel), skin_color(face, tone))


def draw_occlusion(portrait: Portrait) -> None:
    """Covers a part of some faces."""
    painter = {
        "patch": draw_patch, "hand": draw_hand, "microphone": draw_microphone,
        "strand": draw_strand, "cup": draw_cup,
    }.get(portrait.face.occlusion)  # fmt: skip
    if painter is not None:
        painter(portrait)


def draw_patch(portrait: Portrait) -> None:
    """Covers a place of the face by a flat rectangle."""
    cover, u, v = portrait.face.cover, portrait.u, portrait.v
    u, v = u - (1.2 * cover[0] - 0.6), v - (1.4 * cover[1] - 0.5)
    outline = box(u + 0.4 * v, v - 0.4 * u, 0.2 + 0.2 * cover[2], 0.15 + 0.2 * cover[3], 0.03)
    portrait.canvas.paint(
        portrait.canvas.whole, fill(outline, portrait.pixel), portrait.face.clothes[1]
    )


def draw_hand(portrait: Portrait) -> None:
    """Lays four fingers on a cheek or the chin."""
    face, u, v = portrait.face, portrait.u, portrait.v
    side = 1.0 if face.cover[0] < 0.5 else -1.0
    place = np.array([0.30 + 0.35 * face.cover[1], 0.55 + 0.25 * face.cover[2]])
    reach = (0.0, 0.10, 0.07, -0.08)
    limbs = [(np.array([1.15, 1.9]), place + np.array([0.42, 0.55]), (0.26, 0.24))]
    for finger in range(4):
        knuckle = place + np.array([0.22 + 0.125 * finger, 0.42 - 0.02 * finger])
        tip = knuckle - (0.62 + reach[finger]) * np.array([0.34 - 0.03 * finger, 0.94])
        limbs.append((knuckle, tip, (0.085, 0.072)))
    for start, end, radii in limbs:
        outline, along, across = capsule(side * u, v, start, end, radii)
        tone = 0.48 + 0.26 * along - 0.2 * side * face.light[0] * across - 0.3 * np.square(across)
        portrait.canvas.paint(
            portrait.canvas.whole, fill(outline, portrait.pixel), skin_color(face, tone)
        )


def draw_microphone(portrait: Portrait) -> None:
    """Holds a microphone before the chin."""
    face, canvas = portrait.face, portrait.canvas
    end = np.array([0.5 * face.cover[0] - 0.25, 0.72 + 0.3 * face.cover[1]])
    start = end + np.array([1.4 * face.cover[2] - 0.7, 1.0])
    handle, _, across = capsule(portrait.u, portrait.v, start, end, (0.08, 0.11))
    tone = 0.16 + 0.25 * np.square(np.maximum(1 - np.abs(across + 0.3), 0))
    canvas.paint(canvas.whole, fill(handle, portrait.pixel), np.stack([tone] * 3))
    u, v = portrait.u - np.float32(end[0]), portrait.v - np.float32(end[1])
    ball = ellipse(u, v, 0.19, 0.20)
    mesh = (
        0.32 + 0.06 * np.sin(60 * u) * np.sin(60 * v) + 0.4 * blob(u + 0.05, v + 0.07, 0.14, 0.14)
    )
    canvas.paint(canvas.whole, fill(ball, portrait.pixel), np.stack([mesh] * 3))


def draw_strand(portrait: Portrait) -> None:
    """Lets a strand of hair fall over the face."""
    face = portrait.face
    side = 1.0 if face.hair_part > 0 else -1.0
    across = portrait.u - np.float32(side * (0.1 + 0.35 * face.cover[0]))
    across = across - side * 0.28 * np.square(portrait.v + 0.75) * face.cover[1]
    weight = 0.05 + 0.06 * face.cover[2] * smoothstep(0.8, -0.6, portrait.v)
    outline = np.maximum(np.abs(across) - weight, np.abs(portrait.v + 0.15) - 0.75)
    tone = 0.75 + 0.2 * np.sin(50 * across)
    portrait.canvas.paint(
        portrait.canvas.whole,
        0.95 * fill(outline, max(0.03, portrait.pixel)),
        hair_color(face, tone),
    )


def draw_cup(portrait: Portrait) -> None:
    """Lifts a cup to the mouth."""
    face = portrait.face
    u = portrait.u - (0.5 * face.cover[0] - 0.25)
    v = portrait.v - (0.95 + 0.15 * face.cover[1])
    outline = box(u * (1 + 0.15 * v), v, 0.28, 0.34, 0.05)
    tone = 0.85 + 0.5 * face.light[0] * u - 1.2 * np.square(u)
    color = face.clothes[1][:, None, None] * tone + 0.1
    portrait.canvas.paint(portrait.canvas.whole, fill(outline, portrait.pixel), color)


def develop(canvas: Canvas, face: Face) -> np.ndarray:
    """The finished image `[S, S, 3]`, uint8: light across it, colour cast, contrast."""
    light = 1 + face.gradient[0] * canvas.x + face.gradient[1] * canvas.y
    image = canvas.pixels * light * face.cast[:, None, None]
    image = (image - 0.5) * np.float32(face.contrast) + 0.5
    return (np.clip(image, 0, 1).transpose(1, 2, 0) * 255 + 0.5).astype(np.uint8)
