"""A HEPData submission of a run: its CLs and its exclusion contours."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import tarfile
import tempfile
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fitserve.draw.contour import draw_contour
from fitserve.draw.curves import CURVES, contour_lines
from fitserve.draw.style import figure_bytes, need_pictures
from fitserve.errors import FitserveError, MissingExtraError, RequestError, StoreError
from fitserve.files import unwritable_output, write_output
from fitserve.kinds.base import TEST_STATS, beyond_bound, confidence_level, level_text
from fitserve.kinds.toys import COLUMNS as TOY_COLUMNS
from fitserve.runs.summary import data_rows, mass_columns, reference_url
from fitserve_contract import (
    FitRequest,
    LimitRequest,
    RankingRequest,
    ToysRequest,
    cls_strengths,
    kind_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fitserve.draw.curves import Contours
    from fitserve.runs.records import Manifest
    from fitserve_contract import HypothesisResult

__all__ = ["write_submission"]

_DIGITS = 6
_MISSING = "-"
_CLS_COLUMNS = {
    "CLs_obs": "Observed CLs",
    "CLs_exp_0": "Expected CLs",
    "CLs_exp_m2": "Expected CLs, -2 sigma",
    "CLs_exp_m1": "Expected CLs, -1 sigma",
    "CLs_exp_p1": "Expected CLs, +1 sigma",
    "CLs_exp_p2": "Expected CLs, +2 sigma",
    "status": "Status of the fit",
}
_LIMIT_COLUMNS = {
    "limit_obs": "Observed limit",
    "limit_exp_0": "Expected limit",
    "limit_exp_m2": "Expected limit, -2 sigma",
    "limit_exp_m1": "Expected limit, -1 sigma",
    "limit_exp_p1": "Expected limit, +1 sigma",
    "limit_exp_p2": "Expected limit, +2 sigma",
    "status": "Status of the fit",
}
_CONTOURS = {
    "observed": ("Observed contour", "Observed exclusion contour at {level}."),
    "expected": ("Expected contour", "Median expected exclusion contour at {level}."),
    "expected_minus_1_sigma": (
        "Expected contour minus 1 sigma",
        "Expected exclusion contour at {level} for a background fluctuation of -1 sigma.",
    ),
    "expected_plus_1_sigma": (
        "Expected contour plus 1 sigma",
        "Expected exclusion contour at {level} for a background fluctuation of +1 sigma.",
    ),
}
_PICTURE = "contour.png"
_THUMBNAIL = "thumb_contour.png"


def write_submission(
    manifest: Manifest, results: Mapping[str, HypothesisResult], path: Path
) -> None:
    """Write a HEPData submission.

    It has a table of CLs for each signal strength, over all mass values, and, where the
    masses span a plane, one of each contour with the picture. Failed and unfinished
    hypotheses are in the tables, with a dash for a number.

    Parameters
    ----------
    manifest, results
        A run: what was asked for and what is finished, by name.
    path
        A directory, or an archive if its name ends with ``.tar.gz`` or ``.tgz``. An earlier
        submission there is replaced.

    Raises
    ------
    MissingExtraError
        hepdata_lib or the packages for drawing are not installed.
    RequestError
        The run has no CLs.
    StoreError
        The output cannot be written, or is a directory with other content.
    """
    if not cls_strengths(manifest.request):
        raise RequestError(
            "a HEPData submission is of CLs and limits, and the run has none",
            evidence=f"it answers a {kind_of(manifest.request)} request",
            hint="--format csv",
        )
    library = _library()
    archive = path.name.endswith((".tar.gz", ".tgz"))
    if not archive:
        _refuse_strangers(path)
    parent = Path(tempfile.gettempdir()) if archive else path.resolve().parent
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=f".{path.name}.") as temporary:
            directory = Path(temporary) / "submission"
            directory.mkdir()
            _write_files(library, manifest, results, directory)
            if archive:
                write_output(path, _packed(directory))
            else:
                _move(directory, path.resolve(), Path(temporary))
    except OSError as error:
        raise unwritable_output(path, str(error)) from error


def _library() -> Any:
    need_pictures("export to HEPData, which has a picture,")
    try:
        with warnings.catch_warnings():
            # It imports a name that jsonschema will drop one day; nothing here uses it.
            warnings.simplefilter("ignore", DeprecationWarning)
            import hepdata_lib
    except ImportError as error:
        raise MissingExtraError("export to HEPData", "hepdata") from error
    return hepdata_lib


def _refuse_strangers(path: Path) -> None:
    if path.is_dir():
        strangers = any(path.iterdir()) and not (path / "submission.yaml").is_file()
    else:
        strangers = path.exists()
    if strangers:
        raise StoreError(
            f"{path} exists and is not a HEPData submission",
            hint="give -o a new directory, or a name that ends with .tar.gz",
        )


def _move(directory: Path, target: Path, temporary: Path) -> None:
    if target.is_dir():
        target.rename(temporary / "old")
    directory.rename(target)


def _packed(directory: Path) -> bytes:
    buffer = io.BytesIO()
    # No times and no owner: the same run makes the same archive.
    with (
        gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0, filename="") as zipped,
        tarfile.open(fileobj=zipped, mode="w") as tar,
    ):
        for file in sorted(directory.iterdir()):
            member = tarfile.TarInfo(file.name)
            member.size = file.stat().st_size
            member.mode = 0o644
            with file.open("rb") as stream:
                tar.addfile(member, stream)
    return buffer.getvalue()


def _write_files(
    library: Any,
    manifest: Manifest,
    results: Mapping[str, HypothesisResult],
    directory: Path,
) -> None:
    tables = [_cls_table(library, manifest, results, mu) for mu in cls_strengths(manifest.request)]
    if isinstance(manifest.request, LimitRequest):
        tables.insert(0, _limit_table(library, manifest, results))
    contours = _contours(manifest, results)
    if contours is not None:
        picture = draw_contour(manifest, results, contours=contours)
        (directory / _PICTURE).write_bytes(figure_bytes(picture, "png", dpi=200))
        (directory / _THUMBNAIL).write_bytes(figure_bytes(picture, "png", dpi=30))
        tables += [
            _contour_table(library, manifest, contours, name)
            for name in CURVES
            if contours.curve(name)
        ]
    # hepdata_lib's own writer of this part also leaves an archive in the working directory.
    head = {
        "data_license": library.Submission.get_license(),
        "comment": _comment(manifest, results),
        "additional_resources": _resources(library, manifest),
    }
    text = yaml.safe_dump(head, default_flow_style=False, explicit_start=True)
    (directory / "submission.yaml").write_text(text, encoding="utf-8")
    for table in tables:
        table.write_yaml(str(directory))


def _contours(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> Contours | None:
    # Without a plane, or with several to choose from, there are tables of CLs only.
    with contextlib.suppress(FitserveError):
        contours = contour_lines(manifest, results)
        if contours.grid.dimension > 1:
            return contours
    return None


def _cls_table(
    library: Any, manifest: Manifest, results: Mapping[str, HypothesisResult], mu: float
) -> Any:
    table = library.Table(f"CLs at signal strength {mu:g}")
    table.description = (
        f"Observed and expected CLs of every signal hypothesis at signal strength {mu:g}, "
        f"{_method(manifest)}. Expected values are for "
        "background fluctuations of -2 to +2 sigma. A dash: the fit has no valid result."
    )
    table.location = _location(manifest)
    table.keywords = {"observables": ["CLS"], "phrases": ["Exclusion", "CLs", "pyhf"]}
    rows = [row for row in data_rows(manifest, results) if row["mu"] == mu]
    names = library.Variable("Hypothesis", is_binned=False)
    names.values = [row["name"] for row in rows]
    table.add_variable(names)
    _add_masses(library, table, manifest, rows)
    for column, name in _CLS_COLUMNS.items():
        variable = _variable(library, name, [_cell(row[column]) for row in rows])
        _qualify(variable, manifest, mu)
        if f"{column}_error" in TOY_COLUMNS:
            errors = [row.get(f"{column}_error") for row in rows]
            if any(errors):
                uncertainty = library.Uncertainty("toys", is_symmetric=True)
                uncertainty.values = [error or 0.0 for error in errors]
                variable.add_uncertainty(uncertainty)
        table.add_variable(variable)
    return table


def _limit_table(library: Any, manifest: Manifest, results: Mapping[str, HypothesisResult]) -> Any:
    level = _level(manifest)
    beyond = beyond_bound(results.values())
    above = f"the limit is above {beyond.bound:g}, where the search ended, or " if beyond else ""
    table = library.Table("Upper limits on the signal strength")
    table.description = (
        f"Observed and expected upper limits at {level} on the signal strength of every signal "
        f"hypothesis, with the asymptotic {_test_stat(manifest)} test statistic. Expected values "
        f"are for background fluctuations of -2 to +2 sigma. A dash: {above}the fit has no valid "
        "result."
    )
    table.location = _location(manifest)
    table.keywords = {"observables": ["CLS"], "phrases": ["Upper limit", "CLs", "pyhf"]}
    rows = list(data_rows(manifest, results))
    names = library.Variable("Hypothesis", is_binned=False)
    names.values = [row["name"] for row in rows]
    table.add_variable(names)
    _add_masses(library, table, manifest, rows)
    for column, name in _LIMIT_COLUMNS.items():
        variable = _variable(library, name, [_cell(row[column]) for row in rows])
        variable.add_qualifier("Limit", level)
        variable.add_qualifier("Test statistic", _test_stat(manifest))
        table.add_variable(variable)
    return table


def _add_masses(library: Any, table: Any, manifest: Manifest, rows: list[dict[str, Any]]) -> None:
    axes = manifest.pallet.axes
    for i, column in enumerate(mass_columns(manifest)):
        title = axes[i] if i < len(axes) else manifest.pallet.labels[i]
        values = [_cell(row[column]) for row in rows]
        table.add_variable(_variable(library, title, values, independent=True))


def _contour_table(library: Any, manifest: Manifest, contours: Contours, name: str) -> Any:
    title, description = _CONTOURS[name]
    table = library.Table(title)
    pieces = contours.curve(name)
    table.description = (
        f"{description.format(level=_level(manifest))} The significance of CLs is interpolated "
        f"between the hypotheses ({contours.interpolation}); nothing is interpolated next to one "
        "without a result."
    )
    if contours.grid.notes:
        table.description += f" {'; '.join(contours.grid.notes)}."
    if len(pieces) > 1:
        table.description += f" The contour has {len(pieces)} separate pieces."
    table.location = _location(manifest)
    table.keywords = {"observables": ["CLS"], "phrases": ["Exclusion contour", "CLs", "pyhf"]}
    x = [float(point[0]) for piece in pieces for point in piece]
    y = [float(point[1]) for piece in pieces for point in piece]
    table.add_variable(_variable(library, contours.grid.titles[0], x, independent=True))
    ordinate = _variable(library, contours.grid.titles[1], y)
    _qualify(ordinate, manifest, contours.grid.mu)
    table.add_variable(ordinate)
    if len(pieces) > 1:
        numbers = [i + 1 for i, piece in enumerate(pieces) for _ in piece]
        table.add_variable(_variable(library, "Piece of the contour", numbers))
    table.add_additional_resource("Image file", _PICTURE)
    table.add_additional_resource("Thumbnail image file", _THUMBNAIL)
    return table


def _variable(library: Any, title: str, values: list[Any], *, independent: bool = False) -> Any:
    parts = re.fullmatch(r"(.+?)\s*\[(\w+)\]", title)
    name, unit = parts.groups() if parts else (title, "")
    variable = library.Variable(name, is_independent=independent, is_binned=False, units=unit)
    variable.digits = _DIGITS
    variable.values = values
    return variable


def _qualify(variable: Any, manifest: Manifest, mu: float) -> None:
    variable.add_qualifier("Limit", _level(manifest))
    variable.add_qualifier("Signal strength", mu)
    variable.add_qualifier("Test statistic", _test_stat(manifest))
    if isinstance(manifest.request, ToysRequest):
        variable.add_qualifier("Toys", manifest.request.toys)


def _cell(value: float | str | None) -> float | str:
    return _MISSING if value is None else value


def _test_stat(manifest: Manifest) -> str:
    request = manifest.request
    if isinstance(request, FitRequest | RankingRequest):
        return "-"
    return TEST_STATS[request.test_stat]


def _method(manifest: Manifest) -> str:
    request, name = manifest.request, _test_stat(manifest)
    if not isinstance(request, ToysRequest):
        return f"with the asymptotic {name} test statistic"
    return (
        f"from the {name} test statistic of {request.toys} pseudo-experiments (toys) with signal "
        f"and {request.toys} without; the uncertainties are those of their number"
    )


def _level(manifest: Manifest) -> str:
    return level_text(confidence_level(manifest.request))


def _location(manifest: Manifest) -> str:
    names = [f"{key} {value}" for key, value in manifest.pallet.references.items()]
    source = ", ".join(names) or manifest.pallet.name
    return f"Reinterpretation with fitserve of the likelihood of {source}"[:256]


def _comment(manifest: Manifest, results: Mapping[str, HypothesisResult]) -> str:
    pallet = manifest.pallet
    numbers = {
        status: sum(result.status == status for result in results.values())
        for status in ("ok", "suspect", "failed")
    }
    unfinished = len(manifest.hypotheses) - len(results)
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    return (
        f"{pallet.title or pallet.description or pallet.name}: CLs of "
        f"{len(manifest.hypotheses)} signal hypotheses from the published likelihood, fitted "
        f"with fitserve ({versions}). {numbers['ok']} fits are valid, {numbers['suspect']} "
        f"are doubtful, {numbers['failed']} failed, {unfinished} are not finished. "
        f"Digest of the background-only workspace: {pallet.workspace_digest}."
    )


def _resources(library: Any, manifest: Manifest) -> list[dict[str, str]]:
    resources = list(library.Submission().additional_resources)
    for key, value in manifest.pallet.references.items():
        link = reference_url(key, value)
        if link is not None:
            resources.append(
                {"description": f"Likelihood or publication ({key})", "location": link}
            )
    return resources
