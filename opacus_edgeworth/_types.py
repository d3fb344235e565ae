"""Type names shared by the numerical core."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
IntArray: TypeAlias = NDArray[np.intp]
BoolArray: TypeAlias = NDArray[np.bool_]
ComplexArray: TypeAlias = NDArray[np.complexfloating[Any, Any]]

Direction: TypeAlias = Literal["remove", "add"]
"""Which of the two adjacent datasets is the larger: "remove" is (P, Q), "add" is (Q, P), P the subsampled side."""

Which: TypeAlias = Literal["both", "remove", "add"]
"""A direction, or the worse of both."""

Adjacency: TypeAlias = Literal["add_or_remove", "replace_one", "zero_out"]
"""What two neighbouring data sets differ in; see `opacus_edgeworth.adjacency`."""

History: TypeAlias = Iterable[Sequence[float]]
"""What Opacus keeps: (noise_multiplier, sample_rate, steps) per phase."""
