"""A synthetic face on its canvas: the place of the head that each pixel shows, and its light."""

import numpy as np

from landmarks_jax.data.synthetic_faces.canvas import Canvas, Window, fill
from landmarks_jax.data.synthetic_faces.face_model import JAW_END, Face, Head


class Portrait:
    """One face on its canvas: the places of the face that the pixels show, and their tone.

    Attributes:
      u, v: `[S, S]` head units of the pixels, as the head lies in the image.
      x, y, z: `[S, S]` the point of the unrotated sphere that each pixel shows.
      tone: `[S, S]` light on the skin, 0 to 1.
      normal: `[3, S, S]` the same point on the rotated head: the direction the skin faces.
      rim: `[S, S]` distance from the middle of the head, 1 at its outline. Beyond, `x, y, z` and
        `normal` are those of the nearest place on the outline.
      skin: `[S, S]` how much of each pixel the head covers, 0 to 1.
      pixel: the side of a pixel, head units.
    """

    def __init__(self, canvas: Canvas, head: Head):
        self.canvas, self.head, self.face = canvas, head, head.face
        self.pixel = canvas.pixel / head.face.scale
        self.u, self.v = canvas.local(head.from_image, canvas.whole)
        self._look_at_sphere()
        self.skin = fill((self.rim - 1) * head.radii[0], self.pixel)
        face = self.face
        lit = np.tensordot(face.light, self.normal, 1)
        self.lit = np.maximum(lit, 0)
        self.tone = face.ambient + (1 - face.ambient) * self.lit
        self.tone -= 0.22 * np.square(1 - self.normal[2])

    def _look_at_sphere(self) -> None:
        """Finds what each pixel shows of the rotated sphere."""
        head = self.head
        normal = np.empty((3, *self.u.shape), np.float32)
        np.multiply(self.v, 1 / head.radii[1], out=normal[1])
        np.multiply(self.u, 1 / head.radii[0], out=normal[0])
        normal[0] /= 1 - head.face.jaw * np.square(np.clip(normal[1], 0, JAW_END))
        square = np.square(normal[0]) + np.square(normal[1])
        np.sqrt(np.maximum(1 - square, 0), out=normal[2])
        self.rim = np.sqrt(square)
        normal[:2] /= np.maximum(self.rim, 1)
        self.x, self.y, self.z = (head.rotation.T @ normal.reshape(3, -1)).reshape(normal.shape)
        self.normal = normal

    def around(self, place: np.ndarray, reach: float) -> Window:
        """The window within `reach` head units of a point `[3]` of the unrotated sphere."""
        return self.canvas.window(self.head.project(place), reach * self.face.scale)

    def near(self, window: Window, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
        """How far a window's pixels are from the place `(x, y)` of the face, head units."""
        face = self.face
        return (self.x[window] - x) * face.width, (self.y[window] - y) * face.height

    def paint(self, window: Window, alpha: np.ndarray, color: np.ndarray) -> None:
        """Paints on the face, up to its edge."""
        self.canvas.paint(window, alpha * self.skin[window], color)


def skin_color(face: Face, tone: np.ndarray) -> np.ndarray:
    """The skin `[3, h, w]` under a light `tone` `[h, w]`: shadows are warm, highlights pale."""
    shadow = (face.skin * np.array([0.50, 0.38, 0.36], np.float32))[:, None, None]
    lit = (0.92 * face.skin + 0.13)[:, None, None].astype(np.float32)
    return shadow + np.minimum(np.maximum(tone, 0), 1.1) * (lit - shadow)
