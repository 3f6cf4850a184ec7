"""Load a pallet: find or fetch its files, verify, validate, check."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from fitserve.errors import FitserveError, InputError, RequestError
from fitserve.pallet.checks import Findings, check_workspace, sentences
from fitserve.pallet.combination import is_combination, read_combination
from fitserve.pallet.combine import Piece, combine
from fitserve.pallet.download import cached_archive, download, forget
from fitserve.pallet.edit import Change, Edits, Rewriter, convert_edits, names_of
from fitserve.pallet.hs3 import replace_hs3
from fitserve.pallet.parameters import Outline, Parameter
from fitserve.pallet.patches import (
    check_hypotheses,
    from_loose_patches,
    from_patchset,
    from_workspaces,
    with_masses,
    with_values,
)
from fitserve.pallet.regions import find_regions, has_workspace, select_region
from fitserve.pallet.schema import decode_json, pyhf_digest, respelled, validate
from fitserve.pallet.source import (
    analysis_of,
    default_cache,
    given_source,
    open_analysis,
    open_source,
    short_name,
)
from fitserve_contract import Hypothesis, apply_patch, decoded_bytes, digest
from fitserve_contract.codec import no_collection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fitserve.pallet.checks import Base
    from fitserve.pallet.combination import Combination
    from fitserve.pallet.regions import Region
    from fitserve.pallet.signals import OwnSignals
    from fitserve.pallet.source import Analysis, Source

__all__ = [
    "Pallet",
    "complete_workspace",
    "fetch",
    "is_fetched",
    "load_analysis",
    "load_pallet",
    "load_parts",
]

# The schema asks for a record of HEPData; a patchset without one, like the example's, has this.
_NO_RECORD = "ins0000000"


@dataclass(frozen=True, kw_only=True, repr=False)
class Pallet:
    """A background-only workspace and signal hypotheses for it, verified.

    Attributes
    ----------
    source
        What it was loaded from: an absolute path, a URL, or a name of the catalogue.
    name
        Short name, fit for a directory.
    region
        The region of a pallet that has several, else None.
    workspace
        The background-only workspace, decoded.
    hypotheses
        In the order of the patchset.
    workspace_digest
        `fitserve_contract.digest` of the workspace.
    patchset_digests
        pyhf's digests of the workspace, by algorithm, as the patchset states them.
    digest_verified
        These digests are those of the workspace.
    labels
        Names of the mass values.
    description
        As the patchset states it.
    references
        Where the analysis is published: the patchset's entries, and what the catalogue adds.
    analysis
        Name in the catalogue, if the workspace is known there.
    title, axes
        Of that analysis; ``axes`` are LaTeX, in the order of ``labels``.
    background, outlines
        What the models are made of: of the workspace without a patch, and of the hypotheses by
        name.
    forced
        Checks that failed and that the user chose to ignore.
    notes
        What else was noticed and is no reason not to fit.
    remarks
        Those of the notes that are about the models.
    parts
        Of a combination: the pallets that it is made of, by their names in it.
    """

    source: str
    name: str
    region: str | None
    workspace: dict[str, Any]
    hypotheses: tuple[Hypothesis, ...]
    workspace_digest: str
    patchset_digests: dict[str, str]
    digest_verified: bool
    labels: tuple[str, ...]
    description: str
    references: dict[str, str]
    analysis: str | None
    title: str | None
    axes: tuple[str, ...]
    background: Outline
    outlines: dict[str, Outline]
    forced: tuple[str, ...]
    notes: tuple[str, ...]
    remarks: tuple[str, ...]
    parts: dict[str, Pallet] = field(default_factory=dict)

    def __repr__(self) -> str:
        count = len(self.hypotheses)
        return f"<pallet {self.name}: {count} hypothes{'i' if count == 1 else 'e'}s>"

    @property
    def measurements(self) -> dict[str, str]:
        """Names of the measurements and their parameters of interest, in order."""
        return {each["name"]: each["config"]["poi"] for each in self.background.measurements}

    @property
    def bins(self) -> dict[str, int]:
        """Names of the channels and their numbers of bins, in order."""
        return {
            each["name"]: len(each["samples"][0]["data"]) for each in self.workspace["channels"]
        }

    @property
    def normfactors(self) -> frozenset[str]:
        """Normalisation factors that every hypothesis has: the possible parameters of interest."""
        every = [outline.parameters for outline in self._different_outlines]
        return frozenset(
            name
            for name, parameter in (every[0].items() if every else ())
            if parameter.type == "normfactor"
            and all(parameters.get(name) == parameter for parameters in every)
        )

    @cached_property
    def parameter_names(self) -> frozenset[str]:
        """The parameters that any of the hypotheses has."""
        return frozenset().union(*(outline.parameters for outline in self._different_outlines))

    @property
    def _different_outlines(self) -> list[Outline]:
        """The outlines, each once: own signals have one together."""
        return list({id(outline): outline for outline in self.outlines.values()}.values())

    @cached_property
    def parameters(self) -> dict[str, Parameter]:
        """The parameters of the background and of all hypotheses, by name."""
        found = dict(self.background.parameters)
        for outline in self.outlines.values():
            for name in outline.parameters.keys() - found.keys():
                found[name] = outline.parameters[name]
        return found


def load_pallet(
    source: str | Path | Mapping[str, Any] | tuple[Any, Any] | Pallet,
    *,
    region: str | None = None,
    masses: str | Path | None = None,
    signals: OwnSignals | None = None,
    force: bool = False,
    cache_dir: Path | None = None,
    **edits: Unpack[Edits],
) -> Pallet:
    """Load a pallet and verify that it can be fitted.

    Parameters
    ----------
    source
        A directory, a ``.zip`` or ``.tar`` file (packed by gzip, bzip2 or xz, or not), an
        ``https`` URL, a DOI, or the name of an analysis of the catalogue: ``example`` comes
        with fitserve, the others once they are fetched. An existing path goes first. Or a
        workspace (``dict`` or `pyhf.Workspace`), or a tuple of it and its patchset (``dict`` or
        `pyhf.PatchSet`); a loaded pallet is taken as it is. A path that ends in ``.yaml`` is a
        combination of pallets.
    region
        Folder or prefix, where a pallet has several regions.
    masses
        Where the mass values are, if not in a patchset: a pattern of the hypotheses' names, such
        as ``"C1N2_{m1}_{m2}"``, or a CSV file with a column ``name`` and one for each mass.
    signals
        Signals of your own, in place of those of the pallet.
    force
        Go on if the digests or other checks that are safe to ignore fail; they are recorded
        in ``forced``.
    cache_dir
        Where downloads are; by default that of the platform, or ``$FITSERVE_CACHE``.
    **edits
        What to select, drop and rename, once the published pallet is verified: see
        `fitserve.pallet.edit.Edits`.

    Raises
    ------
    InputError
        The pallet is not usable.
    RequestError
        The region is not one of the pallet, or is not given and there are several. An edit
        does not fit the pallet.
    StoreError
        The cache cannot be used.

    Examples
    --------
    >>> from fitserve.pallet.load import load_pallet
    >>> pallet = load_pallet("example")
    >>> len(pallet.hypotheses), pallet.labels, pallet.digest_verified
    (60, ('mX', 'mchi'), True)
    """
    wanted, bare = convert_edits(edits), signals is not None
    if isinstance(source, Pallet):
        pallet = source
    elif isinstance(source, str | Path) and is_combination(source):
        if region is not None:
            raise RequestError(
                "a combination has no regions",
                evidence=f"--region {region}",
                hint="say in the file which region of each part is meant",
            )
        pallet = _combined(Path(source), masses, cache_dir, force=force)
    elif isinstance(source, str | Path):
        opened = open_source(source, cache=cache_dir or default_cache(), force=force)
        pallet = _loaded(opened, region, masses, force=force, bare=bare)
    else:
        pallet = _loaded(given_source(source), region, masses, force=force, bare=bare)
    if wanted:
        pallet = _edited(pallet, wanted, force=force)
    return _with_signals(pallet, signals, force=force) if signals is not None else pallet


def complete_workspace(
    pallet: Pallet, hypothesis: str | None = None, *, background_only: bool = False
) -> dict[str, Any]:
    """Return the workspace of one hypothesis, signal and background.

    Parameters
    ----------
    pallet
        As loaded.
    hypothesis
        Its name; may be left out where there is one.
    background_only
        Return the workspace without a signal.

    Raises
    ------
    RequestError
        There is no such hypothesis, or there are several.

    Examples
    --------
    >>> from fitserve.pallet.load import complete_workspace, load_pallet
    >>> pallet = load_pallet("example")
    >>> workspace = complete_workspace(pallet, pallet.hypotheses[0].name)
    >>> len(workspace["channels"][0]["samples"]) - len(pallet.workspace["channels"][0]["samples"])
    1
    """
    copied: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(pallet.workspace))
    names = [one.name for one in pallet.hypotheses]
    if background_only or not names:
        return copied
    if hypothesis is None and len(names) > 1:
        raise RequestError(
            "the pallet has several hypotheses",
            evidence=f"{len(names)}, among them {', '.join(names[:3])}",
            hint="choose one with --hypothesis NAME, or --background-only",
        )
    if hypothesis is not None and hypothesis not in names:
        raise RequestError(
            f"the pallet has no hypothesis {hypothesis!r}",
            evidence=f"it has {len(names)}, among them {', '.join(names[:3])}",
            hint="fitserve pallets check SOURCE --hypotheses",
        )
    chosen = pallet.hypotheses[names.index(hypothesis) if hypothesis else 0]
    patched: dict[str, Any] = apply_patch(copied, chosen.patch)
    return patched


def load_analysis(
    analysis: Analysis, *, cache_dir: Path | None = None, force: bool = False
) -> Pallet:
    """Load the pallet of an analysis of the catalogue from the cache.

    Parameters
    ----------
    analysis, cache_dir, force
        As for `load_pallet`.

    Raises
    ------
    InputError
        It is not in the cache, or not what the catalogue says.
    StoreError
        The cache cannot be used.
    """
    return _loaded(open_analysis(analysis, cache=cache_dir or default_cache()), force=force)


def _loaded(
    opened: Source,
    region: str | None = None,
    masses: str | Path | None = None,
    *,
    force: bool,
    bare: bool = False,
) -> Pallet:
    """Load a pallet; what Python's own numbers and stack do not hold is an error of the input."""
    try:
        return _load(opened, region, masses, force=force, bare=bare)
    except (OverflowError, RecursionError) as error:
        raise InputError(
            f"{opened.label} has a number too large, or values nested too deeply, for a pallet",
            evidence=str(error),
            hint="look for an integer of hundreds of digits, or hundreds of brackets in a row",
        ) from error


