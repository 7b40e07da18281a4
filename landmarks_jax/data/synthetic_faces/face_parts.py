"""Draws the features of a synthetic face: skin, ears, eyes, brows, nose, mouth, glasses."""

import math

import numpy as np

from landmarks_jax.data.synthetic_faces.canvas import (
    Window,
    blob,
    box,
    capsule,
    ellipse,
    fill,
    smoothstep,
    stroke,
)
from landmarks_jax.data.synthetic_faces.face_model import corner_lift, corner_x
from landmarks_jax.data.synthetic_faces.hair import draw_beard
from landmarks_jax.data.synthetic_faces.portrait import Portrait, skin_color

WHITE = np.array([0.96, 0.95, 0.94], np.float32)
DARK = np.array([0.05, 0.04, 0.05], np.float32)


def draw_face(portrait: Portrait) -> None:
    """Draws all that lies within the outline of the head."""
    face = portrait.face
    near = 1 if face.yaw < 0 else -1  # the side of the ear that the rotation brings forward
    draw_ear(portrait, -near)
    model_sockets(portrait)
    model_mouth(portrait)
    model_nose(portrait)
    draw_skin(portrait)
    draw_beard(portrait)
    draw_ear(portrait, near)
    draw_nostrils(portrait)
    draw_mouth(portrait)
    for side in (-1, 1):
        draw_eye(portrait, side)
        draw_brow(portrait, side)
    if face.glasses != "none":
        draw_glasses(portrait)


def draw_ear(portrait: Portrait, side: int) -> None:
    """Draws one ear, if the rotation of the head leaves it visible."""
    face, head = portrait.face, portrait.head
    root = np.array([0.99 * side, face.eye_y + 0.13, -0.1])
    depth = float((head.rotation @ root)[2])
    if depth < -0.45 or face.hair_style == "long":
        return
    window = portrait.around(root, 0.35)
    u, v = portrait.u[window], portrait.v[window]
    center = head.flat(1.03 * root)
    u, v = u - np.float32(center[0]), v - np.float32(center[1])
    outline = ellipse(u - 0.1 * side * v, v, 0.10 + 0.05 * abs(depth), 0.20)
    tone = 0.62 * face.ambient + 0.4 - 0.35 * blob(u, v, 0.09, 0.14)
    tone += 0.25 * side * face.light[0]
    portrait.canvas.paint(window, fill(outline, portrait.pixel), skin_color(face, tone))


def model_sockets(portrait: Portrait) -> None:
    """Shades the hollows of the eyes and lights the cheeks."""
    face = portrait.face
    for side in (-1, 1):
        window = portrait.around(portrait.head.surface(side * face.eye_x, face.eye_y), 0.4)
        u, v = portrait.near(window, side * face.eye_x, face.eye_y)
        portrait.tone[window] -= 0.20 * blob(u + 0.05 * side, v + 0.05, 0.32, 0.22)
        window = portrait.around(portrait.head.surface(side * 0.5, 0.32), 0.4)
        u, v = portrait.near(window, side * 0.5, 0.28 - 0.03 * face.smile)
        portrait.tone[window] += (0.10 + 0.05 * face.smile) * blob(u, v, 0.26, 0.20)


def model_mouth(portrait: Portrait) -> None:
    """Shades the groove under the lower lip, the upper lip and the folds of a smile."""
    face = portrait.face
    window = portrait.around(portrait.head.surface(0, face.mouth_y), 0.55)
    u, v = portrait.near(window, 0, face.mouth_y)
    below = v - (face.lip_weight + 2 * face.mouth_open + 0.07)
    tone = portrait.tone[window]
    tone -= 0.22 * blob(u, below, 0.22, 0.07)
    tone += 0.08 * blob(u, below - 0.13, 0.2, 0.12)
    tone -= 0.10 * blob(u, v + 0.13, 0.035, 0.10)
    tone += 0.09 * blob(u, below - 0.2, 0.16, 0.13)
    fold = np.abs(u) - (0.28 + 0.5 * (v + 0.2) - 0.5 * np.square(v + 0.1))
    depth = 0.10 + 0.16 * max(face.smile, 0)
    tone -= depth * np.square(1 - np.minimum(np.abs(fold) / 0.05, 1)) * blob(u, v + 0.1, 0.6, 0.26)


