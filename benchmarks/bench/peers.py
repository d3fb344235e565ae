"""Every accountant behind one interface, each used as its documentation uses it.

Peers are optional and untyped, so they are imported by name where they are used; a peer that is not installed is listed
as absent. An adapter holds no arithmetic of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module, metadata
from typing import Any

from bench.regimes import History, Target

Epsilon = Callable[[History, float], float]
Noise = Callable[[Target], float]
Log = Callable[[float, float, int, float], Iterator[float]]

PRV_EPSILON_ERROR = 0.01  # what Opacus passes for its PRV accountant; prv-accountant has no default


class NotOfferedError(Exception):
    """The peer has no interface for this work."""


@dataclass(frozen=True, slots=True)
class Peer:
    """One accountant.

    Args:
      name: how the tables call it.
      distribution: its name on PyPI.
      modules: what is imported before anything is timed.
      directions: the directions of add/remove adjacency that its answer covers.
      answer: what its answer claims to be.
      settings: the settings it runs with.
      epsilon: from (history, delta) to epsilon.
      noise: from a target to the noise multiplier; None where it has no search.
      log: from (noise_multiplier, sample_rate, steps, delta) to epsilon after each step; None where it is not asked.
      only_breaking: whether it runs only where accountants break, for want of time.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    directions: str
    answer: str
    settings: str
    epsilon: Epsilon
    noise: Noise | None = None
    log: Log | None = None
    only_breaking: bool = False

    @property
    def version(self) -> str | None:
        """The installed version, None where the peer is absent."""
        try:
            return metadata.version(self.distribution)
        except metadata.PackageNotFoundError:
            return None


# --- Opacus's accountants, ours among them -----------------------------------------------------------------------


def _opacus_epsilon(mechanism: str, history: History, delta: float) -> float:
    """Return epsilon by an accountant that Opacus knows."""
    accountant = import_module("opacus.accountants").create_accountant(mechanism)
    for noise_multiplier, sample_rate, _ in history:
        # a step of each phase, because an accountant may refuse a change of phase there (GDP) and nowhere else
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
    accountant.history = list(history)
    return accountant.get_epsilon(delta)


def _opacus_noise(mechanism: str, target: Target) -> float:
    """Return the noise multiplier by Opacus's search with its default tolerance, as make_private_with_epsilon does."""
    return import_module("opacus.accountants.utils").get_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sample_rate=target.sample_rate,
        steps=target.steps,
        accountant=mechanism,
    )