@no_collection()
def _load(
    opened: Source,
    region: str | None,
    masses: str | Path | None,
    *,
    force: bool,
    bare: bool,
) -> Pallet:
    """Load a pallet; a bare one is without its hypotheses, which are not checked then."""
    if region is None and opened.analysis is not None:
        region = opened.analysis.archive.region
    findings, models = Findings(), Findings()
    files = replace_hs3(opened.contents.files, findings)
    if not has_workspace(files):
        from fitserve.pallet.histfactory import read_histfactory

        files |= read_histfactory(opened.files, findings)
    regions, unreadable = find_regions(opened.contents._replace(files=files))
    for cause in unreadable:
        findings.note("files that are no part of the pallet cannot be read", cause)
    complete = None
    if region is None and len(regions) > 1 and not any(one.has_patches for one in regions):
        workspaces = {one.workspace: files[one.workspace] for one in regions}
        complete = from_workspaces(workspaces, findings)
    if complete is not None:
        workspace, hypotheses = complete
        base = check_workspace(workspace, models)
        hypotheses, labels = with_values(hypotheses, findings)
        metadata = _metadata(f"{len(regions)} workspaces of one analysis", labels)
    else:
        chosen = select_region(regions, region)
        region = chosen.name if region is not None or len(regions) > 1 else None
        workspace = decode_json(files[chosen.workspace], chosen.workspace)
        validate(workspace, "workspace", chosen.workspace)
        base = check_workspace(workspace, models)
        if chosen.has_patches:
            hypotheses, metadata = _hypotheses(chosen, files, findings)
        else:
            # Of a bare one nobody asks for the hypotheses.
            told = Findings() if bare else findings
            hypotheses, metadata = _alone(chosen.workspace, base, told)
    if masses is not None:
        hypotheses, labels = with_masses(hypotheses, masses)
        metadata |= {"labels": labels}
    outlines = {} if bare else check_hypotheses(hypotheses, workspace, base, models)
    findings.take(models)
    verified = _verify(workspace, metadata["digests"], findings)
    analysis = _identify(workspace, opened, len(hypotheses), findings)
    forced = findings.conclude(opened.name, force=force)

    axes = analysis.axes if analysis and len(analysis.axes) == len(metadata["labels"]) else []
    return Pallet(
        source=opened.label,
        name=analysis.name if analysis else opened.name,
        region=region,
        workspace=workspace,
        hypotheses=() if bare else hypotheses,
        workspace_digest=digest(workspace),
        patchset_digests=metadata["digests"],
        digest_verified=verified,
        labels=tuple(metadata["labels"]),
        description=metadata["description"],
        references=_references(metadata["references"], analysis),
        analysis=analysis.name if analysis else None,
        title=analysis.title if analysis else None,
        axes=tuple(axes),
        background=Outline(workspace["measurements"], base.parameters.by_name()),
        outlines=outlines,
        forced=(*opened.forced, *forced),
        notes=tuple(sentences(findings.notes)),
        remarks=tuple(sentences(models.notes)),
    )


