"""Whatever is given to a public name: a right answer, or an error of ours that says what was wrong; nothing else."""

import copy
import enum
import functools
import inspect
import itertools
import math
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import opacus_edgeworth as ew
from opacus_edgeworth.targets import TargetArguments

PATIENCE = 60
"""Seconds that no call with wrong arguments may take, on a busy machine."""


# --- every public name and its parameters ------------------------------------------------------------------------


def names_of(module: ModuleType) -> list[str]:
    """Return a module's public names: __all__, or the classes that it defines, and the two schedules."""
    own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
    classes = [name for name in own if inspect.isclass(getattr(module, name)) and not name.startswith("_")]
    return list(getattr(module, "__all__", None) or classes + [name for name in own if name in ("linear", "cosine")])


def walk() -> dict[str, Callable[..., Any]]:
    """Return everything that a user can call, methods and properties of fresh instances included, by its name."""
    found: dict[str, Callable[..., Any]] = {}
    for module in (ew, ew.mechanisms, ew.schedules):
        for name in names_of(module):
            thing = getattr(module, name)
            if isinstance(thing, ModuleType) or (inspect.isclass(thing) and issubclass(thing, BaseException)):
                continue
            if not callable(thing) or not (inspect.isclass(thing) or isinstance(thing, FunctionType)):
                continue  # type aliases and the like
            found[name] = thing
            for method in dir(thing) if inspect.isclass(thing) else ():
                static = inspect.getattr_static(thing, method)
                inner = getattr(static, "__func__", static)
                if not method.startswith("_") and getattr(inner, "__module__", "").startswith("opacus_edgeworth"):
                    found[f"{name}.{method}"] = functools.partial(_call, name, method)
                    found[f"{name}.{method}"].__wrapped__ = inner  # type: ignore[attr-defined]
    return found


def _call(owner: str, method: str, /, **arguments: Any) -> Any:
    return getattr(INSTANCES[owner](), method)(**arguments)


def parameters_of(name: str) -> list[str]:
    """Return the parameters of a public name by their names; the keywords of a target are spelled out."""
    thing = PUBLIC[name]
    signature = inspect.signature(getattr(thing, "__wrapped__", thing))
    found = []
    for parameter in signature.parameters.values():
        if parameter.name == "target":
            found += list(TargetArguments.__annotations__)
        elif parameter.name not in ("self", "cls") and parameter.kind is not parameter.VAR_KEYWORD:
            found.append(parameter.name)
    return found


UNSAMPLED = [(1.0, 1.0, 3)]  # in closed form: quick
INSTANCES: dict[str, Callable[[], Any]] = {
    "Bounds": lambda: ew.Bounds(0.25, 0.5),
    "Certificate": lambda: CERTIFICATE,
    "EdgeworthAccountant": lambda: accountant(),
    "EdgeworthApproximation": lambda: ew.EdgeworthApproximation(UNSAMPLED, order=1),
    "TiltedEdgeworth": lambda: ew.TiltedEdgeworth(UNSAMPLED, order=2),
    "Plan": lambda: PLAN,
    "PrivacyCurve": lambda: ew.PrivacyCurve(UNSAMPLED),
}
CERTIFICATE = ew.audit(UNSAMPLED, delta=1e-5)
PLAN = ew.plan(target_epsilon=3, target_delta=1e-5, dataset_size=64, batch_sizes=[64], epochs=[1])


def accountant() -> ew.EdgeworthAccountant:
    made = ew.EdgeworthAccountant()
    made.history = list(UNSAMPLED)
    return made


