"""The Poisson-subsampled Gaussian steps of a history among others: the core's grids behind the common interface."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from opacus_edgeworth._types import ComplexArray, Direction, FloatArray
from opacus_edgeworth.composition import Composition
from opacus_edgeworth.errors import OutOfReachError
from opacus_edgeworth.inversion.characteristic import log_steps
from opacus_edgeworth.inversion.contour import LOG_SHARE, log_cut_share, served
from opacus_edgeworth.inversion.grid import Grid, make_grid
from opacus_edgeworth.inversion.law import nearer_law
from opacus_edgeworth.inversion.line import compose_upper, log_peak_of
from opacus_edgeworth.inversion.quadrature import TiltedSteps, log_mgf_upper, tilted_steps
from opacus_edgeworth.inversion.saddle import fitting_law, moments, rough_grid
from opacus_edgeworth.inversion.truncation import Decay, Shifted, compose_bound, decay_bound, shifted_bound
from opacus_edgeworth.mechanisms import ULP
from opacus_edgeworth.mixed.part import Upper

MAX_WORK = 1.5e8
"""Products of nodes and grid points."""


@dataclass(frozen=True, slots=True)
class SampledPart:
    """Subsampled steps, their laws cut off where hardly anything is left.

    Args:
      grid: of the steps, without unsampled ones.
      direction: which of the two is meant.
    """

    grid: Grid
    direction: Direction

    def moments(self, c: float) -> tuple[float, float, float]:
        """See `Part`."""
        return moments(self.grid, c, self.direction)

    def upper(self, c: float) -> Upper:
        """See `Part`; under a negative tilt of the whole law, what was cut off being added."""
        tilt = c if self.direction == "remove" else 1.0 - c
        grid = self._grid_for(tilt, 0.0)
        log_mgf = log_mgf_upper(grid, np.array([tilt]))
        value = float(compose_upper(self.grid.steps, log_mgf, np.array([c]))[0])
        if tilt > 0.0:
            return Upper(value, grid.law.cut_off())
        # from above, lost / phi is at most lost / (phi as it is, less twice its room)
        share = log_cut_share(grid.law, tilt, log_mgf[0], 1e-6 + 0.0 * log_mgf[0])
        return Upper(value + float(np.logaddexp(0.0, share)), 0.0)

    def at(self, c: float, reach: float) -> TiltedSampled:
        """See `Part`."""
        tilt = c if self.direction == "remove" else 1.0 - c
        tilted = tilted_steps(self._grid_for(tilt, reach), np.array([tilt]))
        log_peak, error = log_peak_of(self.grid.steps, 0.0, tilted.log_mgf, tilted.log_mgf_error)
        law = tilted.grid.law
        share = math.inf
        if self.direction == "add":
            share = log_cut_share(law, tilt, tilted.log_mgf[0], tilted.log_mgf_error[0])
        return TiltedSampled(
            tilted,
            self.direction,
            float(log_peak[0]),
            float(error[0]),
            law.cut_off(),
            share,
            decay_bound(tilted),
            shifted_bound(tilted),
        )

    def _grid_for(self, tilt: float, reach: float) -> Grid:
        """Return a grid for one tilt; under a negative one high scores do not matter."""
        if tilt < 0.0:
            return make_grid(nearer_law(self.grid.law, tilt, LOG_SHARE), tilt, 1.0, reach)
        return make_grid(fitting_law(self.grid.law, tilt), tilt, tilt, reach)


@dataclass(frozen=True, slots=True)
class TiltedSampled:
    """Subsampled steps under a tilt; see `TiltedPart`."""

    tilted: TiltedSteps
    direction: Direction
    log_peak: float
    log_peak_error: float
    lost: float
    log_lost_share: float
    decay: Decay
    shifted: Shifted

    def upper(self, c: float) -> float:
        """See `TiltedPart`."""
        tilt = c if self.direction == "remove" else 1.0 - c
        law = self.tilted.grid.law
        log_mgf = log_mgf_upper(make_grid(law, tilt, max(tilt, 1.0), 0.0), np.array([tilt]))
        return float(compose_upper(law.steps, log_mgf, np.array([c]))[0])

    def log_beyond(self, y: float) -> float:
        """See `TiltedPart`."""
        log_phi = np.minimum(self.decay.log_phi(y), self.shifted.log_bound(y))
        return float(compose_bound(self.tilted.grid.steps, log_phi, y)[0])

    def log_cf(self, step: float, count: int) -> tuple[ComplexArray, FloatArray]:
        """See `TiltedPart`; G(z) = Phi(1 - z) in the add direction, the complex conjugate of Phi at tilt + iy."""
        steps: Composition = self.tilted.grid.steps
        tilted, wrong = served(self.tilted, step * (count - 1), steps.steps)
        if tilted.grid.loss.size * (count + 64.0 * math.sqrt(count)) > MAX_WORK:
            raise OutOfReachError(f"{count} nodes on {tilted.grid.loss.size} grid points")
        value, error, size = log_steps(tilted, wrong, step, count).power(steps.steps)
        error = error + ULP * (steps.phases + 4) * size
        return (value if self.direction == "remove" else np.conj(value))[0], error[0]


def sampled_part(steps: Composition, direction: Direction, log_cut: float) -> SampledPart:
    """Return the part of the subsampled steps of a composition, laws cut off at a mass of about e^log_cut.

    Raises:
      OutOfReachError: their grid would be too large.
    """
    return SampledPart(rough_grid(replace(steps, gaussian=0.0), log_cut), direction)
