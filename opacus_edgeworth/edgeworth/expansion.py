r"""Edgeworth expansions of any order, from the cumulants of a sum.

The sum has cumulants k_1, k_2, ...; X = (sum - k_1) / sqrt(k_2) has l_r = k_r / k_2^{r/2}. Its density is expanded as

    f(x) = phi(x) sum_s b_s He_s(x),    sum_s b_s D^s = [1 + B_1 + ... + B_m](D),
    exp(sum_{j >= 1} l_{j+2} / (j+2)! D^{j+2} e^j) = sum_j B_j(D) e^j,

order m keeping the powers of e = n^{-1/2} up to m (Petrov 1975, "Sums of Independent Random Variables", chapter VI;
Hall 1992, "The Bootstrap and Edgeworth Expansion", section 2.4). From j B_j = sum_{i=1}^{j} i a_i D^{i+2} B_{j-i},
a_i = l_{i+2} / (i+2)!, all B_j follow. Nothing here is a bound.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.polynomial import hermite_e
from scipy.special import ndtr

from opacus_edgeworth._types import FloatArray

LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)


def hermite_coefficients(cumulants: FloatArray, order: int) -> FloatArray:
    """Return b_s, s = 0, ..., 3 order, of the expansion of that order.

    Args:
      cumulants: (order + 2,) or more, k_1, k_2, ... of the sum; k_2 > 0.
      order: m >= 0; 0 is the normal distribution.
    """
    deviation = math.sqrt(float(cumulants[1]))
    scaled = [float(cumulants[i + 1]) / deviation ** (i + 2) / math.factorial(i + 2) for i in range(1, order + 1)]
    terms = [np.zeros(3 * order + 1) for _ in range(order + 1)]
    terms[0][0] = 1.0
    for j in range(1, order + 1):
        for i in range(1, j + 1):
            terms[j][i + 2 :] += i * scaled[i - 1] * terms[j - i][: 3 * order - i - 1]
        terms[j] /= j
    return np.sum(terms, axis=0)


def standard_cdf(x: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Return the expansion of P(X <= x): Phi(x) - phi(x) sum_{s >= 1} b_s He_{s-1}(x)."""
    density = np.exp(-0.5 * x * x - LOG_SQRT_2PI)
    return ndtr(x) - density * hermite_e.hermeval(x, coefficients[1:]) if coefficients.size > 1 else ndtr(x)


def standard_density(x: FloatArray, coefficients: FloatArray) -> FloatArray:
    """Return the expansion of the density of X."""
    return np.exp(-0.5 * x * x - LOG_SQRT_2PI) * hermite_e.hermeval(x, coefficients)
