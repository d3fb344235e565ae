"""Histories on which other accountants were found unsound, raised, hung or lost their accuracy: ours must not."""

import math

import pytest

from opacus_edgeworth import PrivacyCurve

# history, delta, the true epsilon to the digits known, None where only an answer is asked for
ROWS = [
    ([(1.0, 0.01, 1000)], 1e-12, 3.914298),
    ([(0.8, 1e-4, 100_000)], 1e-10, 0.546889),
    ([(1.0, 0.1, 1000)], 1e-12, 39.01263),
    ([(0.02, 0.01, 1)], 1e-5, 1398.9),
    ([(2.0, 0.01, 1500)], 1e-10, 1.276050),
    ([(0.4, 1e-5, 10_000)], 1e-9, 5.126516),
    ([(20.0, 0.01, 1_000_000)], 1e-6, 2.255864),
    ([(1.0, 0.01, 100)], 0.1, 0.0),
    ([(0.5, 1e-4, 1000)], 1e-13, 6.43),
    ([(1000.0, 0.001, 10)], 1e-6, 5.6e-7),
    ([(1.0, 1e-8, 1)], 1e-12, 4.4e-7),
    ([(0.3, 0.5, 1000)], 1e-5, None),
    ([(1.0, 0.01, 1000)], 1e-15, 4.854538),
    ([(0.5, 1.0, 10_000)], 1e-5, 20852.0),
    ([(1.0, 0.01, 1_000_000)], 1e-5, 139.03),
    ([(100.0, 1e-3, 10_000_000)], 1e-6, 0.115932),
    ([(0.3, 0.01, 5), (5.0, 0.01, 5000)], 1e-5, 12.9383),
    # where the peers are merely loose
    ([(1.1, 256 / 60000, 14040)], 1e-5, 2.37955),
    ([(0.8, 0.005, 1000)], 1e-6, 2.00411),
    ([(1.0, 0.01, 10_000)], 1e-5, 6.18771),
    ([(0.66, 1024 / 67349, 200)], 1e-5, 4.48889),
    ([(0.5, 0.02, 60)], 1e-5, 8.36623),
    ([(0.3, 0.01, 100)], 1e-5, 26.8347),
    ([(1.0, 1e-4, 1_000_000)], 1e-8, 0.658114),
    ([(5.0, 0.05, 100_000)], 1e-6, 19.6843),
    ([(1.0, 0.01, 1)], 1e-5, 0.19945),
]


def unit_in_last_place(value: float) -> float:
    """One unit of the last digit given, as a tolerance on the table's own rounding."""
    digits = repr(value).split("e")[0]
    decimals = len(digits.split(".")[1]) if "." in digits else 0
    exponent = int(repr(value).split("e")[1]) if "e" in repr(value) else 0
    return 10.0 ** (exponent - decimals)


@pytest.mark.parametrize(("history", "delta", "exact"), ROWS, ids=[f"{row[0]}-{row[1]:g}" for row in ROWS])
def test_epsilon_is_right(history, delta, exact):
    got = PrivacyCurve(history).epsilon(delta)
    assert math.isfinite(got.upper)
    assert got.lower >= 0.0
    if exact is None:
        assert got.relative_width < 1e-6
        return
    assert got.lower <= exact + unit_in_last_place(exact)
    assert got.upper >= exact - unit_in_last_place(exact)
    assert got.upper - got.lower <= 1e-6 * max(exact, 1e-9) + 1e-300
    if exact == 0.0:
        assert got.upper == 0.0


def test_three_hundred_phases():
    history = [(1.5 - 0.8 * i / 299, 0.01, 10) for i in range(300)]
    got = PrivacyCurve(history).epsilon(1e-5)
    assert got.lower - 1e-5 <= 3.71489 <= got.upper + 1e-5
    assert got.relative_width < 1e-6
