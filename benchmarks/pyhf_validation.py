"""Run pyhf's own validation suite with fitserve's engine in place of pyhf's.

    git clone https://github.com/scikit-hep/pyhf build/pyhf
    python benchmarks/pyhf_validation.py --pyhf build/pyhf [--docs]

The tests are those of the checkout, tests/test_validation.py, as they are; where they call
`pyhf.infer.hypotest` they get the kernel's numbers. Printed is a table: the CLs that pyhf has
frozen (where it has not, those that the installed pyhf computes), the kernel's, and how far apart
they are. Where pyhf's own test does not hold, the minima of -2 log L of both are told, of which the
lower one is right. What is more than 1e-4 apart and not explained by that makes the exit code 1.
The models that are imported from XML need uproot. With --docs the table goes into
docs/validation.md.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import math
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyhf
import pytest
from page import put_into, table
from scipy.stats import norm

from fitserve_contract import EngineOptions, HypotestRequest, Hypothesis, ModelOptions, digest
from fitserve_contract import request_digest as digest_of
from fitserve_worker.engines import answers
from fitserve_worker.engines.base import Work
from fitserve_worker.verification import TOLERANCE, Pair

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fitserve_contract import HypothesisResult

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "validation.md"
_PROGRAM = "benchmarks/pyhf_validation.py"
_HEAD = ("model", "test", "pyhf", "fitserve", "ΔCLs", "pyhf's test", "why")
_TESTS = ("test_validation", "test_shapesys_nuisparfilter_validation", "test_import_roundtrip")
_CODES = {"normsys": "code1", "histosys": "code0"}


class Row(NamedTuple):
    """One model: what was asked, CLs (observed, then expected) of both, and what explains them.

    ``passed`` says whether pyhf's own test holds with our numbers, None where it was not run.
    """

    name: str
    asked: str
    frozen: Sequence[float]
    ours: Sequence[float] = ()
    passed: bool | None = None
    why: str = ""
    explained: bool = True

    @property
    def difference(self) -> float:
        """The greatest difference of two CLs."""
        return max(abs(a - b) for a, b in zip(self.frozen, self.ours, strict=False))

    def cells(self) -> list[str]:
        """Return the row as text."""
        name = self.name.partition("[")[2].rstrip("]") or self.name
        passed = {True: "passes", False: "fails", None: "-"}[self.passed]
        told = not (self.passed and self.explained) or self.difference > TOLERANCE
        numbers = [f"{cls[0]:.7g}" if cls else "-" for cls in (self.frozen, self.ours)]
        apart = f"{self.difference:.1e}" if self.ours else "-"
        return [name, self.asked, *numbers, apart, passed, self.why if told else ""]


class Suite:
    """A plugin of pytest that answers for pyhf, and notes what was asked and answered.

    Parameters
    ----------
    tests
        Names of the functions that are the suite.
    """

    def __init__(self, tests: Sequence[str]) -> None:
        self._tests = tests
        self.rows: dict[str, Row] = {}
        self._frozen: dict[str, list[float]] = {}
        self._test = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leave out what is none of the suite."""
        items[:] = [one for one in items if getattr(one, "originalname", "") in self._tests]

    @pytest.fixture(autouse=True)
    def _in_place_of_pyhf(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self._test = request.node.name
        if "setup" in request.fixturenames:
            frozen = request.getfixturevalue("setup")["expected"]["result"]
            self._frozen[self._test] = [frozen["obs"], *frozen["exp"]]
        monkeypatch.setattr(pyhf.infer, "hypotest", self._hypotest)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Note whether the test holds."""
        report = yield
        row = self.rows.get(item.name)
        if row is not None and report.when == "call" and report.outcome != "skipped":
            self.rows[item.name] = row._replace(passed=report.passed)
        elif row is None and report.when == "call":
            reason = str(report.longrepr).strip().splitlines()[-1]
            self.rows[item.name] = Row(item.name, "-", [], why=reason, explained=False)
        return report

    def _hypotest(
        self,
        mu: float,
        data: Sequence[float],
        model: pyhf.Model,
        *_: object,
        test_stat: str = "qtilde",
        calctype: str = "asymptotics",
        **__: object,
    ) -> tuple[Any, list[Any]]:
        """Answer as `pyhf.infer.hypotest` with an expected set."""
        frozen = self._frozen.get(self._test, [])
        asked = f"{test_stat}, mu = {mu:g}"
        if test_stat == "q0" or calctype != "asymptotics":
            row = Row(self._test, f"{asked}, {calctype}", frozen, why=_NOT_OFFERED)
            if calctype == "asymptotics":
                row = row._replace(ours=[_p0(_fitted(model, data, 1.0, "qtilde")[0])], why=_P0)
            self.rows[self._test] = row
            pytest.skip(_NOT_OFFERED)
        found, second = _fitted(model, data, mu, test_stat)
        ours = _cls(found)
        pair = Pair(found, found.points[0], second, second.points[0], test_stat)
        row = Row(self._test, asked, frozen or _cls(second), ours)
        explained = row.difference <= TOLERANCE or pair.wrong_by <= TOLERANCE
        why = (pair.above() if explained else pair.evidence()) or _SAME
        low = model.config.suggested_bounds()[model.config.poi_index][0]
        if test_stat == "q" and (found.muhat or 0.0) < 0 <= low:
            why = _BELOW.format(muhat=found.muhat, low=low)
        row = row._replace(why=why, explained=explained)
        self.rows.setdefault(self._test, row)
        return np.array(ours[0]), [np.array(value) for value in ours[1:]]


_SAME = "the minima are the same, but for rounding"
_BELOW = (
    "the best fit is at mu = {muhat:.3g}: q compares with it (arXiv:1007.1727, eq. 14), and pyhf "
    "with that at its bound of {low:g}, of which it warns"
)
_NOT_OFFERED = "a test of discovery (q0) is not offered"
_P0 = f"{_NOT_OFFERED}; the number is the observed p-value by the kernel's fits"


def _cls(result: HypothesisResult) -> list[float]:
    return [math.nan if one is None else one for one in (result.CLs_obs, *result.CLs_exp)]


def _p0(result: HypothesisResult) -> float:
    """Return the p-value of the background-only hypothesis (arXiv:1007.1727, equation 52)."""
    rise = (result.twice_nll_background or 0.0) - (result.twice_nll or 0.0)
    return float(norm.sf(math.sqrt(max(rise, 0.0))))


def _fitted(
    model: pyhf.Model, data: Sequence[float], mu: float, test_stat: str
) -> tuple[HypothesisResult, HypothesisResult]:
    """Return the answers of the kernel and of pyhf with its defaults."""
    workspace, options = _workspace(model, data), _options(model)
    found = []
    for engine in ("kernel", "pyhf"):
        request = HypotestRequest(
            mu=(mu,),
            test_stat=test_stat,
            model=options,
            engine=EngineOptions(engine=engine),
        )
        hypothesis = Hypothesis(name="validation", values=(), patch=[])
        work = Work(digest(workspace), workspace, [hypothesis], request, digest_of(request))
        with _as_it_was():
            found += answers(work)
    return found[0], found[1]


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Leave pyhf's backend and its `hypotest` as the tests have them."""
    backend = pyhf.get_backend()
    replaced = pyhf.infer.hypotest
    pyhf.infer.hypotest = _HYPOTEST
    try:
        yield
    finally:
        pyhf.infer.hypotest = replaced
        pyhf.set_backend(*backend)


_HYPOTEST = pyhf.infer.hypotest


def _workspace(model: pyhf.Model, data: Sequence[float]) -> dict[str, Any]:
    config = model.config
    parameters = model.spec.get("parameters", [])
    return {
        "channels": model.spec["channels"],
        "observations": [
            {"name": name, "data": [float(one) for one in data[config.channel_slices[name]]]}
            for name in config.channels
        ],
        "measurements": [
            {"name": "main", "config": {"poi": config.poi_name, "parameters": parameters}}
        ],
        "version": "1.0.0",
    }


def _options(model: pyhf.Model) -> ModelOptions:
    """Return the interpolation codes of a model; where it was not told, pyhf's are the oldest."""
    settings = model.config.modifier_settings or {}
    codes = {kind: settings.get(kind, {}).get("interpcode", code) for kind, code in _CODES.items()}
    return ModelOptions(**codes)


def run(checkout: Path) -> list[Row]:
    """Run the suite of a checkout and return what came of each model.

    Raises
    ------
    SystemExit
        There is no such suite.
    """
    tests = checkout / "tests" / "test_validation.py"
    if not tests.is_file():
        raise SystemExit(
            f"error: {tests} is not there\n  next: git clone https://github.com/scikit-hep/pyhf"
        )
    suite = Suite(_TESTS if _imports_xml() else _TESTS[:-1])
    before, known = Path.cwd(), set(sys.modules)
    os.chdir(checkout)  # where its tests look for their data
    try:
        with contextlib.redirect_stdout(io.StringIO()) as told:
            code = pytest.main(
                [
                    str(tests.resolve()),
                    *("-q", "--noconftest", "--import-mode=importlib"),
                    *("-p", "no:cacheprovider", "-c", os.devnull),
                    *("--rootdir", str(checkout.resolve())),
                ],
                plugins=[suite],
            )
    finally:
        os.chdir(before)
        for name in set(sys.modules) - known:
            if name.endswith(tests.stem):  # of this checkout, and no other's
                del sys.modules[name]
    if not suite.rows:
        raise SystemExit(f"error: nothing was validated ({code})\n{told.getvalue()}")
    return list(suite.rows.values())


def _imports_xml() -> bool:
    """Return whether pyhf can import XML; without that its test module is imported all the same."""
    names = ("pyhf.readxml", "pyhf.writexml")
    try:
        for name in names:
            importlib.import_module(name)
    except ImportError:
        sys.modules.update({name: ModuleType(name) for name in names})
        return False
    return True


def markdown(rows: Sequence[Row]) -> str:
    """Return the table, and what it comes to."""
    compared = [row for row in rows if len(row.ours) > 1]
    same = sum(row.difference <= TOLERANCE for row in compared)
    others = ", ".join(f"{name} {version(name)}" for name in ("jax", "numpy", "scipy"))
    versions = f"pyhf {pyhf.__version__}, {others}"
    odd = [row for row in compared if row.difference > TOLERANCE]
    explained = sum(row.explained for row in odd)
    told = (
        f"{len(compared)} models with CLs ({versions}): {same} agree within {TOLERANCE:g} in all "
        f"six CLs, {explained} differ where a minimum of pyhf's is the higher one, "
        f"{len(odd) - explained} where one of fitserve's is, or for no known reason."
    )
    return f"{told}\n\n{table(_HEAD, [row.cells() for row in rows])}"


def main() -> None:
    """Print the table, or write it into the documentation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pyhf", type=Path, required=True, help="a checkout of scikit-hep/pyhf")
    parser.add_argument("--docs", action="store_true", help=f"write into {PAGE.name}")
    arguments = parser.parse_args()
    rows = run(arguments.pyhf)
    told = markdown(rows)
    print(told)
    if arguments.docs:
        put_into(PAGE, _PROGRAM, told)
    sys.exit(any(not row.explained for row in rows))


if __name__ == "__main__":
    main()