VALID: dict[str, Any] = {
    "history": UNSAMPLED, "epsilon": 1.0, "delta": 1e-5, "direction": "both", "alpha": 0.1, "order": 2, "prior": 0.5,
    "false_positive_rate": 0.1, "failure_probability": 0.1, "baseline": 0.1, "floor": 1e-6, "lower": 0.25, "upper": 0.5,
    "other": ew.Bounds(0.25, 0.75), "noise_multiplier": 10.0, "sample_rate": 1.0, "scale": 2.0, "categories": 2,
    "p": [0.75, 0.25], "q": [0.25, 0.75], "steps": 3, "epochs": 3.0, "spent": (), "rel_tol": 1e-3, "schedule": None,
    "target_epsilon": 3.0, "target_delta": 1e-5, "target_advantage": 0.5, "target_tpr": 0.5, "target_fpr": 0.1,
    "target_mu": 1.0, "dataset_size": 64, "batch_sizes": [64], "start": 1.0, "end": 0.5, "method": "certified",
    "destination": None, "mechanism": "edgeworth", "max_epochs": 10.0, "min_steps": 1, "hypothesis": "P", "loss": 1.0,
    "state_dict": {"history": UNSAMPLED, "mechanism": "edgeworth"}, "certificate": CERTIFICATE, "max_norm": 1.0,
    "text": CERTIFICATE.to_json(), "path": "/nowhere/at/all.json",
    "adjacency": "add_or_remove",
}  # fmt: skip
"""A value of every parameter with which everything answers; a new parameter needs one."""
GIVEN: dict[str, set[str]] = {
    "EdgeworthApproximation": {"history"},
    "TiltedEdgeworth": {"history"},
    "audit": {"history", "delta"},  # or epsilon
    "calibrate_noise_multiplier": {"sample_rate", "steps", "target_epsilon", "target_delta", "rel_tol"},
    "calibrate_steps": {"noise_multiplier", "sample_rate", "target_epsilon", "target_delta"},
    "calibrate_sample_rate": {"noise_multiplier", "steps", "target_epsilon", "target_delta", "rel_tol"},
    "calibrate_batch_size": {"dataset_size", "noise_multiplier", "steps", "target_epsilon", "target_delta"},
    "calibrate_delta": {"target_epsilon", "noise_multiplier", "sample_rate", "steps"},
    "plan": {"dataset_size", "batch_sizes", "epochs", "target_epsilon", "target_delta", "rel_tol"},
}
"""Where not all parameters go together: those that are given beside the hostile one. Elsewhere, the required ones."""
NOT_JUDGED = {"PlanPoint", "Plan", "Certificate", "Finding", "PrivacyEngine", "check"}
"""Dataclasses of results hold what they are given, and their methods are judged; an engine and a check of training take
objects of Opacus and torch, and judge those."""
ELSEWHERE = {
    ("PrivacyCurve.plot", "ax"): "an object of matplotlib, which judges it",
    ("EdgeworthAccountant.state_dict", "destination"): "a mapping of the caller's, as Opacus has it",
}
PUBLIC = walk()
CASES = [(n, p) for n in PUBLIC if n not in NOT_JUDGED for p in parameters_of(n) if (n, p) not in ELSEWHERE]


def arguments_for(name: str, hostile: str) -> dict[str, Any]:
    """Return the arguments beside the hostile one."""
    thing = PUBLIC[name]
    parameters = inspect.signature(getattr(thing, "__wrapped__", thing)).parameters.values()
    required = {p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD and p.name != "self"}
    wanted = (GIVEN.get(name, required) - {hostile, "cls"}) if name in GIVEN else required - {hostile, "cls"}
    if name in GIVEN and hostile.startswith("target_") and hostile not in GIVEN[name]:
        wanted = {p for p in wanted if not p.startswith("target_")}  # another kind of target
        wanted |= {"target_tpr": {"target_fpr"}, "target_fpr": {"target_tpr"}}.get(hostile, set())
    wanted -= {"epochs": {"steps"}, "epsilon": {"delta"}}.get(hostile, set()) if name in GIVEN else set()
    return {p: VALID[p] for p in wanted}


def test_every_parameter_has_a_case():
    """A new public name is tried like all others; a new parameter needs a valid value above."""
    assert {"PrivacyCurve.epsilon", "calibrate_noise_multiplier", "Laplace", "linear", "Certificate.load"} <= set(
        PUBLIC
    )
    missing = {(name, parameter) for name, parameter in CASES if parameter not in VALID}
    assert not missing
    owners = {name.split(".")[0] for name, _ in CASES if "." in name}
    assert owners <= set(INSTANCES)


@pytest.mark.parametrize("name", sorted({name for name, _ in CASES}))
def test_valid_arguments_are_answered(name: str):
    parameters = [p for n, p in CASES if n == name]
    if name.startswith(SLOW):
        parameters = parameters[:1]  # the same call each time
    for parameter in parameters:
        value = (
            None if parameter == "direction" and name.startswith(("EdgeworthApprox", "Tilted")) else VALID[parameter]
        )  # None: the larger, there
        assert outcome(name, parameter, value) is None or parameter == "path"