def model_nose(portrait: Portrait) -> None:
    """Shades the nose, and lets it stand out beyond the edge of a rotated head."""
    face, head = portrait.face, portrait.head
    root = head.flat(head.surface(0, face.eye_y - 0.02))
    tip_place = head.surface(0, face.nose_y, face.nose_bump)
    tip = head.flat(tip_place)
    window = portrait.around(tip_place, float(np.hypot(*(tip - root))) + 0.25)
    u, v, tone = portrait.u[window], portrait.v[window], portrait.tone[window]
    width = face.nose_width
    side = math.sin(face.yaw)
    outline, along, across = capsule(u, v, root, tip, (0.065, 0.80 * width))
    across = np.minimum(np.maximum(-across, -2.2), 2.2)  # positive to the right of the image

    beneath = tip + np.array([-0.4 * face.light[0] - 0.3 * side, 0.62]) * width
    fallen = blob(u - np.float32(beneath[0]), v - np.float32(beneath[1]), 1.7 * width, 0.95 * width)
    tone -= 0.30 * fallen
    flank = np.exp(-np.square(np.abs(across) - 1.15) * 4) * smoothstep(0.05, 0.75, along)
    away = 0.5 - 0.5 * np.sign(across) * np.float32(np.clip(2 * face.light[0] - 1.2 * side, -1, 1))
    tone -= flank * (0.07 + 0.20 * away) * fill(outline - 0.12, 0.14)
    for wing in (-1, 1):
        center = head.flat(head.surface(wing * 0.72 * width / face.width, face.nose_y + 0.045, 0.1))
        du, dv = u - np.float32(center[0]), v - np.float32(center[1])
        round_ = blob(du, dv, 0.62 * width, 0.55 * width)
        tone += 0.10 * round_ + 0.12 * wing * face.light[0] * round_
    ridge = np.exp(-np.square(across - 0.7 * face.light[0]) * 5) * fill(outline, 0.06)
    tone += ridge * (0.07 + 0.10 * along)
    du, dv = u - np.float32(tip[0]), v - np.float32(tip[1])
    tone += 0.20 * blob(
        du - 0.3 * width * face.light[0], dv + 0.25 * width, 0.5 * width, 0.45 * width
    )
    skin = portrait.skin[window]
    np.maximum(skin, fill(outline, portrait.pixel), out=skin)


def draw_skin(portrait: Portrait) -> None:
    """Paints the head in the tones gathered so far, with rosy cheeks."""
    face = portrait.face
    portrait.canvas.paint(portrait.canvas.whole, portrait.skin, skin_color(face, portrait.tone))
    rose = face.skin * np.array([1.02, 0.62, 0.60], np.float32)
    for side in (-1, 1):
        window = portrait.around(portrait.head.surface(side * 0.52, 0.3), 0.35)
        u, v = portrait.near(window, side * 0.52, 0.3)
        portrait.paint(window, 0.30 * face.blush * blob(u, v, 0.28, 0.22), rose)


def draw_nostrils(portrait: Portrait) -> None:
    """Draws two nostrils just under the tip of the nose."""
    face, head = portrait.face, portrait.head
    color = face.skin * np.array([0.28, 0.18, 0.17], np.float32)
    for side in (-1, 1):
        place = head.surface(side * 0.50 * face.nose_width / face.width, face.nose_y + 0.075, 0.09)
        center = head.flat(place)
        window = portrait.around(place, 0.12)
        u = portrait.u[window] - np.float32(center[0])
        v = portrait.v[window] - np.float32(center[1]) + 0.3 * side * u
        narrow = 1 - 0.5 * max(0.0, side * math.sin(face.yaw))
        hole = ellipse(u, v, 0.34 * face.nose_width * narrow, 0.20 * face.nose_width)
        portrait.paint(window, 0.9 * fill(hole, max(0.025, portrait.pixel)), color)