def _combined(
    path: Path, masses: str | Path | None, cache_dir: Path | None, *, force: bool
) -> Pallet:
    """Load the parts of a combination and make one pallet of them."""
    combination = read_combination(path)
    parts = _load_pieces(combination, path, cache_dir, force=force)
    pieces = {name: _piece(pallet) for name, pallet in parts.items()}
    whole = combine(combination, pieces)
    hypotheses, labels = whole.hypotheses, whole.labels
    if masses is not None:
        hypotheses, labels = with_masses(hypotheses, masses)
    every = [*parts.items()]
    first = next((one for one in parts.values() if one.labels and one.axes), None)
    described = "; ".join(f"{name}: {one.title or one.description}" for name, one in every)
    plain = Pallet(
        source=str(path.resolve()),
        name=short_name(combination.name or path.stem),
        region=None,
        workspace=whole.workspace,
        hypotheses=hypotheses,
        workspace_digest="",
        patchset_digests={},
        digest_verified=all(one.digest_verified for one in parts.values()),
        labels=labels,
        description=combination.description or f"a combination of {described}",
        references=_all_references(parts),
        analysis=None,
        title=None,
        axes=first.axes if first and first.labels == labels else (),
        background=Outline([], {}),
        outlines={},
        forced=tuple(f"part {name}: {text}" for name, one in every for text in one.forced),
        notes=(
            *(f"part {name}: {note}" for name, one in every for note in one.notes),
            *whole.notes,
        ),
        remarks=(),
        parts=parts,
    )
    return _checked(plain, force=force)


