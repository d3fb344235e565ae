# Types of what the package uses of SciPy, which ships none.

from collections.abc import Callable, Mapping, Sequence
from typing import Any

class OptimizeResult:
    x: float
    fun: float
    success: bool

def brentq(
    f: Callable[[float], float],
    a: float,
    b: float,
    *,
    xtol: float = ...,
    rtol: float = ...,
    maxiter: int = ...,
) -> float: ...
def minimize_scalar(
    fun: Callable[[float], float],
    *,
    bracket: Sequence[float] | None = ...,
    bounds: Sequence[float] | None = ...,
    method: str | None = ...,
    tol: float | None = ...,
    options: Mapping[str, Any] | None = ...,
) -> OptimizeResult: ...
