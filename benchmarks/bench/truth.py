"""The truth that every answer is judged by: proved bounds of opacus_edgeworth."""

from __future__ import annotations

import math
from typing import Literal

import opacus_edgeworth as ew
from bench.regimes import History, Target

Verdict = Literal["sound", "below", "negative", "infinite", "not a number", "unknown"]


def epsilon_bounds(history: History, delta: float) -> tuple[float, float]:
    """Return proved bounds on epsilon."""
    bounds = ew.PrivacyCurve(history).epsilon(delta)
    return bounds.lower, bounds.upper


def least_delta(history: History, epsilon: float) -> float:
    """Return a proved lower bound on delta at epsilon, which no sound answer exceeds its own delta by."""
    return ew.PrivacyCurve(history).delta(max(epsilon, 0.0)).lower


def noise_bounds(target: Target) -> tuple[float, float]:
    """Return noise multipliers of which the lower is proved too little and the upper enough, as close as they get."""
    upper = ew.calibrate_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sample_rate=target.sample_rate,
        steps=target.steps,
        rel_tol=1e-10,
    )
    for gap in (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1):
        lower = upper * (1.0 - gap)
        if least_delta(((lower, target.sample_rate, target.steps),), target.epsilon) > target.delta:
            return lower, upper
    return 0.0, upper


def judge(value: float, lower: float, upper: float) -> Verdict:
    """Return what an answer is worth that claims to be at least the number in [lower, upper]."""
    if math.isnan(value):
        return "not a number"
    if value < 0.0:
        return "negative"
    if math.isnan(lower):
        return "unknown"
    if value < lower:
        return "below"
    return "infinite" if math.isinf(value) and math.isfinite(upper) else "sound"
