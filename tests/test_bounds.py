"""An interval of numbers, and what must be refused."""

import math

import pytest

from opacus_edgeworth import Bounds, CertificationError, InvalidParameterError


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
