"""A real fit on a site in its cluster, stage by stage: through its endpoint, or by a Job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from fitserve.errors import BackendError
from sitekit.cluster.job import smoke as by_a_job
from sitekit.cluster.release import CREDENTIALS
from sitekit.documents import text
from sitekit.render import write_files

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sitekit.cluster.release import Release
    from sitekit.context import Rendering
    from sitekit.site import Site
    from sitekit.target.smoke import Stage

__all__ = ["CARD", "have_a_fit"]

CARD = "site-card.json"
_REFUSED = "refused-function"


class _Served(NamedTuple):
    """What `sitekit.target.smoke` must know of an endpoint."""

    site: Site
    endpoint_id: str | None
    serving: str | None
    multi_user: bool = False


def have_a_fit(
    release: Release, rendering: Rendering, directory: Path, seconds: float
) -> list[dict[str, Any]]:
    """Have a fit done by a worker pod; returns the stages, as `stages_words` shows them.

    Through the endpoint, if there is one; a function that is not fitserve's must be refused then.

    Parameters
    ----------
    directory
        Of what this machine keeps of the site.
    seconds
        How long the fit may take.

    Raises
    ------
    BackendError
        There are no credentials, or kubectl or helm fails; a stage that is not in order says so.
    """
    card = release.card()
    if card is None:
        return [_by_a_job(release, rendering, seconds)]
    write_files({CARD: text(card)}, directory)
    if not release.log_in():
        raise BackendError(
            f"the smoke test of {release.site.name} needs the endpoint's credentials",
            evidence=f"they are in no secret that can be read in namespace {release.namespace}",
            hint=f"set {' and '.join(CREDENTIALS)}",
        )
    # A child of the revision before would be asked otherwise, while there is one.
    serving = f"{rendering.version}-{release.revisions()[-1]['revision']}"
    served = _Served(release.site, card["endpoint_id"], serving)
    return [one.as_data() for one in _through_the_service(served, directory, seconds)]


def _by_a_job(release: Release, rendering: Rendering, seconds: float) -> dict[str, Any]:
    found = by_a_job(release, rendering, seconds)
    told = "the example was fitted by a worker pod"
    if not found["ok"]:
        told = f"the example was not fitted: {found['ended']}; {found['said'][-2000:]}"
    return {
        "what": "fit",
        "told": told,
        "seconds": found["seconds"],
        "ok": found["ok"],
        "next": "",
    }


def _through_the_service(served: _Served, directory: Path, seconds: float) -> Iterator[Stage]:
    from sitekit.target.smoke import refusal, through_the_service

    good = True
    for stage in through_the_service(served, directory / CARD, seconds):
        good = good and stage.ok
        yield stage
    if good:
        kept = directory / _REFUSED
        known = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        stage, function = refusal(served, known)
        if function:
            write_files({_REFUSED: f"{function}\n"}, directory)
        yield stage
