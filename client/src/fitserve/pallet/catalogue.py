"""Read the catalogue and look analyses up in it."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import msgspec

from fitserve.errors import RequestError

__all__ = ["Analysis", "Archive", "catalogue", "find", "recognise"]


class Archive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the pallet is published and what is in it.

    ``region`` is the folder or prefix of the region that the original study fitted;
    ``digest`` pyhf's SHA-256 of its background-only workspace, None where only the digest
    inside the patchset is known; ``hypotheses`` the number of patches.
    """

    doi: str | None = None
    url: str | None = None
    region: str | None = None
    digest: str | None
    hypotheses: int

    @property
    def address(self) -> str | None:
        """The address to download from; None for what comes with fitserve."""
        return self.url or (f"https://doi.org/{self.doi}" if self.doi else None)


class Analysis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published search; ``process``, ``labels`` and ``axes`` are for tables and plots.

    ``luminosity`` is in 1/fb, ``energy``, of the colliding protons together, in TeV.
    ``labels`` are the patchset's names of the mass values (empty where they are not known
    before the archive is fetched), ``axes`` their titles in LaTeX in the same order.
    """

    name: str
    title: str
    process: str
    axes: list[str]
    archive: Archive
    labels: list[str] = []
    inspire: str | None = None
    arxiv: str | None = None
    journal: str | None = None
    luminosity: float
    energy: float
    note: str | None = None


@cache
def catalogue() -> tuple[Analysis, ...]:
    """Return all analyses, in the order of the file.

    Examples
    --------
    >>> from fitserve.pallet.catalogue import catalogue
    >>> [analysis.name for analysis in catalogue()]
    ['example', '1Lbb', '3L-RJ', 'staus', 'SS3L']
    """
    text = files("fitserve.pallet").joinpath("catalogue.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=tuple[Analysis, ...])


def find(name: str) -> Analysis:
    """Return the analysis with this name or INSPIRE identifier, in any case.

    Raises
    ------
    RequestError
        The catalogue has no such analysis.

    Examples
    --------
    >>> from fitserve.pallet.catalogue import find
    >>> find("ins1755298").name
    '1Lbb'
    """
    for analysis in catalogue():
        names = (analysis.name, analysis.inspire or analysis.name)
        if name.casefold() in map(str.casefold, names):
            return analysis
    raise RequestError(
        f"the catalogue has no analysis {name!r}",
        evidence=f"it has: {', '.join(analysis.name for analysis in catalogue())}",
        hint="fitserve analyses list",
    )


def recognise(digest: str) -> Analysis | None:
    """Return the analysis whose background-only workspace has this digest.

    Parameters
    ----------
    digest
        `pyhf.utils.digest` of a workspace, with SHA-256.
    """
    analyses = {each.archive.digest: each for each in catalogue() if each.archive.digest}
    return analyses.get(digest)
