"""Interpolation codes as the installed pyhf has them, whichever of its versions that is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import pyhf
import pytest

from fitserve_worker.kernel import rows
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ALPHAS = np.array([-3.5, -2.0, -1.0001, -1.0, -0.4, 0.0, 0.7, 1.0, 1.0001, 2.5])
LOW, NOMINAL, HIGH = 0.8, 1.0, 1.7
# With a and b as in pyhf: those in use, and ROOT's, which pyhf may have one day.
BELOW: dict[str, Callable[[float, float, float], float]] = {
    "0.7.6": lambda a, b, x: (b - 2 * a) * x,
    "main of 2026": lambda a, b, x: (b - 2 * a) * (x + 1),
    "continuous": lambda a, b, x: (b - 2 * a) * (x + 1) + a - b,
}


@pytest.fixture(autouse=True)
def _computed_anew() -> Iterator[None]:
    runtime()  # in double precision
    rows.code2_lines.cache_clear()
    yield
    rows.code2_lines.cache_clear()


def _kernel(code: str) -> np.ndarray:
    alpha = jnp.asarray(ALPHAS)
    basis = rows.basis_functions(code, alpha, alpha > 0)
    return np.asarray((HIGH - NOMINAL) * basis.up + (NOMINAL - LOW) * basis.down)


@pytest.mark.parametrize("code", ["code0", "code2", "code4p"])
def test_additive_codes_are_those_of_the_installed_pyhf(code: str) -> None:
    histograms = [[[[LOW], [NOMINAL], [HIGH]]]]
    theirs = getattr(pyhf.interpolators, code)(histograms, subscribe=False)
    expected = np.asarray(theirs(pyhf.tensorlib.astensor([list(ALPHAS)])))[0, 0, :, 0]
    np.testing.assert_allclose(_kernel(code), expected, rtol=0, atol=1e-12)


class _Code2:
    """pyhf's code 2, with another line below -1."""

    below: Callable[[float, float, float], float]
    offset: Callable[[float, float], float]

    def __init__(self, histogramssets: Any, **_: object) -> None:
        self._sets = histogramssets

    def delta(self, low: float, nominal: float, high: float, x: float) -> float:
        a, b = 0.5 * (high + low) - nominal, 0.5 * (high - low)
        if x > 1:
            return (b + 2 * a) * (x - 1) + type(self).offset(a, b)
        return type(self).below(a, b, x) if x < -1 else a * x * x + b * x

    def __call__(self, alphasets: Any) -> np.ndarray:
        return np.array(
            [
                [
                    [[self.delta(low[0], nominal[0], high[0], x)] for x in alphas]
                    for low, nominal, high in histograms
                ]
                for histograms, alphas in zip(self._sets, alphasets, strict=True)
            ]
        )


@pytest.mark.parametrize("version", BELOW)
def test_code2_is_that_of_whichever_pyhf(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = (lambda a, b: a + b) if version == "continuous" else (lambda a, b: 0.0)
    kind = type("code2", (_Code2,), {"below": staticmethod(BELOW[version])})
    kind.offset = staticmethod(offset)
    monkeypatch.setattr(pyhf.interpolators, "code2", kind)
    expected = [kind([]).delta(LOW, NOMINAL, HIGH, x) for x in ALPHAS]
    np.testing.assert_allclose(_kernel("code2"), expected, rtol=0, atol=1e-12)
    # The derivatives are those of the values.
    inner = np.array([-3.5, -2.0, -0.4, 0.7, 2.5])

    def value(x: jax.Array) -> jax.Array:
        basis = rows.basis_functions("code2", x, x > 0)
        return (HIGH - NOMINAL) * basis.up + (NOMINAL - LOW) * basis.down

    basis = rows.basis_functions("code2", jnp.asarray(inner), jnp.asarray(inner > 0))
    slope = jax.vmap(jax.grad(value))(jnp.asarray(inner))
    ours = (HIGH - NOMINAL) * basis.up1 + (NOMINAL - LOW) * basis.down1
    np.testing.assert_allclose(np.asarray(ours), np.asarray(slope), rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", ["numpy", "jax"])
def test_pyhf_may_compute_inside_a_program(backend: str) -> None:
    before = pyhf.get_backend()
    try:
        pyhf.set_backend(backend)
        traced = jax.jit(lambda x: rows.basis_functions("code2", x, x > 0).up)
        values = np.asarray(traced(jnp.asarray(ALPHAS)))
    finally:
        pyhf.set_backend(*before)
    rows.code2_lines.cache_clear()
    alpha = jnp.asarray(ALPHAS)
    np.testing.assert_allclose(
        values, np.asarray(rows.basis_functions("code2", alpha, alpha > 0).up), atol=1e-12
    )
