# Types of what the package uses of SciPy, which ships none.

from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray

class _OneArgument(Protocol):
    @overload
    def __call__(self, x: float | np.floating[Any], /) -> np.float64: ...
    @overload
    def __call__(self, x: NDArray[np.floating[Any]], /) -> NDArray[np.float64]: ...

class _TwoArguments(Protocol):
    @overload
    def __call__(self, a: float, x: float, /) -> np.float64: ...
    @overload
    def __call__(self, a: float, x: NDArray[np.floating[Any]], /) -> NDArray[np.float64]: ...

erf: _OneArgument
erfcx: _OneArgument
erfinv: _OneArgument
exp1: _OneArgument
gamma: _OneArgument
log_ndtr: _OneArgument
ndtr: _OneArgument
ndtri: _OneArgument
ndtri_exp: _OneArgument
gammainc: _TwoArguments
gammaincc: _TwoArguments

@overload
def hyp1f1(a: float, b: float, x: float, /) -> np.float64: ...
@overload
def hyp1f1(a: float, b: float, x: NDArray[np.floating[Any]], /) -> NDArray[np.float64]: ...
def logsumexp(
    a: NDArray[np.floating[Any]], axis: int | None = ..., b: NDArray[np.floating[Any]] | None = ...
) -> Any: ...