def draw_mouth(portrait: Portrait) -> None:
    """Draws lips, teeth and tongue between the two corners."""
    face = portrait.face
    corner = corner_x(face) * face.width
    window = portrait.around(portrait.head.surface(0, face.mouth_y), corner + 0.25)
    u, v = portrait.near(window, 0, face.mouth_y)
    soft = portrait.pixel
    place = np.square(u / np.float32(corner))
    arch = np.maximum(1 - place, 0)
    v = v + corner_lift(face) * face.height * place  # 0 along the line from corner to corner
    beyond = np.abs(u) - np.float32(corner)
    lower = face.mouth_open * 1.5 * arch
    upper = -face.mouth_open * 0.5 * arch
    bow = np.exp(-np.square(u / (0.22 * corner)))
    top = upper - 0.62 * face.lip_weight * np.sqrt(arch) * (1 - 0.35 * bow)
    bottom = lower + face.lip_weight * np.power(arch, 0.7)
    lit = 0.55 + 0.5 * portrait.tone[window]
    lips = np.maximum(np.maximum(top - v, v - bottom), beyond)
    color = face.lip[:, None, None] * lit * (0.84 + 0.22 * smoothstep(-0.02, 0.03, v))
    portrait.paint(window, fill(lips, soft), color)
    shine = blob(u - 0.06 * face.light[0], v - lower - 0.45 * face.lip_weight, 0.10, 0.025)
    portrait.paint(window, 0.35 * shine, WHITE)
    inside = np.array([0.24, 0.06, 0.07], np.float32)
    if face.mouth_open > 0:
        gap = np.maximum(upper - v, v - lower)
        portrait.paint(window, fill(np.maximum(gap, beyond), soft), inside)
        teeth = np.maximum(np.maximum(upper - v, v - upper - 0.06), v - lower + 0.01)
        teeth = np.maximum(teeth, np.abs(u) - 0.78 * corner)
        portrait.paint(window, fill(teeth, soft), WHITE * 0.93)
        tongue = np.maximum(ellipse(u, v - 1.6 * face.mouth_open, 0.5 * corner, 0.05), gap + 0.01)
        portrait.paint(window, 0.7 * fill(tongue, soft), np.array([0.72, 0.30, 0.32]))
    else:
        line = stroke(np.maximum(np.abs(v), beyond), 0.012, soft)
        portrait.paint(window, 0.85 * line, face.lip * 0.35)
    for side in (-1, 1):
        dot = blob(u - side * corner, v, 0.05, 0.04)
        portrait.paint(window, 0.6 * dot, face.skin * np.array([0.36, 0.22, 0.22]))


def draw_eye(portrait: Portrait, side: int) -> None:
    """Draws one eye: white, iris, pupil, highlight and lids."""
    face = portrait.face
    x, y = side * face.eye_x, face.eye_y
    window = portrait.around(portrait.head.surface(x, y), 0.34)
    u, v = portrait.near(window, x, y)
    soft, width = portrait.pixel, face.eye_width
    v = v + face.eye_slant * side * u
    place = u * np.float32(1 / width)
    arch = np.maximum(1 - np.square(place), 0)
    skew = 1 - 0.12 * side * place  # the inner half of the upper lid is the steeper one
    opened = face.eye_height * (1 - face.blink)
    upper = (0.75 * face.eye_height * face.blink - 1.05 * opened) * arch * skew
    lower = 0.78 * face.eye_height * arch
    beyond = np.abs(u) - np.float32(width)
    lids = np.maximum(np.maximum(upper - v, v - lower), beyond)
    inside = fill(lids, soft)
    if face.blink < 0.9:
        lit = 0.70 + 0.30 * portrait.tone[window] - 0.35 * fill(v - upper - 0.015, 0.05)
        portrait.paint(window, inside, WHITE[:, None, None] * lit)
        draw_iris(portrait, window, u - face.gaze[0] * width, v - face.gaze[1] * width, inside)
    lash = face.skin * np.array([0.16, 0.12, 0.12], np.float32)
    upper_lid = np.maximum(np.abs(v - upper) - 0.012 * arch, beyond - 0.015)
    portrait.paint(window, 0.95 * stroke(upper_lid, 0.016, soft), lash)
    lower_lid = np.maximum(np.abs(v - lower), beyond)
    portrait.paint(window, 0.55 * stroke(lower_lid, 0.008, soft), face.skin * 0.4)
    crease = np.maximum(np.abs(v - upper * 1.1 + 0.05 - 0.02 * np.square(place)), beyond - 0.02)
    portrait.paint(window, 0.55 * stroke(crease, 0.010, soft), face.skin * 0.45)