def load_parts(
    sources: Sequence[str], *, force: bool = False, cache_dir: Path | None = None
) -> tuple[dict[str, dict[str, Any]], dict[str, Piece], dict[str, str | None]]:
    """Load the parts of a combination, or of one to be made of several pallets.

    Returns
    -------
    tuple
        By the name of the part: what the file of a combination says of it, its content, and the
        measurement that counts.

    Raises
    ------
    RequestError
        It is one pallet.
    InputError, StoreError
        A part cannot be loaded.
    """
    if len(sources) == 1 and is_combination(sources[0]):
        combination = read_combination(Path(sources[0]))
        parts = _load_pieces(combination, Path(sources[0]), cache_dir, force=force)
        said = {
            name: {
                key: value
                for key, value in msgspec.to_builtins(part).items()
                if value and key != "edits"
            }
            | {**part.edits}
            for name, part in combination.pieces.items()
        }
    elif len(sources) == 1:
        raise RequestError(
            "one pallet has nothing to be compared with",
            evidence=sources[0],
            hint="give several, or the YAML file of a combination",
        )
    else:
        parts, said = {}, {}
        for source in sources:
            pallet = load_pallet(source, force=force, cache_dir=cache_dir)
            bare = pallet.name.replace(".", "-")[:24].lstrip("_-") or "part"
            taken = sum(name == bare or name.startswith(f"{bare}-") for name in parts)
            name = f"{bare}-{taken + 1}" if taken else bare
            parts[name], said[name] = pallet, {"pallet": source}
    measurements = {name: each.get("measurement") for name, each in said.items()}
    return said, {name: _piece(pallet) for name, pallet in parts.items()}, measurements


def _load_pieces(
    combination: Combination, path: Path, cache_dir: Path | None, *, force: bool
) -> dict[str, Pallet]:
    parts: dict[str, Pallet] = {}
    for name, part in combination.pieces.items():
        try:
            parts[name] = load_pallet(
                part.pallet,
                region=part.region,
                masses=part.masses,
                force=force,
                cache_dir=cache_dir,
                **part.edits,
            )
        except (InputError, RequestError) as error:
            raise type(error)(
                f"part {name} of {path.name}: {error.cause}",
                evidence=error.evidence,
                hint=error.hint,
            ) from error
    return parts


