"""Make hypotheses from a patchset, loose patches or complete workspaces, and check each.

Nearly all published patches only add a signal sample to some channels. These are checked as
they are, without a copy of the workspace. Any other patch is applied to a copy, operation by
operation, and the outcome is checked like a workspace.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import InputError, RequestError
from fitserve.files import read_regular
from fitserve.pallet.checks import (
    Findings,
    check_parameters,
    check_sample,
    check_sums,
    check_workspace,
)
from fitserve.pallet.parameters import Outline, Parameters
from fitserve.pallet.schema import decode_json, shorten, validate
from fitserve_contract import Hypothesis, PatchError, apply_patch, decoded_bytes, digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fitserve.pallet.checks import Base, Channel

__all__ = [
    "ADDED_SAMPLE",
    "adds_sample",
    "check_hypotheses",
    "from_loose_patches",
    "from_patchset",
    "from_workspaces",
    "with_masses",
    "with_values",
]

ADDED_SAMPLE = re.compile(r"/channels/(0|[1-9]\d{0,8})/samples/(0|[1-9]\d{0,8}|-)")
"""The path of a sample that a patch adds: indices of the channel and in its samples."""

# 500, 500.5 and, as in names of files, 500p5; not the 1 in C1N2.
_NUMBER = re.compile(r"\d+(?:[.p]\d+)?")
_MASS = re.compile(r"[-+]?\d+(?:[.p]\d+)?(?:e[-+]?\d+)?")


def from_patchset(content: Any, where: str, findings: Findings) -> tuple[Hypothesis, ...]:
    """Return the hypotheses of a decoded patchset, in its order.

    Parameters
    ----------
    content
        The decoded patchset; it is validated here.
    where
        Name of the file.
    findings
        Takes what is found: names or mass values that occur twice.

    Raises
    ------
    InputError
        The patchset has no patches or is not valid.
    """
    if isinstance(content, dict) and content.get("patches") == []:
        raise InputError(
            f"{where} has no patches, so there is no hypothesis to test",
            hint="get the patchset of this workspace from where the workspace comes from",
        )
    validate(content, "patchset", where)
    labels = content["metadata"]["labels"]
    hypotheses = []
    for patch in content["patches"]:
        name, values = patch["metadata"]["name"], patch["metadata"]["values"]
        if len(values) != len(labels):
            findings.error(
                "a patch does not have one value for each label",
                f"patch {shorten(name, 60)!r} has {len(values)} values, the patchset "
                f"{len(labels)} labels",
            )
        if any(isinstance(one, int) and abs(one) > sys.float_info.max for one in values):
            findings.error("a mass value is too large for a number", f"patch {shorten(name, 60)!r}")
        hypotheses.append(Hypothesis(name=name, values=tuple(values), patch=patch["patch"]))
    for kind, count in Counter(each.name for each in hypotheses).items():
        if count > 1:
            findings.error("patches have the same name", f"{shorten(kind, 60)!r}, {count} times")
    for values, count in Counter(each.values for each in hypotheses).items():
        if count > 1:
            findings.doubt("patches have the same mass values", f"{list(values)}, {count} times")
    return tuple(hypotheses)


def from_loose_patches(
    contents: Mapping[str, Any], findings: Findings
) -> tuple[tuple[Hypothesis, ...], tuple[str, ...]]:
    """Return hypotheses and labels made from files of one patch each.

    The name of a hypothesis is that of its file without ``.json``; its values are the numbers in
    that name; while there are more than two, those that are the same in all files are left out.

    Parameters
    ----------
    contents
        Decoded patches by the path of their file.
    findings
        Takes what is found.

    Raises
    ------
    InputError
        A file is not a JSON Patch.

    Examples
    --------
    >>> from fitserve.pallet.checks import Findings
    >>> from fitserve.pallet.patches import from_loose_patches
    >>> patches = {"A/patch.sbottom_600_280_60.json": [], "A/patch.sbottom_700_280_60.json": []}
    >>> hypotheses, labels = from_loose_patches(patches, Findings())
    >>> [(each.name, each.values) for each in hypotheses], labels
    ([('patch.sbottom_600_280_60', (600, 280)), ('patch.sbottom_700_280_60', (700, 280))],
     ('value_1', 'value_2'))
    """
    for where, patch in contents.items():
        validate(patch, "jsonpatch", where)
    names = [PurePosixPath(where).stem for where in contents]
    for name, count in Counter(names).items():
        if count > 1:
            findings.error("patches have the same name", f"{name!r}, {count} times")
    patches = zip(names, contents.values(), strict=True)
    return with_values(
        [Hypothesis(name=name, values=(), patch=patch) for name, patch in patches], findings
    )


def with_values(
    hypotheses: Sequence[Hypothesis], findings: Findings
) -> tuple[tuple[Hypothesis, ...], tuple[str, ...]]:
    """Return hypotheses with the numbers in their names as mass values, and labels for these.

    While there are more than two, those that are the same in all names are left out.
    """
    names = [one.name for one in hypotheses]
    values = _values(names)
    if values is None:
        findings.note(
            "the names of the files do not have the same number of mass values",
            ", ".join(names[:3]),
        )
        values = [()] * len(names)
    replaced = (
        msgspec.structs.replace(one, values=each)
        for one, each in zip(hypotheses, values, strict=True)
    )
    return tuple(replaced), tuple(f"value_{index + 1}" for index in range(len(values[0])))


def from_workspaces(
    files: Mapping[str, bytes], findings: Findings
) -> tuple[dict[str, Any], tuple[Hypothesis, ...]] | None:
    """Return what complete workspaces share, and for each a hypothesis with what it has besides.

    A sample that all of them have, with the same content, is background, unless the parameter of
    interest scales it; the others are added by the patch of the hypothesis, whose name is that of
    the file without ``.json``. A workspace with nothing but background is no hypothesis. None is
    for workspaces that are not of one analysis: their channels or observed data differ.

    Parameters
    ----------
    files
        JSON by the path of its file; they are decoded one at a time.
    findings
        Takes what is found.

    Raises
    ------
    InputError
        A workspace is not valid, or there is no background or no signal.
    """
    first: dict[str, Any] = {}
    shared: dict[tuple[str, str], str] = {}
    for path, raw in files.items():
        workspace = decode_json(raw, path)
        validate(workspace, "workspace", path)
        pois = {each["config"]["poi"] for each in workspace["measurements"]}
        own = {
            (channel["name"], sample["name"]): digest(sample)
            for channel in workspace["channels"]
            for sample in channel["samples"]
            if pois.isdisjoint(modifier["name"] for modifier in sample["modifiers"])
        }
        if not first:
            first, shared = workspace, own
        elif _observed(workspace) != _observed(first):
            return None
        shared = {key: value for key, value in shared.items() if own.get(key) == value}
    channels = []
    for channel in first["channels"]:
        name = channel["name"]
        samples = [one for one in channel["samples"] if (name, one["name"]) in shared]
        channels.append(channel | {"samples": samples})
    background = first | {"channels": channels}
    if bare := [channel["name"] for channel in channels if not channel["samples"]]:
        raise InputError(
            "the workspaces have no background in common",
            evidence=f"no sample of channel {bare[0]!r} is the same in all {len(files)} of them",
            hint="give each workspace by itself",
        )
    hypotheses = []
    taken = 0
    for path, name in zip(files, _names(list(files)), strict=True):
        patch = _difference(background, decode_json(files[path], path, besides=taken), shared)
        taken += decoded_bytes(msgspec.json.encode(patch))
        if patch:
            hypotheses.append(Hypothesis(name=name, values=(), patch=patch))
        else:
            findings.note("a workspace has nothing but the background of all others", path)
    if not hypotheses:
        raise InputError(
            "the workspaces are all the same, so no signal is known",
            evidence=", ".join(files),
            hint="give one of them",
        )
    return background, tuple(hypotheses)


def _observed(workspace: dict[str, Any]) -> tuple[set[str], dict[str, list[float]]]:
    """Return the channels of a workspace, and their observed data."""
    channels = {channel["name"] for channel in workspace["channels"]}
    return channels, {each["name"]: each["data"] for each in workspace["observations"]}


def _names(paths: list[str]) -> list[str]:
    """Return names for files: without their directories, if that tells them apart."""
    stems = [PurePosixPath(path).stem for path in paths]
    if len(set(stems)) == len(stems):
        return stems
    return [path.removesuffix(".json").replace("/", "_") for path in paths]


def _difference(
    background: dict[str, Any], workspace: dict[str, Any], shared: Mapping[tuple[str, str], str]
) -> list[dict[str, Any]]:
    """Return the patch that makes a workspace of the background."""
    places = {channel["name"]: index for index, channel in enumerate(background["channels"])}
    patch: list[dict[str, Any]] = [
        {"op": "add", "path": f"/channels/{places[channel['name']]}/samples/-", "value": sample}
        for channel in workspace["channels"]
        for sample in channel["samples"]
        if (channel["name"], sample["name"]) not in shared
    ]
    if patch and workspace["measurements"] != background["measurements"]:
        measurements = workspace["measurements"]
        patch.append({"op": "replace", "path": "/measurements", "value": measurements})
    return patch


def with_masses(
    hypotheses: Sequence[Hypothesis], masses: str | Path
) -> tuple[tuple[Hypothesis, ...], tuple[str, ...]]:
    """Return hypotheses with mass values from their names or from a table, and the labels.

    Parameters
    ----------
    masses
        A pattern that names have, with the labels in braces and ``*`` for anything else, such as
        ``C1N2_{m1}_{m2}``; or a CSV file with a column ``name`` and a column for each mass.

    Raises
    ------
    RequestError
        It is neither.
    InputError
        A hypothesis has no mass values by it, or the file cannot be read.

    Examples
    --------
    >>> from fitserve.pallet.patches import with_masses
    >>> from fitserve_contract import Hypothesis
    >>> wino = Hypothesis(name="C1N2_500_0p5_merged", values=(), patch=[])
    >>> [hypothesis], labels = with_masses([wino], "C1N2_{m1}_{m2}_*")
    >>> hypothesis.values, labels
    ((500, 0.5), ('m1', 'm2'))
    """
    if isinstance(masses, str) and "{" in masses:
        labels, values = _by_pattern(masses, [one.name for one in hypotheses])
    else:
        labels, values = _by_table(Path(masses))
    without = [one.name for one in hypotheses if one.name not in values]
    if without:
        raise InputError(
            "hypotheses have no mass values",
            evidence=f"{len(without)} of {len(hypotheses)}, among them {', '.join(without[:3])}: "
            f"--masses {masses}",
            hint="name them by the pattern, or give a table with a row for each",
        )
    replaced = (msgspec.structs.replace(one, values=values[one.name]) for one in hypotheses)
    return tuple(replaced), labels


def _by_pattern(
    pattern: str, names: Sequence[str]
) -> tuple[tuple[str, ...], dict[str, tuple[float | str, ...]]]:
    *pieces, last = re.split(r"\{(\w+)\}", pattern)
    literals, labels = [*pieces[::2], last], tuple(pieces[1::2])
    if not labels or len(set(labels)) != len(labels) or re.search("[{}]", "".join(literals)):
        raise RequestError(
            f"{pattern!r} is no pattern of mass values",
            evidence="each mass has a label of its own in braces",
            hint="--masses 'C1N2_{m1}_{m2}'",
        )
    between = [".*".join(map(re.escape, re.split(r"\*+", literal))) for literal in literals]
    expression = f"({_MASS.pattern})".join(between)
    matches = {name: re.fullmatch(expression, name) for name in names}
    return labels, {
        name: tuple(map(_number, match.groups())) for name, match in matches.items() if match
    }


def _by_table(path: Path) -> tuple[tuple[str, ...], dict[str, tuple[float | str, ...]]]:
    values: dict[str, tuple[float | str, ...]] = {}
    try:
        text = read_regular(path).decode("utf-8-sig")
        header, *rows = list(csv.reader(text.splitlines())) or [[]]
    except OSError as error:
        raise InputError(
            f"there is no table of mass values {str(path)!r}",
            evidence=error.strerror or str(error),
            hint="give a CSV file, or a pattern with labels in braces: 'C1N2_{m1}_{m2}'",
        ) from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path} is no table in CSV", evidence=str(error)) from error
    if "name" not in header or len(set(header)) != len(header) or len(header) == 1:
        raise InputError(
            f"{path} needs a column 'name' and one for each mass, all with names of their own",
            evidence=f"its columns are {', '.join(header)}",
        )
    place = header.index("name")
    for number, row in enumerate(rows, 2):
        if not row:
            continue
        if len(row) != len(header) or row[place] in values:
            what = "a row of another length" if len(row) != len(header) else "a name twice"
            raise InputError(f"{path} has {what}", evidence=f"line {number}: {','.join(row)[:80]}")
        values[row[place]] = tuple(_mass(one) for at, one in enumerate(row) if at != place)
    return tuple(one for one in header if one != "name"), values


def _mass(text: str) -> float | str:
    return _number(text) if _MASS.fullmatch(text.strip()) else text.strip()


def _values(names: Sequence[str]) -> list[tuple[float, ...]] | None:
    numbers = [
        tuple(_number(part) for part in re.split(r"[_-]", name) if _NUMBER.fullmatch(part))
        for name in names
    ]
    if len({len(each) for each in numbers}) != 1:
        return None
    columns = list(zip(*numbers, strict=True))
    varying = [column for column in columns if len(set(column)) > 1]
    # A mass that never changes is no axis; a plane has two, even if one is a line.
    kept = varying if len(varying) >= 2 else columns[:2]  # noqa: PLR2004
    return list(zip(*kept, strict=True)) if kept else [()] * len(names)


def _number(text: str) -> float:
    value = float(text.replace("p", "."))
    return int(value) if value.is_integer() and text.strip().isdigit() else value


def check_hypotheses(
    hypotheses: Iterable[Hypothesis], workspace: dict[str, Any], base: Base, findings: Findings
) -> dict[str, Outline]:
    """Check that each patch applies and that it makes a likelihood.

    Parameters
    ----------
    hypotheses
        To be checked.
    workspace
        The background-only workspace, already checked.
    base
        What `check_workspace` found in it.
    findings
        Takes what is found.

    Returns
    -------
    dict of str to Outline
        The models by the name of the hypothesis, of those whose patches apply.
    """
    packed = msgspec.json.encode(workspace)
    outlines: dict[str, Outline] = {}
    applied: Outline | None = None
    keeps_measurements = False
    pois = {measurement["config"]["poi"] for measurement in base.measurements}
    no_signal = pois.isdisjoint(base.parameters.by_name())
    for hypothesis in hypotheses:
        where = f"patch {shorten(hypothesis.name, 60)!r}, "
        if not hypothesis.patch and no_signal:
            findings.note(
                "patches that change nothing: without a signal, CLs is 1", where.rstrip(", ")
            )
        if all(adds_sample(operation) for operation in hypothesis.patch):
            keeps_measurements = True
            outline = _check_added(hypothesis.patch, base, findings, where)
        else:
            outline = _check_applied(hypothesis.patch, packed, findings, where)
            if outline == applied:
                # Thousands of equal ones would fill the memory.
                outline = applied
            applied = outline
        if outline is not None:
            outlines[hypothesis.name] = outline
    if keeps_measurements:
        findings.take(base.configured)
    _note_unused(outlines.values(), findings)
    return outlines


def _note_unused(outlines: Iterable[Outline], findings: Findings) -> None:
    """Note what the measurements configure and no hypothesis has."""
    unused: set[tuple[str, str]] | None = None
    names: set[str] = set()
    for outline in outlines:
        here = outline.unused()
        unused = here if unused is None else unused & here
        if not unused:
            return
        names = names or set(outline.parameters)
    for measurement, parameter in sorted(unused or ()):
        # ROOT's names: Lumi, alpha_ for a normsys or histosys, gamma_ for what is in each bin.
        prefixes = ("alpha_", "gamma_stat_", "gamma_")
        meant = names & {parameter.lower(), *map(parameter.removeprefix, prefixes)}
        suggestion = f" (did you mean {max(meant)!r}?)" if meant else ""
        findings.note(
            "a measurement configures parameters that the model does not have, which does nothing",
            f"{shorten(parameter, 60)!r} in {shorten(measurement, 60)!r}{suggestion}",
        )


def adds_sample(operation: dict[str, Any]) -> bool:
    """Tell whether an operation adds a sample to a channel."""
    return operation["op"] == "add" and ADDED_SAMPLE.fullmatch(operation["path"]) is not None


def _check_added(
    patch: Sequence[dict[str, Any]], base: Base, findings: Findings, where: str
) -> Outline | None:
    """Check a patch that only adds samples."""
    parameters = Parameters(base.parameters)
    changed: dict[int, Channel] = {}
    for number, operation in enumerate(patch):
        there = f"{where}operation {number} (add {operation['path']})"
        match = ADDED_SAMPLE.fullmatch(operation["path"])
        channel, position = match.groups() if match else ("", "")
        if int(channel) >= len(base.channels):
            findings.error(
                "a patch does not apply to the workspace",
                f"{there}: there are {len(base.channels)} channels, counted from 0",
            )
            return None
        if int(channel) not in changed:
            changed[int(channel)] = base.channels[int(channel)].copy()
        new = changed[int(channel)]
        if position != "-" and int(position) > len(new.samples):
            findings.error(
                "a patch does not apply to the workspace",
                f"{there}: channel {new.name!r} has {len(new.samples)} samples, counted from 0",
            )
            return None
        try:
            validate(operation["value"], "sample", there)
        except InputError as error:
            findings.error(
                "a patch adds a sample that violates pyhf's schema", f"{there}: {error.evidence}"
            )
            return None
        check_sample(operation["value"], new, parameters, findings, where)
    for new in changed.values():
        check_sums(new, findings, where)
    # What is wrong with the background's measurements is reported once.
    measurements = [] if base.configured.errors else base.measurements
    check_parameters(measurements, parameters, findings, findings, where)
    return Outline(base.measurements, parameters.by_name())


def _check_applied(
    patch: Sequence[dict[str, Any]], packed: bytes, findings: Findings, where: str
) -> Outline | None:
    """Apply a patch to a copy of the workspace and check what comes out."""
    try:
        # Decoding is a tenfold faster copy than copy.deepcopy.
        workspace = apply_patch(msgspec.json.decode(packed), patch)
    except PatchError as error:
        findings.error(
            "a patch does not apply to the workspace", f"{where}{shorten(str(error), 240)}"
        )
        return None
    try:
        validate(workspace, "workspace", f"{where}the patched workspace")
    except InputError as error:
        findings.error(
            "a patch makes a workspace that violates pyhf's schema", f"{where}{error.evidence}"
        )
        return None
    inner = Findings()
    base = check_workspace(workspace, inner)
    findings.take(inner, where)
    findings.take(base.configured, where)
    return Outline(base.measurements, base.parameters.by_name())