def draw_iris(
    portrait: Portrait, window: Window, u: np.ndarray, v: np.ndarray, inside: np.ndarray
) -> None:
    """Draws iris, pupil and highlight about `(u, v) = 0` (head units), within the lids."""
    face, soft = portrait.face, portrait.pixel
    radius = 0.078
    ring = np.sqrt(np.square(u) + np.square(v))
    shade = 0.75 + 0.55 * smoothstep(-0.03, 0.07, v) - 0.45 * smoothstep(0.75, 1.0, ring / radius)
    portrait.paint(window, inside * fill(ring - radius, soft), face.iris[:, None, None] * shade)
    portrait.paint(window, inside * fill(ring - 0.040, soft), DARK)
    glint = ellipse(u - 0.03 - 0.02 * face.light[0], v + 0.032, 0.019, 0.019)
    portrait.paint(window, 0.95 * inside * stroke(np.maximum(glint, 0), 0.012, soft), WHITE)


def draw_brow(portrait: Portrait, side: int) -> None:
    """Draws one eyebrow, thick at the inner end, in the colour of the hair."""
    face = portrait.face
    x = side * face.eye_x
    window = portrait.around(portrait.head.surface(x, face.eye_y - 0.2), 0.36)
    u, v = portrait.near(window, x, face.eye_y)
    place = side * u * np.float32(1 / (1.22 * face.eye_width))  # -1: inner end, 1: outer end
    line = -face.brow_lift - 0.05 * (1 - np.square(place)) - face.brow_tilt * side * u
    weight = face.brow_weight * (1.0 - 0.55 * np.clip(place, 0, 1))
    outline = np.maximum(np.abs(v - line) - weight, 0.2 * (np.abs(place) - 1))
    color = 0.65 * face.hair + 0.12 * face.skin
    portrait.paint(window, 0.88 * fill(outline, max(0.03, portrait.pixel)), color)


def draw_glasses(portrait: Portrait) -> None:
    """Draws two lenses with rims, the bridge and the arms."""
    face, soft = portrait.face, portrait.pixel
    rim = face.clothes[1] * 0.35
    dark = face.glasses == "dark"
    window = portrait.around(portrait.head.surface(0, face.eye_y), 1.05)
    aside = np.abs(portrait.x[window]) - face.eye_x
    u, v = aside * face.width, (portrait.y[window] - face.eye_y) * face.height - 0.015
    shown = smoothstep(-0.1, 0.15, portrait.z[window])
    half_u, half_v = 0.245, 0.155 + 0.05 * face.glasses_round
    lens = box(u, v, half_u, half_v, 0.05 + 0.11 * face.glasses_round)
    glare = smoothstep(0.2, -0.2, np.abs(u + 0.6 * v) - 0.02)
    tint = np.array([0.08, 0.08, 0.10]) if dark else np.array([0.85, 0.92, 0.96])
    color = tint[:, None, None].astype(np.float32) * (1 + (0.8 if dark else 0.1) * glare)
    portrait.paint(window, shown * fill(lens, soft) * (0.93 if dark else 0.10), color)
    bridge = box(u + face.eye_x * face.width, v + 0.04, face.eye_x * face.width - 0.24, 0.012, 0.01)
    arm = box(u - 0.6, v + 0.06, 0.37, 0.014, 0.01)
    frame = np.maximum(stroke(lens, 0.017, soft), fill(np.minimum(bridge, arm), soft))
    portrait.paint(window, shown * frame, rim)
