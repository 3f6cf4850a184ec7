"""The fit kernel: many hypotheses of one analysis fitted by one compiled program.

From JSON to arrays, without JAX:
`spec` reads samples, `parameters` makes parameter sets as pyhf does, `patches` finds what a patch
changes and reads the hypotheses, `columns` gives their parameters columns of the fit,
`constraints` puts these there, `arrays` does the same with samples, and `batch` compiles all of it.

Inside the compiled programs:
`rows` and `likelihood` are the model, with derivatives in `curvature`; `newton` minimises, and
`program` does many fits, or finds the details of one.

Run and judged outside of them:
`runtime` sets JAX up and `jit_cache` keeps compiled programs on disk. `fits` runs fits, `retries`
repeats those that fail, `starts` looks for lower minima. `hypotest` and `asymptotics` make CLs of
them, `strengths` at signal strengths that are chosen one after the other; `covariance` is for best
fits, intervals and impacts, `toys` for pseudo-data.

Types of arrays, which all of them share, are here.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["BoolArray", "DeviceArray", "FloatArray", "IntArray"]

FloatArray: TypeAlias = NDArray[np.float64]
BoolArray: TypeAlias = NDArray[np.bool_]
IntArray: TypeAlias = NDArray[np.int64]

DeviceArray: TypeAlias = Any
"""An array of NumPy on the way into a compiled program, one of JAX inside of it."""
