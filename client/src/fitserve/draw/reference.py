"""Reference contours to lay over that of a run."""

from __future__ import annotations

import csv
import io
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from fitserve.draw.curves import Mesh, contour_lines, level_lines
from fitserve.draw.grid import significance, threshold
from fitserve.errors import FitserveError, InputError
from fitserve.kinds.base import confidence_level, level_text, shown_strength
from fitserve.runs.records import entries_of, read_json
from fitserve_contract import HypotestRequest, HypothesisResult, MuPoint

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from fitserve.draw.grid import ContourOptions
    from fitserve.runs.records import CLsEntry, Manifest

    Polylines = list[NDArray[np.float64]]

__all__ = ["Reference", "read_reference"]

_FEWEST = 2
_PIECE = re.compile(r"piece|segment", re.IGNORECASE)
_CLS = re.compile(r"\bCL\W*s\b", re.IGNORECASE)


@dataclass(frozen=True)
class Reference:
    """A contour to lay over: its label and polylines of shape (k, 2)."""

    label: str
    lines: list[NDArray[np.float64]]


def read_reference(
    path: Path,
    label: str,
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions,
) -> Reference:
    """Read a contour, or make the observed one from another set of results.

    Parameters
    ----------
    path
        A run directory; results by hypothesis name (see `fitserve.export.compare.read_cls`); the
        output of ``fitserve contour --json``; a CSV file or JSON with x and y; a HEPData
        table in YAML, JSON or CSV, of a contour or of CLs over the plane.
    label
        Its entry in the legend.
    manifest, results
        The run under it, with the mass values of hypotheses that the reference only names.
    options
        The plane and interpolation for results that have to be contoured, which are of the
        signal strength and level of the run under it.

    Raises
    ------
    InputError
        The file is none of these, or holds no contour in this plane.
    RequestError
        It is a run without CLs at this signal strength.
    """
    shown, level = shown_strength(manifest.request), confidence_level(manifest.request)
    mu = shown if options.mu is None else options.mu
    options = replace(options, references={}, mu=mu, level=options.level or level)
    if path.is_dir():
        from fitserve.runs.store import read_run

        run = read_run(path)
        lines = contour_lines(run.manifest, run.results, options).observed
    else:
        suffix = path.suffix.lower()
        if suffix == ".json":
            content = read_json(path)
            lines = _from_json(content, path, manifest, results, options)
            label += _of_another(content, options)
        elif suffix in {".yaml", ".yml"}:
            lines = _from_table(_hepdata_yaml(_read_yaml(path), path), path, options)
        elif suffix == ".csv":
            lines = _from_csv(_read_text(path), path)
        else:
            raise _unknown(path, f"its name ends with {suffix or 'nothing known'}")
    if not lines:
        raise InputError(
            "the reference has no contour", evidence=f"{path}: nothing or everything is excluded"
        )
    return Reference(label, lines)


def _of_another(content: Any, options: ContourOptions) -> str:
    """Return the level and signal strength of our own JSON where they are not the picture's."""
    if not isinstance(content, dict) or "confidence_level" not in content:
        return ""
    level, mu = content["confidence_level"], content.get("mu", options.mu)
    if (level, mu) == (options.level, options.mu):
        return ""
    return f" ({level_text(level)}, mu = {mu:g})"


def _from_json(
    content: Any,
    path: Path,
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions,
) -> Polylines:
    if isinstance(content, list):
        return _pieces(_pairs(content, path), path)
    if not isinstance(content, dict):
        raise _unknown(path, f"its JSON is a {type(content).__name__}")
    if "confidence_level" in content and "observed" in content:
        return [_polyline(line, path) for line in content["observed"]]
    if "headers" in content and "values" in content:
        return _from_table(_hepdata_json(content, path), path, options)
    if "independent_variables" in content:
        return _from_table(_hepdata_yaml(content, path), path, options)
    if {"x", "y"} <= set(content):
        return _pieces(list(zip(content["x"], content["y"], strict=False)), path)
    return _from_entries(entries_of(content, path), manifest, results, options, path)


def _from_entries(
    entries: dict[str, CLsEntry],
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    options: ContourOptions,
    path: Path,
) -> Polylines:
    """Return the contours of results, whose hypotheses may have names only."""
    places = {**manifest.values, **{n: r.mass_hypotheses for n, r in results.items()}}
    placed = {}
    for name, entry in entries.items():
        values = entry.mass_hypotheses or places.get(name)
        if values is not None:
            placed[name] = _as_result(name, entry, values, options.mu)
    if not placed:
        raise InputError(
            "the reference's hypotheses have no place in this plane",
            evidence=f"{path}: it has no mass values, and none of its names is in the run",
        )
    request = HypotestRequest(mu=(1.0 if options.mu is None else options.mu,))
    other = msgspec.structs.replace(manifest, request=request, hypotheses=list(placed), values={})
    return contour_lines(other, placed, options).observed


def _as_result(
    name: str, entry: CLsEntry, values: tuple[float | str, ...], mu: float | None
) -> HypothesisResult:
    # Files of other programs have one CLs, and do not say at which signal strength.
    at: CLsEntry | MuPoint | None = entry
    if entry.points and mu is not None:
        at = next((point for point in entry.points if math.isclose(point.mu, mu)), None)
    observed = at.CLs_obs if at else None
    return HypothesisResult(
        name=name,
        key="",
        mass_hypotheses=values,
        status=entry.status or ("failed" if observed is None else "ok"),
        reason=entry.reason,
        CLs_obs=observed,
        CLs_exp=at.CLs_exp if at else [],
        fit_time=0.0,
        setup_time=0.0,
        engine="",
        points=[],
    )


