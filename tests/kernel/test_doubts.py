"""Every reason to doubt a fit or CLs, and that good ones are not doubted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fitserve_contract import ModelOptions
from fitserve_worker.engines.base import cls_problems
from fitserve_worker.kernel.batch import compile_hypotheses
from fitserve_worker.kernel.fits import load
from fitserve_worker.kernel.hypotest import hypotest
from fitserve_worker.kernel.retries import doubts
from fitserve_worker.kernel.runtime import runtime

if TYPE_CHECKING:
    from collections.abc import Callable

GOOD = [0.2, 0.01, 0.04, 0.1, 0.3, 0.6]


@pytest.mark.parametrize(
    ("rows", "faults"),
    [
        ([GOOD], []),
        # Rounding is no reason, neither at the ends nor in the order.
        ([[1 + 1e-12, 0.0, 0.0, 0.3, 0.3 - 1e-12, 1.0]], []),
        ([[1.1, *GOOD[1:]]], ["a CLs is outside 0 to 1"]),
        ([GOOD, [-1e-3, *GOOD[1:]]], ["a CLs is outside 0 to 1"]),
        ([[0.2, 0.01, 0.04, 0.3, 0.1, 0.6]], ["the expected CLs are not in order"]),
        ([GOOD, [0.2, 0.6, 0.3, 0.1, 0.04, 0.01]], ["the expected CLs are not in order"]),
        # The observed one may be anywhere.
        ([[0.9, *GOOD[1:]], [0.0, *GOOD[1:]]], []),
        (
            [[0.2, 0.01, 1.2, 0.1, 0.3, 0.6]],
            ["a CLs is outside 0 to 1", "the expected CLs are not in order"],
        ),
    ],
)
def test_cls_that_cannot_be(rows: list[list[float]], faults: list[str]) -> None:
    assert cls_problems(np.array(rows)) == faults


@pytest.fixture
def fitted(everything: Any) -> tuple[Any, Any]:
    """Return hypotheses with every modifier type, and their free fits."""
    compilation = compile_hypotheses(everything.workspace, everything.hypotheses, ModelOptions())
    (batch,) = compilation.batches
    loaded = load(batch, range(len(batch.members)), runtime())
    return loaded, hypotest(loaded, (1.0,), "qtilde").free


def _yields(loaded: Any, fits: Any, value: float) -> Any:
    yields = fits.yields.copy()
    assert loaded.observed.events[1, loaded.slots[0]] > 0
    yields[1, loaded.slots[0]] = value
    return fits._replace(yields=yields)


def _flag(name: str) -> Callable[[Any, Any], Any]:
    def change(_: Any, fits: Any) -> Any:
        values = getattr(fits, name).copy()
        values[1] = False
        return fits._replace(**{name: values})

    return change


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        (_flag("converged"), ["did not converge"]),
        (_flag("positive"), ["ended where the Hessian is not positive definite"]),
        (
            lambda loaded, fits: _yields(loaded, fits, -0.1),
            ["expects negative events in a bin"],
        ),
        (
            lambda loaded, fits: _yields(loaded, fits, 0.0),
            ["expects nothing in a bin with events"],
        ),
    ],
    ids=["converged", "Hessian", "negative", "none"],
)
def test_each_reason_is_given_for_the_fit_that_has_it(
    fitted: tuple[Any, Any], change: Callable[[Any, Any], Any], reasons: list[str]
) -> None:
    loaded, fits = fitted
    changed = change(loaded, fits)
    assert doubts(loaded, changed, 0) == []
    assert doubts(loaded, fits, 1) == []
    assert doubts(loaded, changed, 1) == reasons


def test_nothing_may_be_expected_where_nothing_is_seen(fitted: tuple[Any, Any]) -> None:
    loaded, fits = fitted
    events = loaded.observed.events[1].copy()
    events[loaded.slots[0]] = 0.0
    assert doubts(loaded, _yields(loaded, fits, 0.0), 1, events) == []


def test_a_jump_of_an_interpolation_is_reported(fitted: tuple[Any, Any]) -> None:
    loaded, fits = fitted
    # The columns of parameters that have such jumps are known to the compiled hypotheses.
    at = SimpleNamespace(
        observed=loaded.observed, slots=loaded.slots, discontinuous=np.array([0, 1])
    )
    x = fits.x.copy()
    x[:, :2] = [[0.9, -0.9], [0.0, -1.0]]
    beyond = fits._replace(x=x)
    assert doubts(at, beyond, 0) == []
    assert doubts(at, beyond, 1) == ["ended beyond a jump of pyhf's code 2, at +-1"]
