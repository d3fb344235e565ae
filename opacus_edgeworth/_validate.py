"""Checks at the public edge: each message gives name, value, allowed range and a remedy."""

from __future__ import annotations

import math
import numbers
import reprlib
from collections.abc import Iterable, Mapping, Set
from itertools import islice
from typing import Any, Literal, cast

from opacus_edgeworth.errors import InvalidParameterError

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 120


def shown(value: Any) -> str:
    """Return a value as messages show it: shortened, and whatever its own `repr` may do."""
    try:
        return _SHORT.repr(value)
    except Exception:  # integers of more than 4300 digits, for one
        return f"<{type(value).__name__}>"


def as_real(name: str, value: Any) -> float:
    """Return `value` as a float; refuse NaN, booleans, what is not a real number, and what no float is near."""
    number = value if type(value) is float else _as_float(name, value)
    if math.isnan(number):
        raise InvalidParameterError(f"{name}=nan is not a number; check the computation that produced it")
    return number


def _as_float(name: str, value: Any) -> float:
    """Return a number that is no float yet: Python's, NumPy's, or the one in a 0-d array or tensor."""
    plain = value
    try:
        if not isinstance(value, numbers.Real):
            if isinstance(value, (str, bytes)) or getattr(value, "shape", None) != () or getattr(value, "mask", False):
                raise TypeError
            plain = value.item()
        kind = getattr(getattr(value, "dtype", None), "kind", "f")  # dates and durations have integers in them
        if isinstance(plain, bool) or not isinstance(plain, numbers.Real) or kind not in "fiu":
            raise TypeError
        number = float(plain)
        lost = number != plain and (number == 0.0 or math.isinf(number))
    except OverflowError:
        number, lost = math.inf, True
    except Exception:  # an object's own conversions may raise anything
        raise InvalidParameterError(f"{name}={shown(value)} is not a real number; pass a float") from None
    if lost:
        raise InvalidParameterError(f"{name}={shown(value)} does not fit a float, which goes from 5e-324 to 1.8e308")
    return number


def as_noise_multiplier(value: Any) -> float:
    """Return a noise multiplier, 0 (no privacy: epsilon is infinite) or in [1e-120, 1e120], whose square is finite."""
    number = as_real("noise_multiplier", value)
    if not 0.0 <= number < math.inf:
        raise InvalidParameterError(
            f"noise_multiplier={number!r} must be in [0, inf); the noise's standard deviation over the clipping norm"
        )
    if not (number == 0.0 or 1e-120 <= number <= 1e120):
        raise InvalidParameterError(f"noise_multiplier={number!r} must be 0 or in [1e-120, 1e120]; about 1 is usual")
    return number


def as_sample_rate(value: Any) -> float:
    """Return a Poisson sampling probability, in [0, 1]."""
    number = as_real("sample_rate", value)
    if not 0.0 <= number <= 1.0:
        remedy = "it is the probability that one example enters a batch (expected batch size / dataset size)"
        if number > 1.0:
            remedy += (
                "; under gradient accumulation Opacus passes sample_rate x accumulated steps, which must stay <= 1:"
                " accumulate fewer batches, use a smaller physical batch, or train with BatchMemoryManager"
            )
        raise InvalidParameterError(f"sample_rate={number!r} must be in [0, 1]; {remedy}")
    if 0.0 < number < 1e-40:
        raise InvalidParameterError(f"sample_rate={number!r} must be 0 or at least 1e-40; no data set is as large")
    return number


def as_scale(value: Any) -> float:
    """Return a scale of Laplace noise over the sensitivity, in [1e-6, 1e9]."""
    number = as_real("scale", value)
    if not 1e-6 <= number <= 1e9:
        raise InvalidParameterError(
            f"scale={number!r} must be in [1e-6, 1e9]; the Laplace noise's scale over the query's sensitivity"
        )
    return number


def as_response_epsilon(value: Any) -> float:
    """Return the epsilon of one randomized response, in [0, 1e6]."""
    number = as_epsilon(value)
    if number > 1e6:
        raise InvalidParameterError(f"epsilon={number!r} must be in [0, 1e6]; beyond, the answer is given as it is")
    return number


def as_categories(value: Any) -> int:
    """Return a number of categories, an integer >= 2."""
    number = as_steps(value, name="categories")
    if number < 2:
        raise InvalidParameterError(f"categories={shown(value)} must be at least 2; with one there is nothing to hide")
    return number


MOST_OUTPUTS = 10**6


def as_distribution(name: str, values: Any) -> tuple[float, ...]:
    """Return probabilities that add up to 1 within 1e-9, as they were given; at most 1e6."""
    listed = as_entries(name, values, MOST_OUTPUTS, "a list of probabilities")
    numbers_given = tuple(as_real(f"{name}[{index}]", value) for index, value in enumerate(listed))
    for index, number in enumerate(numbers_given):
        if not 0.0 <= number <= 1.0:
            raise InvalidParameterError(f"{name}[{index}]={number!r} must be in [0, 1]; it is a probability")
        if 0.0 < number < 1e-300:
            raise InvalidParameterError(f"{name}[{index}]={number!r} must be 0 or at least 1e-300; doubles end there")
    total = math.fsum(numbers_given)
    if not abs(total - 1.0) <= 1e-9:
        raise InvalidParameterError(f"{name} adds up to {total!r}, not to 1; list the probability of every output")
    return numbers_given


