"""Every case of the reference table lies within the bounds, in both directions, and the bounds are narrow."""

import pytest
from conftest import reference_cases

from opacus_edgeworth import PrivacyCurve
from opacus_edgeworth.composition import compose
from opacus_edgeworth.inversion.engines import direction_delta, grid_or_none

DIGITS = 1e-15  # the reference's own accuracy
CASES = reference_cases()


@pytest.mark.parametrize("direction", ["remove", "add"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["history"]))
def test_delta_encloses_reference(case, direction):
    exact = case[f"delta_{direction}"]
    if exact is None:
        pytest.skip("the reference does not give this direction")
    steps = compose(case["history"])
    got = direction_delta(steps, grid_or_none(steps), case["epsilon"], direction)
    assert got.lower <= exact * (1 + DIGITS)
    assert got.upper >= exact * (1 - DIGITS)
    assert got.relative_width <= 1e-9
    if exact == 0.0:
        assert got.upper == 0.0


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["history"]))
def test_epsilon_inverts_reference(case):
    exact = max(case["delta_remove"], case["delta_add"] or 0.0)
    got = PrivacyCurve(case["history"]).epsilon(exact)
    assert got.lower <= case["epsilon"] * (1 + 1e-13)
    assert got.upper >= case["epsilon"] * (1 - 1e-13)
    assert got.width <= 1e-9 * case["epsilon"]
