"""The mean of the landmarks of a view and of its mirror image.

`evaluation.symmetry` finds which landmark of a mirrored view shows which of the view.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from landmarks_jax.inference.detector import ViewDetector
from landmarks_jax.system.errors import DataError

# The largest distance between the points of a pair, as a share of the landmarks' spread. On photos
# of faces, pairs of faces40 have 0.013 to 0.045; the lowest of all controls had 0.089.
LIMIT = 0.05


class MirrorPairs(NamedTuple):
    """Which landmarks mirror each other.

    Attributes:
      order: `[K]` the landmark of a mirrored view at the place of landmark k; its own inverse.
      known: `[K]` bool, false where there is none.
    """

    order: np.ndarray
    known: np.ndarray

    @classmethod
    def of(cls, summary: Mapping[str, Any], num_landmarks: int) -> "MirrorPairs | None":
        """The pairs in the summary of a packed detector; None if it has none."""
        order, known = np.arange(num_landmarks), np.zeros(num_landmarks, bool)
        for pair in summary.get("mirror", {}).get("pairs", ()):
            both = [pair["first"], pair["second"]]
            order[both], known[both] = both[::-1], True
        return cls(order, known) if known.any() else None

    def find(
        self, detector: ViewDetector, views: np.ndarray, fields: tuple[str, ...]
    ) -> dict[str, np.ndarray]:
        """The means over views `[N, S, S, 3]` and their mirror images, see `ViewDetector.find`."""
        mirrored = np.ascontiguousarray(views[:, :, ::-1])
        return self.mean(detector.find(views, fields), detector.find(mirrored, fields))

    def mirrored_back(self, output: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The output for mirrored views, by field, as if for the views."""
        fields = {}
        for name, array in output.items():
            if name == "landmarks":
                fields[name] = array[:, self.order] * np.array([-1, 1], array.dtype)
            elif name == "heatmaps":
                fields[name] = array[:, :, ::-1, self.order]
            else:
                fields[name] = array[:, self.order]
        return fields

    def mean(
        self, output: Mapping[str, np.ndarray], mirrored: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The means over views and mirrored views; of landmarks without a pair, those of the views.

        Args:
          output: the fields of `detector.ViewLandmarks` for views, by name.
          mirrored: the same for their mirror images.
        """
        known, means = self.known[:, None], {}
        for name, back in self.mirrored_back(mirrored).items():
            here = known if name == "landmarks" else known[:, 0]  # landmarks have x and y, last
            means[name] = np.where(here, (output[name] + back) / 2, output[name])
        return means


def need_pairs(pairs: MirrorPairs | None, name: str) -> MirrorPairs:
    """The pairs of the detector `name`.

    Raises:
      DataError: none are known.
    """
    if pairs is None:
        raise DataError(
            f"mirror: {name} has no landmarks that are known to mirror each other; "
            "`landmarks-jax export --mirror_photos` looks for them"
        )
    return pairs