# --- hostile values ----------------------------------------------------------------------------------------------


class RaisingRepr:
    def __repr__(self) -> str:
        raise RuntimeError("no picture of me")


class RaisingFloat(float):
    def __float__(self) -> float:
        raise RuntimeError("I am no number")


class RaisingItem:
    shape = ()

    def item(self) -> float:
        raise RuntimeError("nothing in here")


class Whole(enum.IntEnum):
    ONE = 1


def endless_entries() -> Iterator[Any]:
    return itertools.repeat((1.0, 1.0, 1))


def circular() -> list[Any]:
    circle: list[Any] = [1.0]
    circle.append(circle)
    return circle


HOSTILE: dict[str, Callable[[], Any]] = {
    repr(value)[:30]: functools.partial(copy.deepcopy, value)
    for value in (
        None, "", "abc", "1.0", b"1", True, False, 1j, math.nan, math.inf, -math.inf, -0.0, 5e-324, 1e-310, 2.3e-308,
        1e308, -1, 0, 1, 0.3, 2**53, 2**53 + 1, 2**64, 10**400, -(10**400), np.float32(0.3), np.float64("nan"),
        np.int64(3), np.uint8(2), np.bool_(True), np.complex128(1), np.longdouble("1e4000"), np.str_("x"),
        np.datetime64(5, "ns"), np.timedelta64(5, "s"), np.array(0.5), np.array("a"), np.array(None, dtype=object),
        np.array([0.5, 0.25]), np.array([]), np.zeros((2, 0)), np.array([[0.1, 0.2], [0.3, 0.4]]), np.array([1 + 1j]),
        np.array([0.5, None], dtype=object), np.array([True, False]), np.array(["a"]), np.zeros(2, dtype="i4,f8"),
        np.array([math.nan, 0.5]), torch.tensor(0.5), torch.tensor([0.5]), torch.tensor(True), torch.tensor(math.nan),
        Decimal("0.5"), Decimal("NaN"), Fraction(1, 3), Fraction(10**400), Fraction(1, 10**400), {}, {"a": 1}, {0.5},
        [], [[]], (), [[1.0], [2.0, 3.0]], [None], [0.5, "a"], [math.nan], range(3), Whole.ONE, [(1.0, 1.0)], [{1.0}],
        [(1.0, 0.5, 2)], [[1.0, 1.0, 2]], [(1.0, 1.0, 2, 3)], [(math.nan, 1.0, 2)], [("1", 1.0, 2)], [b"abc"],
    )
} | {
    "10**5000": lambda: 10**5000, "masked": lambda: np.ma.masked,
    "masked array": lambda: np.ma.array([0.5], mask=[True]),
    "tensor without data": lambda: torch.empty((), device="meta"), "object": object, "class": lambda: float,
    "module": lambda: math, "function": lambda: lambda step: 1.0, "generator": lambda: (x for x in (0.5, 0.25)),
    "count": itertools.count, "endless entries": endless_entries, "circle": circular, "raising repr": RaisingRepr,
    "raising repr in a list": lambda: [RaisingRepr()], "raising float": lambda: RaisingFloat(0.5),
    "raising item": RaisingItem, "long text": lambda: "9" * 10**6,
    "deep": lambda: functools.reduce(lambda x, _: [x], range(10**4), 1.0),
}  # fmt: skip


def require_sane(result: Any) -> None:
    """Refuse what no answer may be: NaN, bounds the wrong way round or of another type than float."""
    if isinstance(result, ew.Bounds):
        assert type(result.lower) is float
        assert type(result.upper) is float
        assert result.lower <= result.upper
    elif isinstance(result, float):
        assert not math.isnan(result)
    elif isinstance(result, np.ndarray):
        for item in result.ravel():
            require_sane(item)
    elif isinstance(result, (tuple, list)):
        for item in result[:1000]:
            require_sane(item)


