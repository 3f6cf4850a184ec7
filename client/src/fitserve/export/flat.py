"""Results as a table: one row for each hypothesis and signal strength."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve.contract import HypothesisResult, MuPoint
    from fitserve.store.records import Manifest

__all__ = ["COLUMNS", "mass_columns", "table_rows", "to_csv", "to_parquet"]

COLUMNS: Mapping[str, str] = {
    "name": "name of the hypothesis in the patchset",
    "mu": "signal strength",
    "status": "ok, suspect, failed or unfinished, at this signal strength",
    "reason": "why the status is not ok",
    "CLs_obs": "observed CLs",
    "CLs_exp_m2": "expected CLs for a background fluctuation of -2 sigma",
    "CLs_exp_m1": "expected CLs for a background fluctuation of -1 sigma",
    "CLs_exp_0": "median expected CLs",
    "CLs_exp_p1": "expected CLs for a background fluctuation of +1 sigma",
    "CLs_exp_p2": "expected CLs for a background fluctuation of +2 sigma",
    "muhat": "best-fit signal strength for the observed data",
    "twice_nll": "-2 log L at the best fit to the observed data",
    "fit_time": "wall time of all fits of the hypothesis, in seconds",
    "setup_time": "wall time of building its model, in seconds",
    "engine": "engine that gave the result",
    "key": "digest of workspace, patch and request",
}
"""Columns and their meaning; those of the mass values (`mass_columns`) follow the name."""

_TEXT = {"name", "status", "reason", "engine", "key"}
_EXPECTED = ("CLs_exp_m2", "CLs_exp_m1", "CLs_exp_0", "CLs_exp_p1", "CLs_exp_p2")


def mass_columns(manifest: Manifest) -> list[str]:
    """Return the columns of the mass values: ``mass_`` and the patchset's label.

    What is not a letter, digit or underscore in a label becomes an underscore.
    """
    found: list[str] = []
    for label in manifest.pallet.labels:
        name = "mass_" + re.sub(r"\W+", "_", label)
        while name in found:
            name += "_"
        found.append(name)
    return found


def table_rows(
    manifest: Manifest, results: Mapping[str, HypothesisResult]
) -> Iterator[dict[str, Any]]:
    """Yield every row; hypotheses without a result have one with the status ``unfinished``.

    Where there is no number the value is None.
    """
    masses = mass_columns(manifest)
    blank = dict.fromkeys(["name", *masses, *list(COLUMNS)[1:]])
    for name in manifest.hypotheses:
        result = results.get(name)
        if result is None:
            values = manifest.values.get(name, ())
            for mu in manifest.request.mu:
                yield {
                    **blank,
                    **dict(zip(masses, values, strict=False)),
                    "name": name,
                    "mu": mu,
                    "status": "unfinished",
                }
            continue
        common = {
            **blank,
            **dict(zip(masses, result.mass_hypotheses, strict=False)),
            "name": name,
            "muhat": result.muhat,
            "twice_nll": result.twice_nll,
            "fit_time": result.fit_time,
            "setup_time": result.setup_time,
            "engine": result.engine,
            "key": result.key,
        }
        at = {point.mu: point for point in result.points}
        first = manifest.request.mu[0]
        for mu in manifest.request.mu:
            # A hypothesis that failed altogether has its reason and no points.
            whole = mu == first or result.status == "failed"
            of = at.get(mu) or (result if whole else None)
            yield {**common, "mu": mu, **_numbers(of)}


def _numbers(point: HypothesisResult | MuPoint | None) -> dict[str, Any]:
    if point is None:
        return {"status": "failed", "reason": "there is no result at this signal strength"}
    return {
        "status": point.status,
        "reason": point.reason,
        "CLs_obs": point.CLs_obs,
        **dict(zip(_EXPECTED, point.CLs_exp, strict=False)),
    }


def to_csv(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as CSV with a header row; an empty field is a missing number."""
    buffer = io.StringIO()
    rows = list(table_rows(manifest, results))
    names = ["name", *mass_columns(manifest), *list(COLUMNS)[1:]]
    writer = csv.DictWriter(buffer, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue().encode()


def to_parquet(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> bytes:
    """Return the table as Parquet; the manifest is in its metadata under ``fitserve``.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("export to Parquet", "parquet") from error

    rows = list(table_rows(manifest, results))
    masses = mass_columns(manifest)
    fields = []
    for name in ["name", *masses, *list(COLUMNS)[1:]]:
        words = name in masses and any(isinstance(row[name], str) for row in rows)
        type_ = pa.string() if name in _TEXT or words else pa.float64()
        if words:
            for row in rows:
                row[name] = None if row[name] is None else str(row[name])
        metadata = {"description": COLUMNS.get(name, "mass value, in the patchset's unit")}
        fields.append(pa.field(name, type_, metadata=metadata))
    schema = pa.schema(fields, metadata={"fitserve": msgspec.json.encode(manifest)})
    table = pa.Table.from_pylist(rows, schema=schema)
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    return bytes(sink.getvalue().to_pybytes())
