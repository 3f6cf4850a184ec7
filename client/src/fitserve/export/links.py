"""Where the references of a patchset lead."""

from __future__ import annotations

from urllib.parse import quote

__all__ = ["reference_url"]

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
    >>> from fitserve.export.links import reference_url
    >>> reference_url("hepdata", "ins1755298")
    'https://www.hepdata.net/record/ins1755298'
    """
    if value.startswith("https://"):
        return value
    start = _STARTS.get(key.lower())
    return None if start is None else start + quote(value.removeprefix("arXiv:"), safe="/:.")
