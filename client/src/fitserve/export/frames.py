"""Results as a pandas data frame: see `fitserve.api.Run.to_dataframe`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.errors import MissingExtraError
from fitserve.export.rows import mass_columns, table_rows
from fitserve.kinds.base import CLS_COLUMNS
from fitserve.kinds.registry import kind

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = ["to_frame"]

# Former names of columns, kept until version 1.0.
_OLD_NAMES = {"CLs_exp": "CLs_exp_0", "limit_exp": "limit_exp_0"}


def to_frame(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> pd.DataFrame:
    """Return finished results with a row for each hypothesis and signal strength.

    Raises
    ------
    MissingExtraError
        pandas is not installed.
    """
    try:
        import pandas as pd
    except ImportError as error:
        raise MissingExtraError("a data frame", "notebook") from error
    run_kind, masses = kind(manifest.request), mass_columns(manifest)
    rows = [row for row in table_rows(manifest, results) if row["name"] in results]
    if not run_kind.has_cls:
        # One row for each hypothesis, not for each of its parameters.
        rows = list({row["name"]: row for row in rows}.values())
    of_kind = run_kind.besides if run_kind.has_cls else ()
    names = ["name", *masses, *list(CLS_COLUMNS)[1:], *of_kind]
    known = [{name: value for name, value in row.items() if value is not None} for row in rows]
    frame = pd.DataFrame.from_records(known, columns=names).set_index("name")
    for old, name in (*zip(manifest.pallet.labels, masses, strict=True), *_OLD_NAMES.items()):
        if name in frame and old not in frame:
            frame[old] = frame[name]
    return frame