def as_entries(name: str, values: Any, most: int, wanted: str) -> list[Any]:
    """Return the entries of a list, or of anything else that can be gone through once, at most so many."""
    try:
        if isinstance(values, (str, bytes, Mapping, Set)):  # the last two have entries, but not in this order
            raise TypeError
        source = cast("Iterable[Any]", values)
        # a list may be changed by another thread, so its copy is of one moment; another iterable may never end
        entries = list(source if isinstance(values, list) else islice(source, most + 1))
    except TypeError:
        raise InvalidParameterError(f"{name}={shown(values)} must be {wanted}") from None
    if len(entries) > most:
        raise InvalidParameterError(f"{name} has more than {most} entries; give fewer")
    return entries


def as_some_steps(value: Any) -> int:
    """Return a number of steps to train, an integer >= 1."""
    number = as_steps(value)
    if number == 0:
        raise InvalidParameterError("steps=0 needs no noise; give at least one step")
    return number


def as_steps(value: Any, *, name: str = "steps") -> int:
    """Return a number of steps, an integer >= 0 (an integral float is accepted, as Opacus produces them)."""
    number = as_real(name, value)
    if not 0.0 <= number < math.inf or number != math.floor(number):
        raise InvalidParameterError(f"{name}={shown(value)} must be an integer >= 0; round it to whole optimizer steps")
    count = int(value) if isinstance(value, numbers.Integral) else int(number)  # no float is 2**53 + 1
    if count > 2**53:
        raise InvalidParameterError(f"{name}={shown(value)} must be at most 2**53; no training run is longer")
    return count


def as_delta(value: Any, *, name: str = "delta") -> float:
    """Return a delta in [0, 1]; the ends have exact answers (epsilon infinite or finite at 0, and 0 at 1)."""
    number = as_real(name, value)
    if not 0.0 <= number <= 1.0:
        raise InvalidParameterError(
            f"{name}={number!r} must be in [0, 1]; it is a probability, usually below 1 / dataset size"
        )
    return number


def as_epsilon(value: Any, *, name: str = "epsilon") -> float:
    """Return an epsilon in [0, inf]."""
    number = as_real(name, value)
    if number < 0.0:
        raise InvalidParameterError(f"{name}={number!r} must be >= 0")
    return number


def as_rate(name: str, value: Any) -> float:
    """Return a probability or rate in [0, 1]."""
    number = as_real(name, value)
    if not 0.0 <= number <= 1.0:
        raise InvalidParameterError(f"{name}={number!r} must be in [0, 1]; give a share of one, not percent")
    return number


def as_open_rate(name: str, value: Any) -> float:
    """Return a probability in (0, 1)."""
    number = as_real(name, value)
    if not 0.0 < number < 1.0:
        raise InvalidParameterError(f"{name}={number!r} must be in (0, 1); at the ends the answer says nothing")
    return number


def as_order(value: Any) -> float:
    """Return the order of a Renyi divergence, > 1 and finite."""
    number = as_real("order", value)
    if not 1.0 < number < math.inf:
        raise InvalidParameterError(f"order={number!r} must be in (1, inf); RDP accountants use 1.1 to about 500")
    return number


def as_direction(value: Any) -> Literal["both", "remove", "add"]:
    """Return a direction."""
    if isinstance(value, str) and value in ("both", "remove", "add"):
        return value
    raise InvalidParameterError(f'direction={shown(value)} must be "both", "remove" or "add"')


def as_adjacency(value: Any) -> Literal["add_or_remove", "replace_one", "zero_out"]:
    """Return an adjacency."""
    if not isinstance(value, str) or value not in ("add_or_remove", "replace_one", "zero_out"):
        raise InvalidParameterError(f'adjacency={shown(value)} must be "add_or_remove", "replace_one" or "zero_out"')
    return value  # type: ignore[return-value]


def as_positive_rate(value: Any) -> float:
    """Return a sampling probability in [1e-15, 1]."""
    rate = as_sample_rate(value)
    if rate == 0.0:
        raise InvalidParameterError("sample_rate=0.0 must be > 0; nothing is ever sampled, any noise will do")
    if rate < 1e-15:
        raise InvalidParameterError(f"sample_rate={rate!r} must be at least 1e-15; no data set is as large")
    return rate


def as_positive_noise(value: Any) -> float:
    """Return a noise multiplier in [1e-4, 1e9]."""
    noise = as_noise_multiplier(value)
    if noise == 0.0:
        raise InvalidParameterError("noise_multiplier=0.0 must be > 0; without noise no number of steps is private")
    if not 1e-4 <= noise <= 1e9:
        raise InvalidParameterError(f"noise_multiplier={noise!r} must be in [1e-4, 1e9]; about 1 is usual")
    return noise


def as_tolerance(rel_tol: Any) -> float:
    """Return a relative tolerance."""
    tolerance = as_real("rel_tol", rel_tol)
    if not 1e-12 <= tolerance <= 1.0:
        raise InvalidParameterError(f"rel_tol={tolerance!r} must be in [1e-12, 1]")
    return tolerance


def as_epochs(epochs: Any) -> float:
    """Return a number of epochs."""
    length = as_real("epochs", epochs)
    if not 0.0 < length < math.inf:
        raise InvalidParameterError(f"epochs={length!r} must be positive and finite")
    return length


def as_dataset_size(value: Any) -> int:
    """Return a number of examples, an integer >= 1."""
    number = as_steps(value, name="dataset_size")
    if number == 0:
        raise InvalidParameterError("dataset_size=0 must be at least 1; it is the number of training examples")
    return number
