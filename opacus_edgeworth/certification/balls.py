r"""One phase in ball arithmetic: its characteristic function, and a bound on every error (python-flint).

A ball is a number with a radius that python-flint keeps rigorous through every operation. On top of that rounding
come the errors of quadrature and truncation; each is a function below, with its derivation. Nothing here depends on
how a parameter was chosen: a bad choice gives a wide ball or a refusal, never a wrong one.

Letters, throughout: s noise_multiplier, q sample_rate, n steps; u = x/s, a standard normal score under Q; N its
density; L(u) = log(1 - q + q e^w), w = u/s - 1/(2 s^2); phi(z) = E_Q[chi e^{zL}], chi a weight below; from here on,
x = Re z and y = Im z.

Weights. A law may be cut off, and split, at soft barriers: chi(u) = P(A <= u + W xi < B), xi standard normal. "all" has
A = -inf and B = cut; "quiet" B = split instead; "loud" A = split, B = cut. Without barriers chi = 1. Cutting off lowers
delta: see `composed.cut_off`.

Growth off the real line, 0 <= theta = |v|/s < pi:
- |N(u+iv)| = e^{v^2/2} N(u), and |chi(u+iv)| <= e^{v^2/(2W^2)} chi(u), since chi(u) = Int_A^B N((t-u)/W) dt/W. Both
  together: a factor e^{g v^2/2}, g = 1 without barriers and 1 + 1/W^2 with them.
- R = |1-q+q e^{w+i theta}| has (1-q+q e^w) cos(theta/2) <= R <= 1-q+q e^w, and the argument T of that number lies in
  [0, theta]. Hence |e^{zL(u+iv)}| <= e^{x L(u)} e^{|y| theta} cos(theta/2)^{min(x,0)}.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

from opacus_edgeworth.errors import CertificationError

Ball: TypeAlias = Any
"""A flint.arb or flint.acb: python-flint is an extra, and is not imported before it is needed."""
BLOCK = 256
"""Scores per matrix product: bounds memory."""


@dataclass(frozen=True, slots=True)
class Rule:
    """How one phase's law is summed: free choices, all of them.

    Args:
      spacing: k, distance of the scores u_j = j k.
      first, last: the range of j.
      strip: a of `rule_error`, half-width of the strip in which the integrand is bounded, below pi s.
      shift: a of `decay_bound`, how far the line of scores is moved there; 0 where it is not used.
      shifted_strip: b of `decay_bound`, the half-width of the strip about that line, shift + b below pi s.
      width: W, of the barriers; 0 where there are none.
      split: (U,) where quiet events end and loud ones begin; () where the law is not split.
      cut: (U,) where the law is cut off; () where it is not.
    """

    spacing: float
    first: int
    last: int
    strip: float
    shift: float
    shifted_strip: float
    width: float
    split: tuple[float, ...]
    cut: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Law:
    """One phase on its scores: u_j, L(u_j), k N(u_j), and k N(u_j) chi(u_j) for every part, as balls."""

    noise: Ball
    rate: Ball
    rule: Rule
    score: tuple[Ball, ...]
    loss: tuple[Ball, ...]
    density: tuple[Ball, ...]
    parts: dict[str, tuple[Ball, ...]]


def flint() -> Any:
    """Return the module python-flint provides.

    Raises:
      ImportError: it is not installed.
    """
    try:
        return importlib.import_module("flint")
    except ImportError:
        raise ImportError("audits need python-flint: pip install opacus_edgeworth[audit]") from None


def normal_tail(x: Ball) -> Ball:
    """Return the probability that a standard normal exceeds x."""
    return (x / flint().arb(2).sqrt()).erfc() / 2


def make_law(noise_multiplier: float, sample_rate: float, rule: Rule) -> Law:
    """Return one phase on its scores."""
    arb = flint().arb
    s, q, k = arb(noise_multiplier), arb(sample_rate), arb(rule.spacing)
    half_width = arb.pi() * s
    if not (k > 0 and rule.strip > 0 and rule.shift >= 0 and rule.shifted_strip > 0 and arb(rule.strip) < half_width):
        raise CertificationError(f"not a quadrature rule for noise multiplier {noise_multiplier!r}: {rule}")
    if not arb(rule.shift) + arb(rule.shifted_strip) < half_width:
        raise CertificationError(f"the shifted strip of {rule} leaves the domain of the privacy loss")
    score = tuple(k * j for j in range(rule.first, rule.last + 1))
    loss = tuple((1 - q + q * (u / s - 1 / (2 * s * s)).exp()).log() for u in score)
    scale = k / (2 * arb.pi()).sqrt()
    density = tuple(scale * (-u * u / 2).exp() for u in score)
    parts = {
        part: tuple(p * _window(rule, part, u) for p, u in zip(density, score, strict=True)) for part in _parts(rule)
    }
    return Law(s, q, rule, score, loss, density, parts)


def _parts(rule: Rule) -> tuple[str, ...]:
    """Return the parts a law has; of a split one they add up to the whole."""
    if max(len(rule.split), len(rule.cut)) > 1 or not (
        rule.width > 0.0 if rule.split or rule.cut else rule.width == 0.0
    ):
        raise CertificationError(f"barriers need a width, and a width barriers: {rule}")
    if not max(rule.split, default=-math.inf) < min(rule.cut, default=math.inf):
        raise CertificationError(f"a law is split below where it is cut off: {rule}")
    return ("quiet", "loud") if rule.split else ("all",)


def _ends(rule: Rule, part: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return (A,) and (B,) of a part's weight, () where infinite."""
    return rule.split if part == "loud" else (), rule.split if part == "quiet" else rule.cut


