"""An interval of numbers, and what must be refused."""

import math

import pytest

from opacus_edgeworth import Bounds, CertificationError, InvalidParameterError
from opacus_edgeworth.rounding import at_least, at_most


@pytest.mark.parametrize("ends", [(1.0, 0.5), (math.nan, 1.0), (0.0, math.nan)])
def test_empty_bounds_are_refused(ends):
    with pytest.raises(InvalidParameterError, match="empty bounds"):
        Bounds(*ends)


def test_width_of_a_point_at_infinity_is_zero():
    assert Bounds(math.inf, math.inf).width == 0.0
    assert Bounds(0.0, 0.0).relative_width == 0.0


def test_intersection_keeps_the_better_ends():
    assert Bounds(0.0, 2.0).intersect(Bounds(1.0, 3.0)) == Bounds(1.0, 2.0)


def test_disjoint_proofs_are_a_defect():
    with pytest.raises(CertificationError, match="exclude each other"):
        Bounds(0.0, 1.0).intersect(Bounds(2.0, 3.0))


@pytest.mark.parametrize("value", [5e-324, 1.5e-323, 3.5e-323, 1e-320])
def test_numbers_next_to_0_are_rounded_outward_too(value: float):
    """They have fewer digits than are asked for."""
    for digits in (1, 2, 8):
        assert float(at_least(value, digits)) <= value <= float(at_most(value, digits))
