"""Matrix products of a lowered program that a GPU or TPU may round."""


def rounded(text: str) -> list[str]:
    """The lines of StableHLO whose matrix product is not asked for in full precision.

    By default a GPU takes float32 factors with 10 bits of mantissa (TF32), a TPU with 7.
    """
    products = [line for line in text.splitlines() if "stablehlo.dot_general" in line]
    return [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line]