def _piece(pallet: Pallet) -> Piece:
    """Return what a combination has to know of a part."""
    return Piece(
        workspace=pallet.workspace,
        hypotheses=pallet.hypotheses,
        labels=pallet.labels,
        parameters=pallet.parameters,
        outlines=pallet.outlines or {"": pallet.background},
    )


def _all_references(parts: Mapping[str, Pallet]) -> dict[str, str]:
    """Return the references of all parts, with the name of the part where they differ."""
    found: dict[str, dict[str, str]] = {}
    for name, pallet in parts.items():
        for kind, where in pallet.references.items():
            found.setdefault(kind, {})[name] = where
    return {
        f"{kind} ({name})" if len(set(each.values())) > 1 else kind: where
        for kind, each in found.items()
        for name, where in each.items()
    }


def _edited(pallet: Pallet, edits: Edits, *, force: bool) -> Pallet:
    """Return a verified pallet with things dropped or renamed; it is checked again."""
    names = names_of(pallet.workspace, pallet.hypotheses)
    change = Change.of(edits, names)
    rewriter = Rewriter(pallet.workspace, change)
    edited = replace(
        pallet,
        workspace=rewriter.after,
        hypotheses=tuple(rewriter.hypotheses(pallet.hypotheses)),
        notes=(*(one for one in pallet.notes if one not in pallet.remarks), *change.told),
    )
    return _checked(edited, force=force)


def _with_signals(pallet: Pallet, own: OwnSignals, *, force: bool) -> Pallet:
    """Return a pallet with other signals than its own."""
    from fitserve.pallet.signals import own_signals, without_signal

    findings = Findings()
    base = check_workspace(pallet.workspace, Findings())
    workspace, base = without_signal(pallet.workspace, base, findings)
    made = own_signals(own, workspace, base, findings)
    # They differ in numbers alone, which are checked where they are read.
    checked = check_hypotheses([made.largest], workspace, base, findings)
    forced = findings.conclude(pallet.name, force=force)
    return replace(
        pallet,
        workspace=workspace,
        workspace_digest=digest(workspace),
        hypotheses=made.hypotheses,
        labels=made.labels,
        # Coordinates of one's own may be anything.
        axes=pallet.axes if made.labels == pallet.labels else (),
        description=f"{len(made.hypotheses)} own signals; background: {pallet.description}",
        background=Outline(workspace["measurements"], base.parameters.by_name()),
        outlines={one.name: outline for outline in checked.values() for one in made.hypotheses},
        forced=tuple(dict.fromkeys((*pallet.forced, *forced))),
        notes=(*pallet.notes, *sentences(findings.notes)),
    )


def _checked(pallet: Pallet, *, force: bool) -> Pallet:
    """Return a pallet that was made here, with what the checks of its models found."""
    findings = Findings()
    for channel in pallet.workspace["channels"]:
        if not channel["samples"]:
            raise RequestError(
                f"channel '{channel['name']}' has no sample left",
                evidence="pyhf has no channel without one",
                hint=f"drop the channel too: --drop-channel '{channel['name']}'",
            )
    validate(pallet.workspace, "workspace", pallet.name)
    base = check_workspace(pallet.workspace, findings)
    outlines = check_hypotheses(pallet.hypotheses, pallet.workspace, base, findings)
    forced = findings.conclude(pallet.name, force=force)
    remarks = tuple(sentences(findings.notes))
    return replace(
        pallet,
        workspace_digest=digest(pallet.workspace),
        background=Outline(pallet.workspace["measurements"], base.parameters.by_name()),
        outlines=outlines,
        forced=tuple(dict.fromkeys((*pallet.forced, *forced))),
        notes=(*pallet.notes, *remarks),
        remarks=remarks,
    )


def _references(stated: dict[str, str], analysis: Analysis | None) -> dict[str, str]:
    """Return where the analysis is published, according to the patchset and the catalogue."""
    published = {kind: where for kind, where in stated.items() if where != _NO_RECORD}
    if analysis is not None and analysis.arxiv:
        published.setdefault("arXiv", analysis.arxiv)
    return published


def _hypotheses(
    region: Region, files: dict[str, bytes], findings: Findings
) -> tuple[tuple[Hypothesis, ...], dict[str, Any]]:
    """Return the hypotheses and the metadata of the patchset, or what stands in for them."""
    if region.patchset is not None:
        content = decode_json(files[region.patchset], region.patchset)
        return from_patchset(content, region.patchset, findings), content["metadata"]
    contents: dict[str, Any] = {}
    taken = 0
    for path in region.patches:
        contents[path] = decode_json(files[path], path, besides=taken)
        taken += decoded_bytes(files[path])
    hypotheses, labels = from_loose_patches(contents, findings)
    findings.note("single patches have no digest to verify", f"{len(contents)} files")
    return hypotheses, _metadata(f"{len(contents)} patches, each in a file of its own", labels)


