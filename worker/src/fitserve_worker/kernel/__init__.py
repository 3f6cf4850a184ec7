"""The fit kernel: many hypotheses of one analysis fitted by one compiled program.

From JSON to arrays, without JAX:
`spec` reads samples, `parameters` makes parameter sets as pyhf does, `patches` finds what a patch
changes and reads the hypotheses, `columns` assigns their parameters to columns of the fit,
`constraints` enters the parameters there and `arrays` the samples, and `batch` compiles all of it.

Inside the compiled programs:
`rows` and `likelihood` are the model, with derivatives in `curvature`; `newton` minimises, and
`program` does many fits, or finds the details of one.

Run and judged outside of them:
`runtime` sets JAX up and `jit_cache` keeps compiled programs on disk. `fits` runs fits, `retries`
repeats those that fail, `starts` looks for lower minima. `hypotest` and `asymptotics` turn them
into CLs, `strengths` at signal strengths that are chosen one after the other; `covariance` is for
best fits, intervals and impacts, `toys` for pseudo-data.

The array types that all of them share are defined here.
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
"""A NumPy array on its way into a compiled program, a JAX array inside it."""
