"""Which cell came out best, in a sentence, and what the differences are worth."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from math import sqrt
from statistics import mean, variance

from landmarks_jax.studies.published_numbers import TABLE_1, TABLE_3


def sentences(where: str, errors: Mapping[str, Sequence[float]]) -> list[str]:
    """The order of cells by their errors, from best to worst.

    Args:
      where: what the errors are of, to begin with.
      errors: of each cell, one a seed.

    Returns:
      The order; then what it is worth. Nothing where there is nothing to compare.
    """
    if len(errors) < 2:
        return []
    means = {cell: mean(values) for cell, values in errors.items()}
    order = sorted(means, key=lambda cell: means[cell])
    listed = ", ".join(f"{cell} {means[cell]:.2f}" for cell in order)
    said = [f"{where}, from best to worst: {listed}."]
    repeated = [values for values in errors.values() if len(values) > 1]
    if not repeated:
        return [*said, f"{where}: one seed each, so what a difference is worth is not known."]
    squares = sum((len(values) - 1) * variance(values) for values in repeated)
    deviation = sqrt(squares / sum(len(values) - 1 for values in repeated))
    pairs = pairwise(order)
    close = [f"{a} and {b}" for a, b in pairs if means[b] - means[a] < deviation]
    worth = (
        f"neighbours that differ by less, and are not told apart: {'; '.join(close)}"
        if close
        else "all neighbours differ by more"
    )
    pooled = f"the deviation between seeds is {deviation:.2f} (pooled over {len(repeated)} cells)"
    return [*said, f"{where}: {pooled}; {worth}."]


def published_sentence(cells: Sequence[str]) -> list[str]:
    """The paper's own order of these cells, on AFLW."""
    known = {row.cell: row.aflw for row in (*TABLE_1, *TABLE_3) if row.aflw is not None}
    errors = {cell: known[cell] for cell in cells if cell in known}
    if len(errors) < 2:
        return []
    order = sorted(errors, key=lambda cell: errors[cell])
    listed = ", ".join(f"{cell} {errors[cell]:.2f}" for cell in order)
    return [f"The paper's order on AFLW, as published: {listed}."]
