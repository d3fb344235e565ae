"""A run of independent phases in ball arithmetic: G, its amplitudes along a line, their decay, and closed forms.

Letters and weights are those of `balls`, which has one phase; G(z) = sum n log phi(z), or of phi(1 - z), see `Run`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opacus_edgeworth._types import Direction
from opacus_edgeworth.certification.balls import (
    Ball,
    Law,
    Rule,
    decay_bound,
    flint,
    line_moments,
    make_law,
    normal_tail,
    real_moment,
)
from opacus_edgeworth.errors import CertificationError


@dataclass(frozen=True, slots=True)
class Run:
    """Independent phases seen from one direction.

    Args:
      direction: "remove", where G(z) = sum n log phi(z), or "add", where G(z) = sum n log phi(1 - z).
      laws, steps: the phases with sample_rate below 1.
      gaussian: v = sum n / s^2 of the others: together they have log phi(z) = v z (z - 1) / 2, exactly.
    """

    direction: Direction
    laws: tuple[Law, ...]
    steps: tuple[int, ...]
    gaussian: Ball

    @property
    def is_split(self) -> bool:
        """Whether some law is split, so that the line runs over a difference of two runs."""
        return any("loud" in law.parts for law in self.laws)


def gaussian_variance(history: Sequence[tuple[float, float, int]]) -> Ball:
    """Return v = sum n / s^2 over the phases with sample_rate 1."""
    arb = flint().arb
    return sum((arb(n) / arb(s) ** 2 for s, q, n in history if q == 1.0), arb(0))


def make_run(history: Sequence[tuple[float, float, int]], direction: Direction, rules: Sequence[Rule]) -> Run:
    """Return a run on its scores; one rule for every phase with sample_rate below 1, in order."""
    sampled = [(s, q, n) for s, q, n in history if q < 1.0]
    laws = tuple(make_law(s, q, rule) for (s, q, _), rule in zip(sampled, rules, strict=True))
    return Run(direction, laws, tuple(n for _, _, n in sampled), gaussian_variance(history))


def cut_off(run: Run) -> Ball:
    r"""Return how much delta falls by cutting laws off, at most.

    In the remove direction E_Q[(1 - prod chi) (e^S - e^eps)_+] <= E_P[1 - prod chi] <= sum n P(u + W xi >= U), where u
    is normal around 0 or, with probability q, 1/s; in the add direction E_Q[1 - prod chi], where u is around 0.
    """
    total = flint().arb(0)
    for law, n in zip(run.laws, run.steps, strict=True):
        for end in law.rule.cut:
            spread = (1 + flint().arb(law.rule.width) ** 2).sqrt()
            unsampled, sampled = normal_tail(end / spread), normal_tail((end - 1 / law.noise) / spread)
            total += n * (unsampled if run.direction == "add" else (1 - law.rate) * unsampled + law.rate * sampled)
    return total


def _gaussian_moment(run: Run, z: Ball) -> Ball:
    """Return E e^{zL} of all unsampled steps."""
    return (run.gaussian * z * (z - 1) / 2).exp()


def _argument(run: Run, tilt: float) -> Ball:
    """Return where phi is needed for the tilt c: c or 1 - c."""
    arb = flint().arb
    return arb(tilt) if run.direction == "remove" else 1 - arb(tilt)


def moment(run: Run, tilt: float, *, quiet: bool = False) -> Ball:
    """Return an enclosure of e^{G(c)}, of the whole run or of quiet events alone (laws not split count as quiet)."""
    x = _argument(run, tilt)
    result = _gaussian_moment(run, x)
    for law, n in zip(run.laws, run.steps, strict=True):
        parts = [part for part in law.parts if not (quiet and part == "loud")]
        result *= sum((real_moment(law, part, x) for part in parts), flint().arb(0)) ** n
    return result


def amplitudes(run: Run, tilt: float, step: float, nodes: int) -> list[Ball]:
    """Return enclosures of e^{G(c + iy)} at y = 0, h, ..., nodes * h; of a split run, less that of quiet events."""
    acb, arb = flint().acb, flint().arb
    x = _argument(run, tilt)
    whole = [_gaussian_moment(run, acb(x, arb(step) * m)) for m in range(nodes + 1)]
    quiet: list[Ball] = list(whole) if run.is_split else []
    for law, n in zip(run.laws, run.steps, strict=True):
        values = [line_moments(law, part, x, step, nodes) for part in law.parts]
        whole = [total * sum(parts, acb(0)) ** n for total, *parts in zip(whole, *values, strict=True)]
        if quiet:
            quiet = [total * first**n for total, first in zip(quiet, values[0], strict=True)]
    if quiet:
        whole = [total - first for total, first in zip(whole, quiet, strict=True)]
    return whole if run.direction == "remove" else [value.conjugate() for value in whole]


def amplitude_decay(run: Run, tilt: float, y: Ball) -> Ball:
    r"""Return a bound on |e^{G(c+iy')}| for all |y'| >= y (of a split run, less that of quiet events).

    A product of the laws' bounds. Of a split run: |prod (q+l)^n - prod q^n| <= sum_i n_i |l_i| prod A^n / A_i, where
    A_i = phi_i(c) is above |q_i + l_i| and |q_i|, and only l_i, the loud part, must fall. Unsampled steps have
    |phi| = e^{v (x^2 - x - y^2)/2}.
    """
    x = _argument(run, tilt)
    result = (run.gaussian * (x * x - x - y * y) / 2).exp()
    if not run.is_split:
        for law, n in zip(run.laws, run.steps, strict=True):
            result *= decay_bound(law, "all", x, y) ** n
        return result
    relative = flint().arb(0)
    for law, n in zip(run.laws, run.steps, strict=True):
        size = sum((real_moment(law, part, x) for part in law.parts), flint().arb(0))
        result *= size**n
        if "loud" in law.parts:
            relative += n * decay_bound(law, "loud", x, y) / size
    return result * relative


def chernoff(size: Ball, tilt: float, epsilon: Ball) -> Ball:
    r"""Return kappa(c) e^{G(c)} e^{-(c-1) epsilon}, an upper bound on delta at every real epsilon; size = e^{G(c)}.

    (x - y)_+ <= kappa(c) x^c y^{1-c}, kappa(c) = (c-1)^{c-1} / c^c: the maximum over x of (x - y) / (x^c y^{1-c}) is at
    x = c y / (c - 1). At c = 1 it is (x - y)_+ <= x; below, there is none.
    """
    c = flint().arb(tilt)
    d = c - 1
    if d < 0:
        raise CertificationError(f"a Chernoff bound on delta needs a tilt of at least 1, not {tilt!r}")
    log_kappa = (d * d.log() if d > 0 else 0) - c * c.log()
    return size * (log_kappa - d * epsilon).exp()


def line_sum(values: Sequence[Ball], tilt: float, step: float, epsilon: Ball) -> Ball:
    """Return the trapezoid rule h/(2 pi) sum_m e^{G(z) + (1-z) epsilon} / (z (z-1)), z = c + imh."""
    arb, acb = flint().arb, flint().acb
    d, h = arb(tilt) - 1, arb(step)
    total = arb(0)
    for m, value in enumerate(values):
        term = (value * acb(0, -h * m * epsilon).exp() / (acb(d + 1, h * m) * acb(d, h * m))).real
        total += term if m == 0 else 2 * term
    return total * (-d * epsilon).exp() * h / (2 * arb.pi())


def closed_form(history: Sequence[tuple[float, float, int]], direction: Direction, epsilon: float) -> Ball:
    """Return delta of one step, or of any number of unsampled ones.

    Raises:
      CertificationError: the history is neither.

    Source:
      Balle & Wang 2018, "Improving the Gaussian Mechanism", Theorem 8, https://arxiv.org/abs/1805.06530; for one
      sampled step the loss is monotone in the score, so that it exceeds epsilon on a half-line.
    """
    arb = flint().arb
    e = arb(epsilon)
    if all(q == 1.0 for _, q, _ in history):
        mu = gaussian_variance(history).sqrt()
        return normal_tail(e / mu - mu / 2) - e.exp() * normal_tail(e / mu + mu / 2)
    if len(history) != 1 or history[0][2] != 1:
        raise CertificationError(f"no closed form is known for {list(history)}")
    s, q = arb(history[0][0]), arb(history[0][1])
    sign = 1 if direction == "remove" else -1
    ratio = ((sign * e).expm1() + q) / q  # e^w where the loss is +-epsilon
    if ratio <= 0:
        return arb(0)
    u = s * ratio.log() + 1 / (2 * s)
    p, other = (1 - q) * normal_tail(sign * u) + q * normal_tail(sign * (u - 1 / s)), normal_tail(sign * u)
    return p - e.exp() * other if direction == "remove" else other - e.exp() * p


def add_limit(history: Sequence[tuple[float, float, int]]) -> Ball:
    """Return -sum n log(1 - q): from there on delta is 0 in the add direction, as no loss is larger."""
    arb = flint().arb
    return -sum((n * (1 - arb(q)).log() for _, q, n in history), arb(0))