@contextmanager
def patient() -> Iterator[None]:
    """Fail where a call takes longer than anybody would wait for an error."""

    def late(*_: Any) -> None:
        raise AssertionError(f"no answer in {PATIENCE} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def outcome(name: str, parameter: str, value: Any) -> ew.EdgeworthError | None:
    """Call with a hostile argument; return the error of ours that was raised, if the answer was one."""
    arguments = arguments_for(name, parameter) | {parameter: value}
    try:
        with warnings.catch_warnings(), patient():
            warnings.simplefilter("ignore", ew.EstimateWarning)
            require_sane(PUBLIC[name](**arguments))
    except ew.EdgeworthError as error:
        return error
    except OSError:
        assert parameter == "path"
    return None


ALIASES = {"batch_sizes": "batch_size", "target_fpr": "target_", "state_dict": ""}
"""What messages call a parameter, where it is not its name."""
SLOW = ("calibrate_", "plan", "audit")
"""Names that search for long where the hostile number is a possible one; those are asked for in tests of their own."""


def is_possible(value: Any) -> bool:
    """Whether a value is a positive number of a size that parameters have."""
    kinds = (int, float, Fraction, np.floating, np.integer)
    return isinstance(value, kinds) and not isinstance(value, (bool, np.timedelta64)) and 0 < value < 1e18


@pytest.mark.parametrize(("name", "parameter"), CASES, ids=[f"{n}-{p}" for n, p in CASES])
def test_hostile_arguments_are_answered_or_refused_by_name(name: str, parameter: str, tmp_path: Path, monkeypatch: Any):
    monkeypatch.chdir(tmp_path)  # where names like "abc" may be written
    for label, make in HOSTILE.items():
        if name.startswith(SLOW) and is_possible(make()):
            continue
        try:
            error = outcome(name, parameter, make())
        except Exception as other:
            raise AssertionError(f"{name}({parameter}={label}): {type(other).__name__}: {str(other)[:500]}") from other
        assert len(str(error)) < 2000
        if isinstance(error, ew.InvalidParameterError):
            assert ALIASES.get(parameter, parameter) in str(error), f"{label}: {error}"


def test_arguments_and_histories_are_left_as_they_were():
    history, state = [(1.0, 1.0, 3), [2.0, 1.0, 4]], {"history": [(1.0, 1.0, 3)], "mechanism": "rdp", "more": [1]}
    deltas, p = np.array([1e-5, 2.0]), [0.75, 0.25]
    before = copy.deepcopy((history, state, p))
    ew.PrivacyCurve(history).epsilon(deltas[:1])
    with pytest.raises(ew.InvalidParameterError):
        ew.PrivacyCurve(history).epsilon(deltas)
    ew.mechanisms.DiscreteMechanism(p, p)
    mine = accountant()
    mine.load_state_dict(state)
    for hostile in (math.nan, -1.0, "1", None, 10**400):
        with pytest.raises(ew.InvalidParameterError):
            mine.step(noise_multiplier=hostile, sample_rate=0.5)
        with pytest.raises(ew.InvalidParameterError):
            mine.step(noise_multiplier=1.0, sample_rate=hostile)
        with pytest.raises(ew.InvalidParameterError):
            mine.get_epsilon(hostile)
    assert (history, state, p) == before
    assert mine.history == [(1.0, 1.0, 3)]
    assert deltas.tolist() == [1e-5, 2.0]


# --- numbers from all over ---------------------------------------------------------------------------------------

ANY_NUMBER = (
    st.floats() | st.integers() | st.sampled_from([10**400, 5e-324, 2.2e-308, 1.0 - 2**-53, 1.0 + 2**-52, 2**53])
)
QUICK = [
    (n, p) for n, p in CASES if not n.startswith(SLOW) and not n.startswith(("TiltedEdgeworth", "EdgeworthApprox"))
]


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(QUICK), ANY_NUMBER)
def test_any_number_is_answered_or_refused(case: tuple[str, str], number: float):
    outcome(*case, number)