@dataclass(frozen=True)
class _Table:
    """A HEPData table: names and values of its columns, NaN for what is not a number."""

    independent: list[tuple[str, list[float]]]
    dependent: list[tuple[str, list[float]]]


def _from_table(table: _Table, path: Path, options: ContourOptions) -> Polylines:
    columns = table.independent + table.dependent
    if not table.independent or len(columns) < _FEWEST:
        raise _unknown(path, "the table has fewer than two columns")
    if len(table.independent) >= _FEWEST:
        x, y = table.independent[0][1], table.independent[1][1]
        cls = next((values for name, values in table.dependent if _CLS.search(name)), None)
        if cls is not None:
            points = np.column_stack([x, y])
            level = threshold(options.level or 0.95)
            surface = Mesh(points).surface(significance(cls), options.interpolation, level=level)
            return level_lines(surface, level)
    else:
        x, y = columns[0][1], columns[1][1]
    pieces = next((values for name, values in table.dependent if _PIECE.search(name)), None)
    return _pieces(list(zip(x, y, strict=False)), path, pieces)


def _hepdata_yaml(content: Any, path: Path) -> _Table:
    try:
        return _Table(
            independent=[_variable(v) for v in content["independent_variables"]],
            dependent=[_variable(v) for v in content["dependent_variables"]],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _unknown(path, f"not a HEPData table: {error!r}") from error


def _variable(variable: Any) -> tuple[str, list[float]]:
    return str(variable["header"]["name"]), [_value(v) for v in variable["values"]]


def _hepdata_json(content: Any, path: Path) -> _Table:
    try:
        names = [str(header["name"]) for header in content["headers"]]
        rows = content["values"]
        width = len(rows[0]["x"])
        columns = [
            (name, [_value((row["x"] + row["y"])[i]) for row in rows])
            for i, name in enumerate(names)
        ]
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise _unknown(path, f"not a HEPData table: {error!r}") from error
    return _Table(columns[:width], columns[width:])


def _value(cell: Any) -> float:
    if "value" not in cell and "low" in cell:
        return (_float(cell["low"]) + _float(cell["high"])) / 2
    return _float(cell["value"])


def _float(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(_read_text(path))
    except (yaml.YAMLError, RecursionError) as error:
        raise InputError("the file is not YAML", evidence=f"{path}: {error}") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(
            "the file cannot be read", evidence=f"{path}: {error.strerror or error}"
        ) from error
    except UnicodeError as error:
        raise InputError("the file is not text", evidence=f"{path}: {error}") from error


def _from_csv(text: str, path: Path) -> Polylines:
    """Read columns x and y, else the first two; a blank line or a header starts a piece."""
    columns = (0, 1)
    pairs: list[tuple[float, float]] = []
    pieces: list[float] = []
    piece = 0
    try:
        for row in csv.reader(io.StringIO(text), skipinitialspace=True):
            if row and row[0].startswith("#"):
                continue
            if len(row) <= max(columns) or not any(row):
                piece += 1
                continue
            x, y = (_float(row[c]) for c in columns)
            if math.isnan(x) and math.isnan(y):
                names = [name.strip().lower() for name in row]
                if {"x", "y"} <= set(names):
                    columns = (names.index("x"), names.index("y"))
                piece += 1
                continue
            pairs.append((x, y))
            pieces.append(piece)
    except csv.Error as error:
        raise InputError("the file is not CSV", evidence=f"{path}: {error}") from error
    return _pieces(pairs, path, pieces)


def _pairs(content: list[Any], path: Path) -> list[tuple[Any, Any]]:
    try:
        return [(p["x"], p["y"]) if isinstance(p, dict) else (p[0], p[1]) for p in content]
    except (KeyError, TypeError, IndexError) as error:
        raise _unknown(path, "its entries have no x and y") from error


def _pieces(
    pairs: Iterable[tuple[Any, Any]], path: Path, pieces: Sequence[float] | None = None
) -> Polylines:
    points = np.array([(_float(x), _float(y)) for x, y in pairs]).reshape(-1, 2)
    if len(points) < _FEWEST or not np.isfinite(points).all():
        raise _unknown(path, f"{int(np.isfinite(points).all(axis=1).sum())} points are numbers")
    if pieces is None:
        return [points]
    cuts = np.flatnonzero(np.diff(np.asarray(pieces))) + 1
    return [piece for piece in np.split(points, cuts) if len(piece) >= _FEWEST]


def _polyline(line: Any, path: Path) -> NDArray[np.float64]:
    try:
        points = np.asarray(line, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise _unknown(path, str(error)) from error
    if points.ndim != _FEWEST or points.shape[1] != _FEWEST:
        raise _unknown(path, "its contour is not one of a plane")
    return points


def _unknown(path: Path, evidence: str) -> FitserveError:
    return InputError(
        "the reference is not a contour that fitserve can read",
        evidence=f"{path}: {evidence}",
        hint="give a run, a results.json, a CSV or JSON file with x and y, or a HEPData table "
        "in YAML, JSON or CSV",
    )