def _window(rule: Rule, part: str, u: Ball) -> Ball:
    """Return chi(u) = P(A <= u + W xi < B) of a part, from the side where the two tails do not cancel."""
    below, above = ([(flint().arb(end) - u) / rule.width for end in ends] for ends in _ends(rule, part))
    if not above:
        return normal_tail(below[0]) if below else flint().arb(1)
    if not below:
        return normal_tail(-above[0])
    if below[0] + above[0] < 0:
        return normal_tail(-above[0]) - normal_tail(-below[0])
    return normal_tail(below[0]) - normal_tail(above[0])


def _growth(law: Law) -> Ball:
    """Return g: off the real line |N chi| grows by e^{g v^2 / 2} at most (see the module)."""
    arb = flint().arb
    return 1 + 1 / arb(law.rule.width) ** 2 if law.rule.width > 0.0 else arb(1)


def rule_error(law: Law, x: Ball, y: Ball) -> Ball:
    r"""Return a bound on the trapezoid rule's error in phi(x + iy), in units of phi(x).

    For f analytic in |Im u| <= a and integrable along its edges, k sum f(jk) differs from its integral by at most
    (Int |f(u+ia)| + Int |f(u-ia)|) / (e^{2 pi a / k} - 1), and both edges have at most
    e^{g a^2/2 + |y| a/s} cos(a/(2s))^{min(x,0)} phi(x).

    Source:
      Trefethen & Weideman 2014, "The exponentially convergent trapezoidal rule", Theorem 5.1,
      https://doi.org/10.1137/130932132; the edges by the module's growth bounds.
    """
    arb = flint().arb
    a, s = arb(law.rule.strip), law.noise
    size = (_growth(law) * a * a / 2 + y * a / s).exp() * _left_factor(x, a / (2 * s))
    return 2 * size / (2 * arb.pi() * a / law.rule.spacing).expm1()


def _left_factor(x: Ball, half_angle: Ball) -> Ball:
    """Return cos(half_angle)^{min(x, 0)}, half_angle in [0, pi/2); an x of unknown sign counts as negative."""
    return flint().arb(1) if x >= 0 else (-abs(x) * half_angle.cos().log()).exp()


def range_error(law: Law, part: str, x: Ball) -> Ball:
    r"""Return a bound on the sum of k N chi e^{xL} over all scores beyond the range.

    L is convex in u with dL/du <= 1/s, so moving a distance t outward from the last score u > 0 changes N e^{xL} by a
    factor of at most e^{-rho t}, rho = u - max(x, 0)/s; from the first one, rho = -u - max(-x, 0) L'(u). Where chi ends
    at B, it falls outward by e^{-(u-B) t/W^2} at least: N((t' - u - t)/W) <= N((t' - u)/W) e^{(t'-u) t/W^2}, t' < B;
    likewise at A. Where it does not end, it is at most 1. Beyond the range is a geometric series of ratio e^{-rho k}.
    """
    arb = flint().arb
    total = arb(0)
    for index, sign, end in zip((0, -1), (-1, 1), _ends(law.rule, part), strict=True):
        u, outward = law.score[index], x * sign
        steepest = _slope(law, index) if sign < 0 else 1 / law.noise
        rate = u * sign - (0 if outward <= 0 else abs(outward) * steepest)
        if end:
            rate += sign * (u - end[0]) / arb(law.rule.width) ** 2
        if not rate > 0:
            raise CertificationError(f"the range of scores is too short for the tilt {float(x):g}: {law.rule}")
        edge = (law.parts[part] if end else law.density)[index] * (x * law.loss[index]).exp()
        total += edge / (rate * law.rule.spacing).expm1()
    return total


