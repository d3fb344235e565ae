r"""An independent judge: delta of composed Poisson-subsampled Gaussians in ball arithmetic (python-flint).

It shares nothing with the package but the mathematics, and no code. Its contour bends towards the right from a saddle
point, its scores lie on lines shifted into the complex plane, its arithmetic is that of balls of 128 bits, whose radii
bound rounding rigorously. What is not rigorous is the discretisation: both rules are refined, on another path, until
two levels agree, and that agreement is returned. Paths and steps are chosen in `oracle_plan`, in floating point.

    delta_remove(e) = (1/pi) Im Int e^{Phi(z) + (1-z) e} / (z (z-1)) dz       from c > 1 upwards,
    delta_add(e)    = (1/pi) Im Int e^{Phi(z) + z e} / (z (z-1)) dz           from c < 0 upwards,

Phi = sum of n log phi, phi(z) = E_Q[e^{z L}] = e^{z base} (1 + E_Q[e^{z (L - base)} - 1]). In the remove direction the
integral with a constant loss <= 0 in place of all steps vanishes, so it is subtracted from the integrand: what stays is
as small as delta where few steps reveal anything. Events beyond a barrier count as L = base, which moves delta by at
most the mass there; delta up to one barrier and the difference to the next one may have paths of their own.
"""

from __future__ import annotations

import math
import time

import numpy as np
from flint import acb, arb, ctx
from oracle_laws import STEEPEST, History, Law, Problem, barriers_for_mass
from oracle_panels import NODES
from oracle_paths import Path
from oracle_plan import Line, Part, Plan, node_lines, plan_parts

BITS = 128
AGREEMENT = 3e-12
WORST = 1e-9
"""Relative error with which a value is still returned when levels or time run out."""
MORE_NODES, FINER_STEPS = 1.4, 1.2
"""By how much each level is finer, outside and inside."""
LOG_TOLERANCE = -32.0
"""Log of the error that the inner sums may add at the first level, over delta; each level takes 2 from it."""
LEVELS = 5
DOUBT, LEAST_DOUBT = 10.0, 1e-13
"""The relative error returned is DOUBT times the levels' difference, which may be small by chance, and LEAST_DOUBT."""


def _upper_tail(x: arb) -> arb:
    """Return the probability that a standard normal exceeds x, at the precision set."""
    return (x / arb(2).sqrt()).erfc() / 2


def gaussian_delta(epsilon: float, noise_multiplier: float, steps: int) -> arb:
    """Return delta of unsampled Gaussian steps, in closed form (Balle & Wang 2018, Theorem 8)."""
    ctx.prec = 4 * BITS
    mu = arb(steps).sqrt() / arb(noise_multiplier)
    return _gaussian_delta(arb(epsilon), mu)


def _gaussian_delta(e: arb, mu: arb) -> arb:
    """Return delta of a Gaussian whose mean is mu standard deviations away."""
    return _upper_tail(e / mu - mu / 2) - e.exp() * _upper_tail(e / mu + mu / 2)


def single_step_delta(epsilon: float, noise_multiplier: float, sample_rate: float, direction: str) -> arb:
    """Return delta of one subsampled step: the loss exceeds epsilon on a half-line."""
    ctx.prec = 4 * BITS
    s, q, e = arb(noise_multiplier), arb(sample_rate), arb(epsilon)
    if direction == "remove":
        t = s * (((e.exp() - 1 + q) / q).log()) + 1 / (2 * s)
        p, other = (1 - q) * _upper_tail(t) + q * _upper_tail(t - 1 / s), _upper_tail(t)
        return p - e.exp() * other
    inside = ((-e).exp() - 1 + q) / q
    if not inside > 0:
        return arb(0)
    t = s * inside.log() + 1 / (2 * s)
    return _upper_tail(-t) - e.exp() * ((1 - q) * _upper_tail(-t) + q * _upper_tail(1 / s - t))


def exact_delta(history: History, epsilon: float, direction: str) -> arb | None:
    """Return delta by a closed form, if there is one: no step, one step, unsampled steps."""
    steps = [(s, q, n) for s, q, n in history if n > 0 and q > 0]
    if not steps:
        return arb(0)
    if all(q == 1 for _, q, _ in steps):
        ctx.prec = 4 * BITS
        return _gaussian_delta(arb(epsilon), sum((n / arb(s) ** 2 for s, _, n in steps), arb(0)).sqrt())
    if len(steps) == 1 and steps[0][2] == 1:
        return single_step_delta(epsilon, steps[0][0], steps[0][1], direction)
    return None