def _opacus_log(
    mechanism: str, noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> Iterator[float]:
    """Yield epsilon after each step of a run, as a training loop logs it."""
    accountant = import_module("opacus.accountants").create_accountant(mechanism)
    for _ in range(steps):
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
        yield accountant.get_epsilon(delta)


def _own_noise(target: Target) -> float:
    """Return the least noise multiplier that is proved to do."""
    return import_module("opacus_edgeworth").calibrate_noise_multiplier(
        target_epsilon=target.epsilon,
        target_delta=target.delta,
        sample_rate=target.sample_rate,
        steps=target.steps,
    )


# --- prv-accountant ----------------------------------------------------------------------------------------------


def _prv_accountant(history: History, delta: float) -> Any:
    """Return Microsoft's accountant for all phases at once."""
    prv = import_module("prv_accountant")
    return prv.PRVAccountant(
        prvs=[
            prv.PoissonSubsampledGaussianMechanism(sampling_probability=sample_rate, noise_multiplier=noise_multiplier)
            for noise_multiplier, sample_rate, _ in history
        ],
        max_self_compositions=[steps for _, _, steps in history],
        eps_error=PRV_EPSILON_ERROR,
        delta_error=delta / 1000,
    )


def _prv_epsilon(history: History, delta: float) -> float:
    """Return the upper end of prv-accountant's interval."""
    return _prv_accountant(history, delta).compute_epsilon(delta, [steps for _, _, steps in history])[2]


def _prv_noise(target: Target) -> float:
    """Return the noise multiplier by prv-accountant's search with its default tolerance."""
    return import_module("prv_accountant.dpsgd").find_noise_multiplier(
        sampling_probability=target.sample_rate,
        num_steps=target.steps,
        target_epsilon=target.epsilon,
        target_delta=target.delta,
    )


def _prv_log(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Iterator[float]:
    """Yield epsilon after each step from one accountant made for the whole run."""
    accountant = _prv_accountant(((noise_multiplier, sample_rate, steps),), delta)
    for step in range(1, steps + 1):
        yield accountant.compute_epsilon(delta, [step])[2]


# --- dp-accounting -----------------------------------------------------------------------------------------------


def _pld_accountant(interval: float) -> Any:
    """Return dp-accounting's PLD accountant: pessimistic connect-the-dots, add or remove one."""
    pld = import_module("dp_accounting.pld.pld_privacy_accountant")
    return pld.PLDAccountant(value_discretization_interval=interval)


def _rdp_accountant() -> Any:
    """Return dp-accounting's RDP accountant with its default orders."""
    return import_module("dp_accounting.rdp.rdp_privacy_accountant").RdpAccountant()


def _event(noise_multiplier: float, sample_rate: float) -> Any:
    """Return dp-accounting's name for one step of DP-SGD."""
    dp_accounting = import_module("dp_accounting")
    return dp_accounting.PoissonSampledDpEvent(sample_rate, dp_accounting.GaussianDpEvent(noise_multiplier))


def _google_epsilon(make: Callable[[], Any], history: History, delta: float) -> float:
    """Return epsilon by one of dp-accounting's accountants."""
    accountant = make()
    for noise_multiplier, sample_rate, steps in history:
        accountant.compose(_event(noise_multiplier, sample_rate), steps)
    return accountant.get_epsilon(delta)


def _google_noise(make: Callable[[], Any], target: Target) -> float:
    """Return the noise multiplier by dp-accounting's search, tolerance 1e-6 by default."""
    dp_accounting = import_module("dp_accounting")
    return dp_accounting.calibrate_dp_mechanism(
        make,
        lambda noise: dp_accounting.SelfComposedDpEvent(_event(noise, target.sample_rate), target.steps),
        target.epsilon,
        target.delta,
        # the default bracket starts at no noise, where epsilon is infinite and Brent's method has nothing to go by
        bracket_interval=dp_accounting.LowerEndpointAndGuess(0.3, 1.0),
    )


def _google_log(
    make: Callable[[], Any], noise_multiplier: float, sample_rate: float, steps: int, delta: float
) -> Iterator[float]:
    """Yield epsilon after each step, composed step by step."""
    accountant, event = make(), _event(noise_multiplier, sample_rate)
    for _ in range(steps):
        accountant.compose(event)
        yield accountant.get_epsilon(delta)


# --- pld-accounting ----------------------------------------------------------------------------------------------


def _subsampled_pld(noise_multiplier: float, sample_rate: float) -> Any:
    """Return one step's privacy loss distribution: dp-accounting's Gaussian, subsampled by pld-accounting."""
    pld = import_module("dp_accounting.pld.privacy_loss_distribution")
    gaussian = pld.from_gaussian_mechanism(noise_multiplier, value_discretization_interval=1e-4)
    return import_module("PLD_accounting").subsample_pld(pld=gaussian, sampling_probability=sample_rate)


def _allocation_epsilon(history: History, delta: float) -> float:
    """Return epsilon from pld-accounting's subsampled distributions, composed by dp-accounting."""
    total = None
    for noise_multiplier, sample_rate, steps in history:
        phase = _subsampled_pld(noise_multiplier, sample_rate).self_compose(steps)
        total = phase if total is None else total.compose(phase)
    if total is None:
        raise NotOfferedError("no distribution without a phase")
    return total.get_epsilon_for_delta(delta)


def _allocation_log(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Iterator[float]:
    """Yield epsilon after each step, composed step by step."""
    step = total = _subsampled_pld(noise_multiplier, sample_rate)
    for _ in range(steps):
        yield total.get_epsilon_for_delta(delta)
        total = total.compose(step)


# --- dp-accelerator ----------------------------------------------------------------------------------------------


def _accelerator(noise_multiplier: float, sample_rate: float) -> Any:
    """Return dp-accelerator's accountant; it wants the rate as a fraction of whole numbers."""
    batch_size, dataset_size = float(sample_rate).as_integer_ratio()
    return import_module("dp_accelerator").DPSGDAccountant(
        noise_multiplier=noise_multiplier, batch_size=batch_size, dataset_size=dataset_size
    )


def _accelerator_epsilon(history: History, delta: float) -> float:
    """Return epsilon by dp-accelerator, which knows one phase."""
    if len(history) != 1:
        raise NotOfferedError("one phase only")
    noise_multiplier, sample_rate, steps = history[0]
    return _accelerator(noise_multiplier, sample_rate).get_epsilon(steps, delta)


def _accelerator_log(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Iterator[float]:
    """Yield epsilon after each step, from its one call for many numbers of steps."""
    yield from _accelerator(noise_multiplier, sample_rate).get_epsilon_batch(list(range(1, steps + 1)), delta)


# --- riskcal -----------------------------------------------------------------------------------------------------


def _riskcal_epsilon(history: History, delta: float) -> float:
    """Return epsilon by riskcal's connect-the-dots accountant."""
    accountant = import_module("riskcal.accountants").CTDAccountant()
    accountant.history = list(history)
    return accountant.get_epsilon(delta=delta)


def _riskcal_noise(target: Target) -> float:
    """Return the noise multiplier by riskcal's own search with its default tolerances."""
    calibration = import_module("riskcal.calibration")
    evaluator = calibration.create_dpsgd_epsilon_evaluator(
        sample_rate=target.sample_rate, num_steps=target.steps, target_delta=target.delta
    )
    return calibration.calibrate_parameter(
        evaluator,
        calibration.CalibrationTarget(kind="epsilon_delta", epsilon=target.epsilon, delta=target.delta),
        # as riskcal's own search for DP-SGD; its default, from 0 up, starts at no noise
        calibration.CalibrationConfig(increasing=False, param_min=0.1, param_max=50.0),
    ).parameter_value


def _riskcal_log(noise_multiplier: float, sample_rate: float, steps: int, delta: float) -> Iterator[float]:
    """Yield epsilon after each step, as a training loop logs it."""
    accountant = import_module("riskcal.accountants").CTDAccountant()
    for _ in range(steps):
        accountant.step(noise_multiplier=noise_multiplier, sample_rate=sample_rate)
        yield accountant.get_epsilon(delta=delta)


# --- all of them -------------------------------------------------------------------------------------------------

OURS = "opacus_edgeworth"
OPACUS_PRV = "Opacus PRV"
OPACUS_RDP = "Opacus RDP"

# Mironov, Talwar and Zhang (2019), https://arxiv.org/abs/1908.10530: remove has the larger Rényi divergence
_BY_MIRONOV = "both: Rényi divergence is largest for remove (Mironov et al. 2019)"
_FINE, _COARSE = partial(_pld_accountant, 1e-5), partial(_pld_accountant, 1e-4)

PEERS = (
    Peer(
        OURS, "opacus_edgeworth", ("opacus_edgeworth",), "both", "proved upper bound, rounding included", "none",
        partial(_opacus_epsilon, "edgeworth"), _own_noise, partial(_opacus_log, "edgeworth"),
    ),
    Peer(
        OPACUS_RDP, "opacus", ("opacus.accountants",), _BY_MIRONOV, "upper bound in exact arithmetic",
        "default orders",
        partial(_opacus_epsilon, "rdp"), partial(_opacus_noise, "rdp"), partial(_opacus_log, "rdp"),
    ),
    Peer(
        OPACUS_PRV, "opacus", ("opacus.accountants",), "remove", "upper end of an interval, exact arithmetic",
        "eps_error 0.01, delta_error delta/1000 (defaults)",
        partial(_opacus_epsilon, "prv"), partial(_opacus_noise, "prv"), partial(_opacus_log, "prv"),
    ),
    Peer(
        "Opacus GDP", "opacus", ("opacus.accountants",), "none: the limit of many steps", "estimate",
        "Poisson sampling (default)",
        partial(_opacus_epsilon, "gdp"), partial(_opacus_noise, "gdp"), partial(_opacus_log, "gdp"),
    ),
    Peer(
        "prv-accountant", "prv-accountant", ("prv_accountant", "prv_accountant.dpsgd"), "remove",
        "upper end of an interval, exact arithmetic", "eps_error 0.01, delta_error delta/1000; search: defaults",
        _prv_epsilon, _prv_noise, _prv_log,
    ),
    Peer(
        "dp-accounting PLD", "dp-accounting", ("dp_accounting",), "both", "upper bound in exact arithmetic",
        "pessimistic, connect the dots, interval 1e-4 (defaults)",
        partial(_google_epsilon, _COARSE), partial(_google_noise, _COARSE), partial(_google_log, _COARSE),
    ),
    Peer(
        "dp-accounting PLD 1e-5", "dp-accounting", ("dp_accounting",), "both", "upper bound in exact arithmetic",
        "as above, interval 1e-5; only where accountants break",
        partial(_google_epsilon, _FINE), only_breaking=True,
    ),
    Peer(
        "dp-accounting RDP", "dp-accounting", ("dp_accounting",), _BY_MIRONOV, "upper bound in exact arithmetic",
        "default orders",
        partial(_google_epsilon, _rdp_accountant), partial(_google_noise, _rdp_accountant),
        partial(_google_log, _rdp_accountant),
    ),
    Peer(
        "pld-accounting", "pld-accounting", ("PLD_accounting", "dp_accounting"), "both",
        "upper bound in exact arithmetic", "dp-accounting's Gaussian at 1e-4, subsample_pld, self_compose",
        _allocation_epsilon, None, _allocation_log,
    ),
    Peer(
        "dp-accelerator", "dp-accelerator", ("dp_accelerator",), _BY_MIRONOV, "upper bound in exact arithmetic",
        "default orders; one phase only",
        _accelerator_epsilon, None, _accelerator_log,
    ),
    Peer(
        "riskcal", "riskcal", ("riskcal.accountants", "riskcal.calibration"), "both",
        "upper bound in exact arithmetic", "CTDAccountant, grid_step 1e-4 (defaults)",
        _riskcal_epsilon, _riskcal_noise, _riskcal_log,
    ),
)  # fmt: skip