def _slope(law: Law, index: int) -> Ball:
    """Return L'(u) = q e^{w - L} / s at a score; it rises with u."""
    w = law.score[index] / law.noise - 1 / (2 * law.noise**2)
    return law.rate * (w - law.loss[index]).exp() / law.noise


def real_moment(law: Law, part: str, x: Ball) -> Ball:
    """Return an enclosure of phi(x) of one part: with r the rule's relative error, phi = sum / (1 +- r)."""
    arb = flint().arb
    relative = rule_error(law, x, arb(0))
    if not relative < 0.5:
        raise CertificationError(f"the scores are too coarse for the tilt {float(x):g}: {law.rule}")
    total = sum((p * (x * loss).exp() for p, loss in zip(law.parts[part], law.loss, strict=True)), arb(0))
    return (total / (1 + relative)).union((total + range_error(law, part, x)) / (1 - relative))


def line_moments(law: Law, part: str, x: Ball, step: float, nodes: int) -> list[Ball]:
    """Return enclosures of phi(x + iy) of one part at y = 0, h, ..., nodes * h, h = step.

    With m = b + M g, e^{i m h L} = e^{i b h L} e^{i M g h L}: one matrix product over the scores. Errors of rule and
    range are those at the last node, the largest, and enter every radius; so do the weights of scores left out, which
    are below the precision.
    """
    lib = flint()
    arb, acb = lib.arb, lib.acb
    h = arb(step)
    count = math.isqrt(nodes) + 1
    rows = nodes // count + 1
    terms = [(p * (x * loss).exp(), loss) for p, loss in zip(law.parts[part], law.loss, strict=True)]
    least = sum((weight for weight, _ in terms), arb(0)) * arb(2) ** -lib.ctx.prec
    left_out = sum((weight for weight, _ in terms if weight < least), arb(0))
    terms = [(weight, h * loss) for weight, loss in terms if not weight < least]
    product = lib.acb_mat(rows, count)
    for start in range(0, len(terms), BLOCK):
        block = terms[start : start + BLOCK]
        right = [acb(0, t * b).exp() for _, t in block for b in range(count)]
        left = [p * acb(0, t * (g * count)).exp() for g in range(rows) for p, t in block]
        product += lib.acb_mat(rows, len(block), left) * lib.acb_mat(len(block), count, right)
    size = real_moment(law, part, x)
    radius = (rule_error(law, x, h * nodes) * size + range_error(law, part, x) + left_out).upper()
    around = radius.union(-radius)
    error = acb(around, around)
    return [product[m // count, m % count] + error for m in range(nodes + 1)]


def decay_bound(law: Law, part: str, x: Ball, y: Ball) -> Ball:
    r"""Return a bound on |phi(x + iy')| of one part, for all |y'| >= y > 0.

    Moving the line of scores up by a (Cauchy), |phi(x + iy')| <= Int |N chi|(u+ia) R^x e^{-y' T} du with R, T of the
    module at theta = a/s; T >= 0, so the right side falls as y' rises, and y' = y serves all. |N chi| is replaced by
    e^{g a^2/2} N chi, and the integral taken by the trapezoid rule on the scores.

    The rule's error: R^x e^{-yT} continues analytically as exp(x (L(u+ia) + L(u-ia))/2 + iy (L(u+ia) - L(u-ia))/2).
    At u+iv, |v| <= b, the first part has modulus at most e^{x L(u)} cos((a+b)/(2s))^{min(x,0)}; the second
    e^{-y (T(v+a) - T(v-a))/2}, T(v) odd and between 0 and v/s for v > 0: at most e^{y max(b-a, 0)/(2s)}.
    """
    arb, acb = flint().arb, flint().acb
    a, b, s, q = arb(law.rule.shift), arb(law.rule.shifted_strip), law.noise, law.rate
    theta, g = a / s, _growth(law)
    total = arb(0)
    for u, p in zip(law.score, law.parts[part], strict=True):
        shifted = (1 - q + q * acb(u / s - 1 / (2 * s * s), theta).exp()).log()
        total += p * (x * shifted.real - y * shifted.imag).exp()
    total += range_error(law, part, x) * _left_factor(x, theta / 2)
    excess = (b - a) / (2 * s) if b > a else arb(0)
    size = (g * b * b / 2 + y * excess).exp() * _left_factor(x, (a + b) / (2 * s)) * real_moment(law, part, x)
    error = 2 * size / (2 * arb.pi() * b / law.rule.spacing).expm1()
    return (g * a * a / 2).exp() * (total + error)