def judge(
    history: History, epsilon: float, time_limit: float = math.inf, steepest: float = STEEPEST
) -> tuple[arb, float]:
    """Return the larger of the two directions' delta, by closed forms where there are any, and its relative error."""
    # at epsilon = 0 both directions are the total variation distance, and the add direction is the cheaper one
    direction = "remove" if epsilon > 0 else "add"
    value, error = direction_delta(history, epsilon, direction, time_limit, steepest)
    if direction == "remove" and chernoff(history, epsilon, "add") >= float(value.mid()):
        other, other_error = direction_delta(history, epsilon, "add", time_limit, steepest)
        if other.mid() > value.mid():
            return other, other_error
    return value, error


def direction_delta(
    history: History, epsilon: float, direction: str, time_limit: float = math.inf, steepest: float = STEEPEST
) -> tuple[arb, float]:
    """Return one direction's delta, by a closed form if there is one, and its relative error."""
    exact = exact_delta(history, epsilon, direction)
    if exact is not None:
        return exact, 0.0
    return delta(history, epsilon, direction, time_limit=time_limit, steepest=steepest)


@np.errstate(all="ignore")
def chernoff(history: History, epsilon: float, direction: str) -> float:
    """Return a bound above the add direction's delta, 1 otherwise: (1 - e^x)_+ <= e^{tx} for every t < 0."""
    if direction != "add" or exact_delta(history, epsilon, direction) is not None:
        return 1.0
    problem = Problem(history, epsilon, direction, [barriers_for_mass(history, -100.0, 5.0)])
    try:
        t, _, log_value = problem.saddle(0)  # barriers only lower the loss, and so raise e^{tL}
    except ArithmeticError:
        return 1.0
    return math.exp(min(log_value + math.log(t * (t - 1)) + 1e-3, 0.0))


def delta(
    history: History,
    epsilon: float,
    direction: str,
    *,
    agreement: float = AGREEMENT,
    time_limit: float = math.inf,
    steepest: float = STEEPEST,
) -> tuple[arb, float]:
    """Return delta as a ball, and its relative error: from the last two levels and the mass cut off.

    Args:
      history: (noise_multiplier, sample_rate, steps) triples.
      epsilon: >= 0.
      direction: "remove" or "add".
      agreement: relative difference of two levels at which no further one is asked.
      time_limit: seconds of this process.
      steepest: largest slope of the path; a smaller one gives another path, for a second opinion.

    Raises:
      ArithmeticError: two levels did not agree to WORST.
      TimeoutError: there was no time for two levels.
    """
    if direction == "add" and all(q < 1 for _, q, n in history if n > 0):
        limit = -math.fsum(n * math.log1p(-q) for _, q, n in history)
        if epsilon >= limit * (1 + 1e-12):
            return arb(0), 0.0
    deadline = time.process_time() + time_limit
    plan, previous = _first_level(history, epsilon, direction, deadline, steepest)
    error = math.inf
    for level in range(1, LEVELS):
        try:
            value = _value(plan, level, deadline)
        except TimeoutError:
            break
        difference = abs(float((value / previous).mid()) - 1)
        cut = float((arb(plan.log_cut).exp() / abs(value)).mid())
        error, previous = DOUBT * difference + LEAST_DOUBT + cut, value
        if difference < agreement:
            break
    if error > WORST:
        raise ArithmeticError(f"{history}, {epsilon}, {direction}: levels agree to {error:g} only")
    return previous, error


def _first_level(
    history: History, epsilon: float, direction: str, deadline: float, steepest: float
) -> tuple[Plan, arb]:
    """Return a plan and the first level's delta, which agrees with what the plan's tolerances are relative to.

    Raises:
      ArithmeticError: no plan led to such a delta.
    """
    avoid, log_delta, reason = 0, None, ""
    for _ in range(6):
        plan = plan_parts(history, epsilon, direction, deadline, avoid, log_delta, steepest)
        value = _value(plan, 0, deadline)
        log_value = float(abs(value).log().mid())
        if value > 0 and abs(log_value - plan.log_delta) < 0.5 and plan.log_cut < log_value - 27:
            return plan, value
        reason = f"first level: {value.str(5)}, planned exp({plan.log_delta:.3f}), cut exp({plan.log_cut:.1f})"
        if value > 0 and log_value < plan.log_delta:  # floating point could not see so small a delta
            avoid, log_delta = 0, log_value
        else:  # it had misjudged the path
            avoid, log_delta = avoid + 1, None
    raise ArithmeticError(reason)


def _value(plan: Plan, level: int, deadline: float) -> arb:
    """Return delta at one level."""
    ctx.prec = BITS + math.ceil(2 * max(plan.log_condition, 0.0))
    integral = _Integral(plan, level, deadline)
    return sum((integral.value(part) for part in plan.parts), arb(0))


