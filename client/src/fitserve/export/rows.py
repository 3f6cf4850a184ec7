"""The rows of a table of results, its columns of mass values, and addresses of references."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fitserve.kinds import kind
from fitserve_contract import cls_strengths

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = [
    "mass_columns",
    "reference_url",
    "table_rows",
]


def mass_columns(manifest: Manifest) -> list[str]:
    """Return the columns of the mass values: ``mass_`` and the patchset's label.

    What is not a letter, digit or underscore in a label becomes an underscore.
    """
    columns: list[str] = []
    for label in manifest.pallet.labels:
        name = "mass_" + re.sub(r"\W+", "_", label)
        while name in columns:
            name += "_"
        columns.append(name)
    return columns


def table_rows(
    manifest: Manifest, results: Mapping[str, HypothesisResult]
) -> Iterator[dict[str, Any]]:
    """Yield every row; hypotheses without a result have one with the status ``unfinished``.

    Where there is no number the value is None.
    """
    request = manifest.request
    masses = mass_columns(manifest)
    blank = dict.fromkeys(["name", *masses, *list(kind(request).columns)[1:]])
    strengths = cls_strengths(request)
    for name in manifest.hypotheses:
        result = results.get(name)
        values = manifest.values.get(name, ()) if result is None else result.mass_hypotheses
        begun = {**blank, **dict(zip(masses, values, strict=False)), "name": name}
        if result is None:
            at: list[dict[str, Any]] = [{"mu": mu} for mu in strengths] or [{}]
            for fields in at:
                yield {**begun, **fields, "status": "unfinished"}
            continue
        begun |= {
            "muhat": result.muhat,
            "twice_nll": result.twice_nll,
            "fit_time": result.fit_time,
            "setup_time": result.setup_time,
            "engine": result.engine,
            "key": result.key,
            "neighbours": result.neighbours,
        }
        for row in kind(request).rows(request, result):
            yield begun | row


_STARTS = {
    "arxiv": "https://arxiv.org/abs/",
    "doi": "https://doi.org/",
    "hepdata": "https://www.hepdata.net/record/",
    "inspire": "https://inspirehep.net/literature?q=",
}


def reference_url(key: str, value: str) -> str | None:
    """Return the address of a reference, or None where its kind is not known.

    Parameters
    ----------
    key, value
        An entry of a patchset's ``references``.

    Examples
    --------
    >>> from fitserve.export.rows import reference_url
    >>> reference_url("hepdata", "ins1755298")
    'https://www.hepdata.net/record/ins1755298'
    """
    if value.startswith("https://"):
        return value
    start = _STARTS.get(key.lower())
    return None if start is None else start + quote(value.removeprefix("arXiv:"), safe="/:.")
