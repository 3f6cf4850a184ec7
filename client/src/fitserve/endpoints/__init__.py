"""Endpoints: where tasks are done, how a user names them, and whether they work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fitserve.errors import RequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve.endpoints.base import Backend

__all__ = ["open_backend", "parse_options"]

_BUILT_IN = ("inline", "local")
_DIRECT = "parsl:"


def open_backend(
    endpoint: str, workers: int | None = None, options: Mapping[str, str] | None = None
) -> Backend:
    """Return the backend of an endpoint; nothing is started yet.

    Parameters
    ----------
    endpoint
        ``local``, ``inline``, ``parsl:SITE`` (a rendered site, on its login node), or an
        endpoint that was added; several with commas between them share the work.
    workers
        Number of local workers.
    options
        What the user sets of the site.

    Raises
    ------
    BackendError
        No endpoint has this name.
    RequestError
        The endpoint takes no such option.
    """
    names = list(dict.fromkeys(name.strip() for name in endpoint.split(",") if name.strip()))
    if len(names) > 1:
        from fitserve.endpoints.shared import SharedBackend

        return SharedBackend([_open(name, workers, options or {}) for name in names])
    return _open(names[0] if names else endpoint, workers, options or {})


def _open(name: str, workers: int | None, options: Mapping[str, str]) -> Backend:
    if name.startswith(_DIRECT):
        from fitserve.endpoints.parsl.backend import SiteBackend

        return SiteBackend(name, workers, options)
    if name not in _BUILT_IN:
        from fitserve.endpoints.cards import find_profile
        from fitserve.endpoints.globus.backend import GlobusBackend

        return GlobusBackend(find_profile(name), dict(options), workers)
    if options:
        raise RequestError(
            f"the endpoint '{name}' has no options to set",
            evidence=f"--set {' '.join(options)}",
            hint="leave --set out, or choose the endpoint of a site",
        )
    if name == "local":
        from fitserve.endpoints.parsl.local import LocalBackend

        return LocalBackend(workers)
    from fitserve.endpoints.inline import InlineBackend

    return InlineBackend()


def parse_options(settings: Iterable[str]) -> dict[str, str]:
    """Return the names and values of ``NAME=VALUE`` texts.

    Raises
    ------
    RequestError
        A text has no name or no ``=``.

    Examples
    --------
    >>> parse_options(["account=atlas", "walltime_minutes=30"])
    {'account': 'atlas', 'walltime_minutes': '30'}
    """
    options = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise RequestError(f"'{setting}' is not NAME=VALUE", hint="--set NAME=VALUE")
        options[name.strip()] = value
    return options
