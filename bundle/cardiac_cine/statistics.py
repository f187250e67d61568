"""Statistics of paired measurements: pure functions on sequences, NaN for what is undefined."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Limits of agreement hold 95 % of normally distributed differences (Bland and Altman, Lancet 1986).
LIMITS_SD = 1.96
# Values that differ by less of their size are equal but for rounding, as one scan read from two formats.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class MethodAgreement:
    """Agreement of two ways to measure the same, after Bland and Altman.

    Attributes:
        n: pairs in which both values are defined.
        r: Pearson's correlation; NaN for fewer than two pairs or a constant side.
        bias: mean of value minus reference; NaN without pairs.
        sd: standard deviation of the differences, n - 1 in its denominator; NaN for fewer than two pairs.
        lower, upper: limits of agreement, bias -/+ 1.96 sd.
        mean_absolute: mean absolute difference.
    """

    n: int
    r: float
    bias: float
    sd: float
    lower: float
    upper: float
    mean_absolute: float


def method_agreement(values: Sequence[float], references: Sequence[float]) -> MethodAgreement:
    """Compare paired values; pairs with a NaN are left out.

    Args:
        values: one measurement per subject.
        references: the other, in the same order and unit.

    Raises:
        ValueError: the two differ in length.
    """
    if len(values) != len(references):
        raise ValueError(f"values and references must pair up, got {len(values)} and {len(references)}")
    pairs = np.array([values, references], dtype=float)
    pairs = pairs[:, ~np.isnan(pairs).any(axis=0)]
    n = pairs.shape[1]
    if n == 0:
        return MethodAgreement(0, *[math.nan] * 6)
    difference = pairs[0] - pairs[1]
    bias = float(difference.mean())
    sd = float(difference.std(ddof=1)) if n > 1 else math.nan
    varies = bool((np.ptp(pairs, axis=1) > _ROUNDING * np.abs(pairs).max(axis=1)).all())
    return MethodAgreement(
        n=n,
        r=float(np.corrcoef(pairs)[0, 1]) if varies else math.nan,
        bias=bias,
        sd=sd,
        lower=bias - LIMITS_SD * sd,
        upper=bias + LIMITS_SD * sd,
        mean_absolute=float(np.abs(difference).mean()),
    )


@dataclass(frozen=True)
class Summary:
    """Mean, standard deviation (n - 1) and count of the defined values, and how many were undefined."""

    mean: float
    sd: float
    n: int
    undefined: int


def summarise(values: Sequence[float]) -> Summary:
    """Summarise values, leaving out NaN but counting it.

    Args:
        values: any number of values.

    Returns:
        Mean and sd are NaN where there are too few values for them.
    """
    array = np.asarray(values, dtype=float)
    known = array[~np.isnan(array)]
    return Summary(
        mean=float(known.mean()) if len(known) else math.nan,
        sd=float(known.std(ddof=1)) if len(known) > 1 else math.nan,
        n=len(known),
        undefined=len(array) - len(known),
    )
