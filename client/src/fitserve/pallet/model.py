"""A pallet: everything that a physicist hands over to be fitted."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from fitserve.pallet.parameters import Outline
    from fitserve_contract import Hypothesis

__all__ = ["Pallet", "PalletRecord"]


class PalletRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The pallet of a run: where it came from, what it is, how to label it.

    ``labels`` are the patchset's names of the mass values, ``axes`` their titles in LaTeX
    where the catalogue knows the analysis (else empty). ``forced`` lists the checks that
    failed and that the user chose to ignore, ``notes`` what else was noticed.
    """

    source: str
    name: str
    region: str | None
    workspace_digest: str
    patchset_digests: dict[str, str]
    digest_verified: bool
    labels: list[str]
    description: str
    references: dict[str, str]
    analysis: str | None = None
    title: str | None = None
    axes: list[str] = []
    forced: list[str] = []
    notes: list[str] = []


@dataclass(frozen=True, kw_only=True)
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
        every = [outline.parameters for outline in self.outlines.values()]
        return frozenset(
            name
            for name, parameter in (every[0].items() if every else ())
            if parameter.type == "normfactor"
            and all(parameters.get(name) == parameter for parameters in every)
        )

    @cached_property
    def known_parameters(self) -> frozenset[str]:
        """The parameters that any of the hypotheses has."""
        return frozenset().union(*(outline.parameters for outline in self.outlines.values()))

    def record(self) -> PalletRecord:
        """Return what a run records of the pallet."""
        return PalletRecord(
            source=self.source,
            name=self.name,
            region=self.region,
            workspace_digest=self.workspace_digest,
            patchset_digests=self.patchset_digests,
            digest_verified=self.digest_verified,
            labels=list(self.labels),
            description=self.description,
            references=self.references,
            analysis=self.analysis,
            title=self.title,
            axes=list(self.axes),
            forced=list(self.forced),
            notes=list(self.notes),
        )
