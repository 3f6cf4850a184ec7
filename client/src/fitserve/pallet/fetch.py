"""Fetch the pallet of an analysis of the catalogue into the cache."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.errors import FitserveError, InputError
from fitserve.pallet.download import cached_archive, default_cache, download, forget
from fitserve.pallet.load import load_analysis

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.pallet.catalogue import Analysis
    from fitserve.pallet.model import Pallet

__all__ = ["fetch", "is_fetched"]


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
    return address is None or _sound(address, cache_dir or default_cache())


def _sound(address: str, cache: Path) -> bool:
    try:
        return cached_archive(address, cache) is not None
    except InputError:
        # Damaged: as good as absent here, and an error where a run asks for it.
        return False
