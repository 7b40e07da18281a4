"""Published numbers, as printed: forward errors in per cent of the eye distance.

Li et al. are the paper this project implements: Unsupervised Learning of Facial Landmarks based on
Inter-Intra Subject Consistencies, ICPR 2020. Numbers in brackets are its references.
"""

from typing import NamedTuple

PAPER = "Li et al., ICPR 2020"


class Published(NamedTuple):
    """A row of a published table.

    Attributes:
      method: name as the paper prints it, with its reference.
      num_landmarks: K, None where the table gives none.
      mafl: forward error on MAFL, None where not given.
      aflw: the same on AFLW.
      source: where the numbers are printed.
      crop: crop of the views, `center` or `box`; "" if unknown.
      cell: the cell of `paper_cells.CELLS` that reproduces it.
      group: `supervised` or another remark, or "".
    """

    method: str
    num_landmarks: int | None
    mafl: float | None
    aflw: float | None
    source: str = f"{PAPER}, Table I"
    crop: str = ""
    cell: str = ""
    group: str = ""


_TABLE_3 = f"{PAPER}, Table III"

TABLE_1 = (
    Published("TCDCN [25]", None, 7.95, 7.65, group="supervised"),
    Published("RAR [26]", None, None, 7.23, group="supervised"),
    Published("MTCNN [27]", None, 5.39, 6.90, group="supervised"),
    Published("Thewlis [28]", None, 5.83, 8.80),
    Published("Shu [18]", None, 5.45, None),
    Published("Sahasrabudhe [29]", None, 6.01, None),
    Published("Wiles [17]", None, 3.44, None),
    Published("Thewlis [10]", 10, 7.95, None),
    Published("Sanchez [12]", 10, 3.99, 6.69, crop="box"),
    Published("Zhang [14]", 10, 3.46, 7.01),
    Published("Jakab [11]", 10, 3.19, 6.86, crop="center"),
    Published("Zhang [14]", 30, 3.15, 6.58),
    Published("Jakab [11]", 30, 2.58, 6.31, crop="center"),
    Published("Thewlis [13]", 50, 2.86, 6.54),
    Published("Jakab [11]", 50, 2.54, 6.33, crop="center"),
    Published("Baseline*", 10, 3.41, 6.59, crop="box", cell="baseline-k10"),
    Published("w. Inter-Subject", 10, 3.10, 6.24, crop="box", cell="inter-k10"),
    Published("w. Cycle", 10, 3.12, 6.28, crop="box", cell="cycle-k10"),
    Published("Ours-All", 10, 3.08, 6.20, crop="box", cell="all-k10"),
    Published("Ours-All", 30, 2.89, 6.08, crop="box", cell="all-k30"),
    Published("Ours-All", 50, 2.85, 6.04, crop="box", cell="all-k50"),
)

# Later than the paper; their K is not given with these numbers.
LATER = (
    Published("Mallis 2020", None, 3.19, 7.37, "Mallis et al., 2020"),
    Published("Awan 2023", None, 3.50, 5.91, "Awan et al., 2023"),
    Published("Tourani 2024", None, 2.19, 2.92, "Tourani et al., 2024"),
    Published("Tourani 2025", None, 2.09, 2.76, "Tourani et al., 2025", group="protocol unclear"),
)

TABLE_3 = (
    Published("VGG-19", 10, 3.23, 6.42, _TABLE_3, "box", "vgg19-k10"),
    Published("L_R only", 10, 7.87, 14.98, _TABLE_3, "box", "pixel-only-k10"),
    Published("L_P only", 10, 3.25, 6.28, _TABLE_3, "box", "perceptual-only-k10"),
    Published("Proposed-All", 10, 3.08, 6.20, _TABLE_3, "box", "all-k10"),
)

# Backward errors, from the labelled points to the discovered ones.
BACKWARD = (
    Published("Jakab", None, 4.53, 8.84, "as later papers compare it"),
    Published("Zhang", None, 4.91, 8.14, "as later papers compare it"),
    Published("Sanchez", None, 14.74, 25.84, "as later papers compare it"),
    Published("Mallis 2020", None, 4.23, 8.89, "Mallis et al., 2020"),
    Published("Awan 2023", None, 5.18, 7.96, "Awan et al., 2023"),
    Published("Tourani 2025", None, 2.62, 3.54, "Tourani et al., 2025", group="protocol unclear"),
)

# Table II: MAFL, over the number N of labelled photos that the regressor is fitted on.
TABLE_2_SOURCE = f"{PAPER}, Table II"
TABLE_2_COUNTS: tuple[int | None, ...] = (1, 5, 10, 100, 500, 1000, 5000, None)  # None: all
TABLE_2: dict[str, tuple[float | None, ...]] = {
    "Thewlis [10], K = 30": (10.82, 9.25, 8.49, None, None, None, None, 7.15),
    "Sanchez [12], K = 10": (18.70, 8.77, 7.13, 4.53, 4.13, 4.16, 4.05, 3.99),
    "Jakab [11], K = 30": (12.89, 8.16, 7.19, 4.29, 2.83, 2.73, 2.60, 2.58),
    "Ours, K = 10": (9.03, 7.50, 7.09, 3.71, 3.23, 3.17, 3.09, 3.08),
}

# Parameters at views of 128 pixels: the detector by K, encoder and decoder by (c, K).
DETECTOR_PARAMETERS = {10: 6_234_762, 30: 6_239_902, 50: 6_245_042}
GENERATOR_PARAMETERS = {
    (32, 10): 2_424_424,
    (32, 30): 3_124_189,
    (32, 50): 3_918_354,
    (64, 10): 9_030_824,
    (64, 30): 10_334_749,
    (64, 50): 11_733_074,
}