def _metadata(description: str, labels: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return what a patchset would state of itself."""
    return {"labels": labels, "digests": {}, "references": {}, "description": description}


def _alone(
    path: str, base: Base, findings: Findings
) -> tuple[tuple[Hypothesis, ...], dict[str, Any]]:
    """Return a workspace without patches as the one hypothesis that it is, signal and all."""
    pois = {measurement["config"]["poi"] for measurement in base.measurements}
    if pois.isdisjoint(base.parameters.by_name()):
        findings.note(
            "the workspace has no signal, so no hypothesis to test",
            f"{path} has no parameter of interest: {', '.join(sorted(pois))}",
        )
        return (), _metadata(f"{path} as it is, background only")
    name = base.measurements[0]["name"] or PurePosixPath(path).stem
    description = f"{path} as it is, signal and background"
    return (Hypothesis(name=name, values=(), patch=[]),), _metadata(description)


def _verify(workspace: dict[str, Any], digests: dict[str, str], findings: Findings) -> bool:
    """Compare the digests in the patchset with those of the workspace."""
    verified = bool(digests)
    for algorithm, stated in digests.items():
        computed = pyhf_digest(workspace, algorithm=algorithm)
        if computed == stated.lower():
            continue
        others = () if findings.errors else respelled(workspace)
        if any(pyhf_digest(one, algorithm) == stated.lower() for one in others):
            findings.note(
                "the workspace was written anew after the patchset was made, and its content is "
                "the same: only 12.0 became 12, or 12 became 12.0",
                f"{algorithm} is now {computed}",
            )
        else:
            verified = False
            findings.doubt(
                "the patchset was made for another background-only workspace",
                f"{algorithm} of the workspace is {computed}, the patchset states {stated}",
            )
    return verified


def _identify(
    workspace: dict[str, Any], opened: Source, number: int, findings: Findings
) -> Analysis | None:
    """Return the analysis that the workspace belongs to, and compare it with the catalogue."""
    computed = pyhf_digest(workspace)
    named = opened.analysis
    if named is None:
        return analysis_of(computed)
    if named.archive.digest not in (None, computed):
        findings.doubt(
            f"this is not the workspace that the catalogue knows as {named.name}",
            f"SHA-256 is {computed}, the catalogue has {named.archive.digest}",
        )
    if named.archive.hypotheses not in (None, number):
        findings.doubt(
            f"this is not the patchset that the catalogue knows as {named.name}",
            f"{number} hypotheses, the catalogue has {named.archive.hypotheses}",
        )
    return named


def fetch(
    analysis: Analysis,
    *,
    cache_dir: Path | None = None,
    refresh: bool = False,
    force: bool = False,
) -> Pallet:
    """Download and verify the pallet of an analysis, unless the cache has it.

    Parameters
    ----------
    analysis
        Of the catalogue.
    cache_dir
        By default the platform's, or ``$FITSERVE_CACHE``.
    refresh
        Download again.
    force
        Keep the pallet even if checks that are safe to ignore fail; they are in ``forced``.

    Returns
    -------
    Pallet
        The region that the catalogue names, verified as by `fitserve.pallet.load.load_pallet`.

    Raises
    ------
    InputError
        It cannot be downloaded, or is not what the catalogue says. It is then not kept.
    StoreError
        The cache cannot be used.
    """
    cache = cache_dir or default_cache()
    address = analysis.archive.address
    if address is None or (not refresh and _sound(address, cache)):
        return load_analysis(analysis, cache_dir=cache, force=force)
    download(address, cache, force=force)
    try:
        return load_analysis(analysis, cache_dir=cache, force=force)
    except FitserveError:
        forget(address, cache)
        raise


def is_fetched(analysis: Analysis, cache_dir: Path | None = None) -> bool:
    """Return whether an analysis can be loaded without a network."""
    address = analysis.archive.address
    if address is None:
        return analysis.bundled
    return _sound(address, cache_dir or default_cache())


def _sound(address: str, cache: Path) -> bool:
    try:
        return cached_archive(address, cache) is not None
    except InputError:
        # Damaged: as good as absent here, and an error where a run asks for it.
        return False