@pytest.mark.parametrize(
    "history",
    [
        [(1e-120, 1e-40, 2)], [(1e-15, 0.5, 2)], [(1e-5, 0.5, 2)], [(1.0, 1e-40, 1)], [(1e60, 0.5, 1)],
        [(1.0, 0.5, 0)], [(1e120, 1.0, 2**52)], [(0.0, 1e-40, 1), (1.0, 0.5, 2)], [(1e-120, 1.0, 2**52)],
    ],
    ids=str,
)  # fmt: skip
def test_histories_at_the_ends_of_their_range_have_bounds(history: list[Any]):
    curve = ew.PrivacyCurve(history)
    for epsilon in (0.0, 5e-324, 1.0, 700.0, 1e308, math.inf):
        with patient():
            found = curve.delta(epsilon)
        require_sane(found)
        assert found.lower >= 0.0
        assert found.upper <= 1.0
    for delta in (0.0, 5e-324, 1e-5, 1.0):
        with patient():
            found = curve.epsilon(delta)
            require_sane(found)
            assert found.lower >= 0.0
            if math.isfinite(found.upper):  # what was proved there is not refuted here
                assert curve.delta(found.upper).lower <= delta


@pytest.mark.parametrize(
    ("history", "epsilon", "delta"),
    [
        ([(1e-15, 0.5, 2)], 1e302, 1e-300),
        ([(1e-15, 0.5, 1)], 1e302, 1e-300),
        ([(1e-120, 1e-40, 2)], 1e302, 1e-5),
        ([(1e-9, 0.5, 2**52)], 1.0, 1e-5),
        ([(1.0, 1.0, 3)], 1e308, 1e-300),
    ],
)
def test_regression_next_to_no_noise_has_bounds(history: list[Any], epsilon: float, delta: float):
    """Petabytes were asked for on the way to the end of a law, and an epsilon of 1e302 made NaN of one step."""
    curve = ew.PrivacyCurve(history)
    require_sane((curve.delta(epsilon), curve.epsilon(delta)))


@pytest.mark.parametrize("loss", [math.inf, -math.inf, 1e308, -1e308])
def test_regression_expansions_end_at_0_and_1(loss: float):
    for order in (0, 1, 8, 20):
        value = ew.EdgeworthApproximation([(1.0, 0.1, 50)], order=order).cdf(loss)
        assert value == (1.0 if loss > 0.0 else 0.0)


@pytest.mark.parametrize("delta", [5e-324, 1e-310, 2.3e-308])
def test_regression_the_tilted_estimate_ends_at_any_delta(delta: float):
    """It doubled epsilon for ever, looking for a delta below the least one that it told apart."""
    with patient():
        assert 30.0 < ew.TiltedEdgeworth([(1.0, 1.0, 3)]).epsilon(delta) < 100.0


@pytest.mark.parametrize("noise", [5e-324, 1e-160, 1e-121, 1.1e120, 1e200, 1.7e308])
def test_regression_noise_whose_square_is_no_float_is_refused(noise: float):
    """Of unsampled steps 1 / noise^2 was infinite, and bounds NaN; or 0, and the upper bound on delta, too."""
    with pytest.raises(ew.InvalidParameterError, match=r"noise_multiplier=.* must be 0 or in"):
        ew.PrivacyCurve([(noise, 1.0, 3)])


def test_regression_nothing_stands_for_a_rate_by_accident():
    """A masked number is 0 to NumPy, and what is smaller than any float rounds to 0: both meant "nothing revealed"."""
    for rate in (np.ma.masked, Fraction(1, 10**400), 1e-300):
        with pytest.raises(ew.InvalidParameterError, match="sample_rate="):
            ew.PrivacyCurve([(1.0, rate, 3)])
    with pytest.raises(ew.InvalidParameterError, match="at most 2\\*\\*53"):
        ew.PrivacyCurve([(1.0, 0.5, 2**53 + 1)])
    with pytest.raises(ew.InvalidParameterError, match="at most 2\\*\\*53"):
        ew.PrivacyCurve([(1.0, 0.5, 2**53), (1.0, 0.5, 1)])


@pytest.mark.parametrize("history", [[(1e120, 1e-40, 2)], [(0.005, 1 - 2**-53, 2)]])
def test_the_ends_of_the_ranges_overflow_nowhere(history: Any):
    curve = ew.PrivacyCurve(history)
    for bounds in (
        curve.delta(0.0),
        curve.delta(1e-9),
        curve.epsilon(0.22),
        curve.epsilon(1e-300),
        curve.tradeoff(0.1),
    ):
        assert 0.0 <= bounds.lower <= bounds.upper