class _Integral:
    """The integral of one part at one level of fineness."""

    def __init__(self, plan: Plan, level: int, deadline: float) -> None:
        self.plan, self.level, self.deadline = plan, level, deadline
        self.tables: dict[tuple[int, int, float, float], dict[int, tuple[acb, acb]]] = {}

    def value(self, part: Part) -> arb:
        """Return the sum over all panels; the path is another one at each level."""
        old = part.path
        path = Path(
            old.start + 0.04 * self.level * old.scale, old.slope * (1 + 0.02 * self.level), old.onset, old.scale
        )
        count = round(NODES * MORE_NODES**self.level)
        rule = [arb.legendre_p_root(count, k, True) for k in range(count)]
        problem = self.plan.problem
        t, weights = [], []
        for a, b in part.panels:
            middle, half = (arb(a) + arb(b)) / 2, (arb(b) - arb(a)) / 2
            t += [middle + half * x for x, _ in rule]
            weights += [half * w for _, w in rule]
        floats = np.array([float(x.mid()) for x in t])
        zeta, slope = path.zeta(floats)
        log_tol = self.plan.log_delta + LOG_TOLERANCE - 2.0 * self.level - np.log(np.abs(slope) * part.panels[-1][1])
        barriers = [part.index] if part.index == 0 else [part.index, part.index - 1]
        lines = {k: node_lines(problem, zeta, log_tol, k) for k in barriers}
        total = arb(0)
        for i, x in enumerate(t):
            if time.process_time() > self.deadline:
                raise TimeoutError("out of time")
            at, derivative = _point(path, x)
            powers = [self._power(at, k, [law[i] for law in lines[k]]) for k in barriers]
            if part.index > 0:
                powers[0] -= powers[1]
            elif problem.atom:
                powers[0] -= 1
            total += (powers[0] * self._factor(at) * derivative).imag * weights[i]
        return total / arb.pi()

    def _factor(self, at: acb) -> acb:
        """Return what stands before the powers."""
        problem, e = self.plan.problem, arb(self.plan.problem.epsilon)
        exponent = (1 - at) * e if problem.remove else at * e
        for law in problem.laws:
            exponent += law.steps * at * _base(law)
        for s, n in problem.gaussian:
            exponent += n * at * (at - 1) / (2 * arb(s) ** 2)
        return exponent.exp() / (at * (at - 1))

    def _power(self, at: acb, barrier: int, lines: list[Line]) -> acb:
        """Return the product of (1 + E)^n."""
        product = acb(1)
        for i, (law, line) in enumerate(zip(self.plan.problem.laws, lines, strict=True)):
            step = line.step / FINER_STEPS**self.level
            table = self.tables.setdefault((i, barrier, line.share, step), {})
            total = acb(0)
            for j in range(math.floor(line.low / step), math.ceil(line.high / step) + 1):
                node = table.get(j)
                if node is None:
                    node = table[j] = self._node(law, barrier, line.share, step, j)
                total += node[0] * ((at * node[1]).exp() - 1)
            product *= (1 + total) ** law.steps
        return product

    def _node(self, law: Law, barrier: int, share: float, step: float, j: int) -> tuple[acb, acb]:
        """Return weight (density, barrier and step) and lambda at one score."""
        h = arb(step)
        u = acb(h * (arb(j) + arb(self.level) / 2), arb(share * law.reach))
        s, q = arb(law.noise), arb(law.rate)
        w = u / s - 1 / (2 * s * s)
        loss = (1 + q / (1 - q) * w.exp()).log() if law.quiet else (1 + q * (w.exp() - 1)).log()
        weight = (-u * u / 2).exp() * h / (2 * arb.pi()).sqrt()
        score, width = law.barriers[barrier]
        away = (u - arb(score)) / (arb(width) * arb(2).sqrt())
        x, y = float(away.real.mid()), float(away.imag.mid())
        if x > -math.sqrt(y * y + 90.0):  # below that it is 1, to within the bits
            weight *= away.erfc() / 2
        return weight, loss


def _base(law: Law) -> arb:
    """Return the loss from which lambda counts."""
    return (1 - arb(law.rate)).log() if law.quiet else arb(0)


def _point(path: Path, t: arb) -> tuple[acb, acb]:
    """Return zeta and its derivative by t."""
    scale, onset, slope = arb(path.scale), arb(path.onset), arb(path.slope)
    y = scale * t.sinh()
    root = (y * y + onset * onset).sqrt()
    return acb(arb(path.start) + slope * (root - onset), y), acb(slope * y / root, 1) * scale * t.cosh()
