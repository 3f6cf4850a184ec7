"""What a run begins with: the hypotheses and the request, checked, and the manifest.

For a run that is resumed: the endpoint to go on with, where somebody else may have written the run
directory.
"""

from __future__ import annotations

import difflib
import math
import os
import platform
import pwd
import re
import shlex
import socket
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fitserve.errors import BackendError, FitserveError, RequestError
from fitserve.pallet.parameters import Problem
from fitserve.runs.records import Inputs, Manifest, PalletRecord
from fitserve.runs.store import known_runs
from fitserve.runs.verification import affordable_sample, chosen_to_verify
from fitserve_contract import (
    FitRequest,
    HypotestRequest,
    Hypothesis,
    ScanRequest,
    cls_strengths,
    digest,
    poi_bounds,
    refusal,
    request_digest,
    widened,
)
from fitserve_contract.codec import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from fitserve.endpoints.base import Limits
    from fitserve.pallet.load import Pallet
    from fitserve.pallet.parameters import Outline
    from fitserve_contract import Request

__all__ = [
    "BACKGROUND_ONLY",
    "check_request",
    "chosen_hypotheses",
    "default_directory",
    "other_owner",
    "pallet_record",
    "prepare",
    "recorded_endpoint",
    "select_hypotheses",
]

BACKGROUND_ONLY = Hypothesis(name="background-only", values=(), patch=[])
"""What a fit of the workspace without a signal has in place of hypotheses."""

_LISTED = 5

_RECORDED = ("fitserve", "fitserve-worker", "pyhf", "numpy", "scipy", "parsl", "globus-compute-sdk")
_NAME = re.compile(r"(?:parsl:)?(?!.*\.json$)[A-Za-z0-9][A-Za-z0-9_.-]*")


def chosen_hypotheses(
    hypotheses: Sequence[Hypothesis], patterns: Iterable[str], request: Request
) -> list[Hypothesis]:
    """Return the hypotheses of a request.

    Raises
    ------
    RequestError
        A pattern matches nothing, there are patterns for a fit without a signal, or there is no
        hypothesis for another question.
    """
    wanted = list(patterns)
    if not (isinstance(request, FitRequest) and request.background_only):
        if not hypotheses:
            raise RequestError(
                "there is no patchset and no patch in the pallet, so no hypothesis to test",
                evidence="its workspace has no signal",
                hint="put the patchset beside the workspace and give their directory, or fit the "
                "background alone: --fit --background-only",
            )
        return select_hypotheses(hypotheses, wanted)
    if wanted:
        raise RequestError(
            "a background-only fit has no signal hypotheses",
            evidence=f"--patch {wanted[0]}",
            hint="leave --patch out, or --background-only",
        )
    return [BACKGROUND_ONLY]


def select_hypotheses(
    hypotheses: Sequence[Hypothesis], patterns: Iterable[str]
) -> list[Hypothesis]:
    """Return the hypotheses whose names match any of the patterns, in their own order.

    Patterns are shell-style (``*``, ``?``, ``[...]``) and tell upper from lower case;
    without patterns all hypotheses are returned.

    Raises
    ------
    RequestError
        A pattern matches nothing.
    """
    wanted = list(patterns)
    if not wanted:
        return list(hypotheses)
    names = [hypothesis.name for hypothesis in hypotheses]
    for pattern in wanted:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise RequestError(
                f"no hypothesis of the pallet matches '{pattern}'",
                evidence=f"there are {len(names)}, among them {', '.join(close)}",
                hint="fitserve pallets check PALLET --hypotheses lists them",
            )
    return [
        hypothesis
        for hypothesis in hypotheses
        if any(fnmatchcase(hypothesis.name, pattern) for pattern in wanted)
    ]


def check_request(pallet: Pallet, hypotheses: Sequence[Hypothesis], request: Request) -> None:
    """Check that a request can be answered for hypotheses, before anything is sent.

    Raises
    ------
    RequestError
        The measurement or the parameter of interest (POI) is not in a hypothesis, or the POI
        cannot be what is asked for.
    """
    if isinstance(request, HypotestRequest | ScanRequest) and not request.mu:
        option = "--scan" if isinstance(request, ScanRequest) else "--mu"
        raise RequestError("no signal strength is asked for", hint=f"{option} 1.0")
    alone = isinstance(request, FitRequest) and request.background_only
    problems: dict[Problem, list[str]] = {}
    # Own signals have one outline together.
    found: dict[tuple[int, bool], Problem | None] = {}
    for one in hypotheses:
        like = id(pallet.outlines.get(one.name)), bool(one.patch)
        if like not in found:
            found[like] = _problem(pallet, one, request, alone=alone)
        if (problem := found[like]) is not None:
            problems.setdefault(problem, []).append(one.name)
    for (cause, evidence, hint), names in problems.items():
        seen = [evidence] if evidence else []
        if only_some := len(names) < len(hypotheses):
            more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            seen.insert(0, f"in {', '.join(names[:_LISTED])}{more}")
        others = ", or choose the other hypotheses with --patch" if only_some else ""
        raise RequestError(cause, evidence="; ".join(seen), hint=f"{hint}{others}")


def _problem(
    pallet: Pallet, hypothesis: Hypothesis, request: Request, *, alone: bool
) -> Problem | None:
    """Return why a request cannot be answered for a hypothesis."""
    outline = pallet.background if alone else pallet.outlines[hypothesis.name]
    wanted = request.model.measurement
    measurement = outline.measurement(wanted)
    if measurement is None:
        return Problem(
            f"the workspace has no measurement '{wanted}'",
            f"it has {', '.join(each['name'] for each in outline.measurements)}",
            "fitserve run PALLET --measurement NAME",
        )
    if alone and (broken := outline.broken(measurement)):
        return broken
    poi = request.model.poi or measurement["config"]["poi"]
    parameter = outline.parameters.get(poi)
    if parameter is None:
        return None if alone else _missing(pallet, hypothesis, request, poi)
    if parameter.size > 1:
        seen = f"it is a {parameter.type} with {parameter.size}, one for each bin"
        cause = f"the parameter of interest '{poi}' has several components"
        return Problem(cause, seen, _another(pallet, outline, poi)[1])
    settings = outline.settings(widened(measurement, request.model), poi)
    low, high = settings.bounds[0]
    refused = refusal(request, poi, low, high, fixed=settings.fixed)
    if refused is None:
        return _not_raised(measurement, request, poi)
    hint = f"change them in the measurement's parameter '{poi}'"
    if settings.fixed:
        hint = f"let '{poi}' vary in the measurement '{measurement['name']}'"
    elif low <= 0 < high:
        above = [mu for mu in cls_strengths(request) if high < mu < math.inf]
        raised = f"raise the upper one with --mu-max {max(above):g}" if above else hint
        hint = f"choose one within them, or {raised}"
    elif parameter.type != "normfactor":
        hint = _another(pallet, outline, poi)[1]
    return Problem(*refused, hint)


def _not_raised(measurement: dict[str, Any], request: Request, poi: str) -> Problem | None:
    """Return the problem of an upper bound that ``--mu-max`` does not raise."""
    model = request.model
    _, own = poi_bounds(measurement, msgspec.structs.replace(model, mu_max=msgspec.UNSET))
    if model.mu_max is msgspec.UNSET or model.mu_max >= own:
        return None
    cause = f"{poi} may go beyond --mu-max {model.mu_max:g} already"
    seen = f"its upper bound is {own:g}, and --mu-max only raises it"
    return Problem(cause, seen, "leave --mu-max out")


def _missing(pallet: Pallet, hypothesis: Hypothesis, request: Request, poi: str) -> Problem | None:
    """Return the problem of a hypothesis without the parameter of interest."""
    cause = f"the model has no parameter of interest '{poi}'"
    outline = pallet.outlines[hypothesis.name]
    if poi not in pallet.parameter_names:
        return Problem(cause, *_another(pallet, outline, poi))
    if hypothesis.patch:
        return Problem(cause, "", f"give the signal samples a normfactor '{poi}'")
    if isinstance(request, HypotestRequest):
        # The background alone: its CLs is one, without a fit.
        return None
    return Problem(cause, "the patch is empty, so there is no signal", "add a signal sample to it")


def _another(pallet: Pallet, outline: Outline, poi: str) -> tuple[str, str]:
    """Return, as evidence and hint, the possible parameters of interest, closest first."""
    factors = (name for name, one in outline.parameters.items() if one.type == "normfactor")
    names = frozenset(name for name in factors if name != poi)
    near = _nearest(poi, names, names.difference(pallet.background.parameters))
    if not near:
        return "it has no normalisation factor", f"give the signal samples a normfactor '{poi}'"
    more = ", ..." if len(near) > _LISTED else ""
    seen = f"its normalisation factors are {', '.join(near[:_LISTED])}{more}"
    return seen, f"fitserve run PALLET --poi {shlex.quote(near[0])}"


@cache
def _nearest(poi: str, names: frozenset[str], signal: frozenset[str]) -> list[str]:
    """Return names by their nearness; what only a ``signal`` has is more likely to be meant."""

    def nearness(name: str) -> tuple[float, str]:
        alike = difflib.SequenceMatcher(None, poi.lower(), name.lower()).ratio()
        return alike + 0.2 * (name in signal), name

    return sorted(names, key=nearness, reverse=True)


def pallet_record(pallet: Pallet) -> PalletRecord:
    """Return what a run records of its pallet."""
    return PalletRecord(
        source=pallet.source,
        name=pallet.name,
        region=pallet.region,
        workspace_digest=pallet.workspace_digest,
        patchset_digests=pallet.patchset_digests,
        digest_verified=pallet.digest_verified,
        labels=list(pallet.labels),
        description=pallet.description,
        references=pallet.references,
        analysis=pallet.analysis,
        title=pallet.title,
        axes=list(pallet.axes),
        forced=list(pallet.forced),
        notes=list(pallet.notes),
        parts={name: pallet_record(part) for name, part in pallet.parts.items()},
    )


def prepare(
    pallet: Pallet,
    request: Request,
    patterns: Iterable[str],
    endpoint: str,
    options: Mapping[str, str] | None = None,
    *,
    limits: Limits,
    verify: float | None = None,
) -> tuple[Manifest, Inputs]:
    """Choose the hypotheses, check the request, and say what the run is.

    ``verify`` is the fraction of hypotheses that pyhf verifies; None is a small sample, where pyhf
    needs no more time for it than the run itself on a backend with these ``limits``.

    Raises
    ------
    RequestError
        The request does not fit the pallet.
    """
    hypotheses = chosen_hypotheses(pallet.hypotheses, patterns, request)
    check_request(pallet, hypotheses, request)
    manifest = Manifest(
        pallet=pallet_record(pallet),
        request=request,
        request_digest=request_digest(request),
        endpoint=endpoint,
        hypotheses=[one.name for one in hypotheses],
        values={one.name: one.values for one in hypotheses},
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        host=socket.gethostname(),
        python=platform.python_version(),
        versions=_versions(),
        options=dict(options or {}),
        verify=chosen_to_verify(pallet.workspace_digest, hypotheses, verify or 0.0, request),
        sample=affordable_sample(
            pallet.workspace, pallet.workspace_digest, hypotheses, request, limits
        )
        if verify is None
        else [],
    )
    inputs = Inputs(workspace=pallet.workspace, hypotheses=hypotheses)
    # As a resumed run reads them: the same tasks then have the same digests.
    with no_collection():
        return manifest, Inputs.decoded(inputs.encoded())


def default_directory(manifest: Manifest) -> Path:
    """Return the default directory of a run: the same question has the same place."""
    question = digest(
        [manifest.pallet.workspace_digest, manifest.request_digest, manifest.hypotheses]
    )
    return Path("fitserve-runs") / f"{manifest.pallet.name}-{question[:8]}"


def _versions() -> dict[str, str]:
    versions = {}
    for name in _RECORDED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def other_owner(path: Path) -> str | None:
    """Return the name of the user that a directory belongs to, None for this one.

    Raises
    ------
    OSError
        There is no such directory.
    """
    owner = path.stat().st_uid
    if owner == os.getuid():
        return None
    try:
        return pwd.getpwuid(owner).pw_name
    except KeyError:
        return f"user {owner}"


def recorded_endpoint(path: Path, endpoint: str, options: Mapping[str, str]) -> str:
    """Return the endpoint that a run directory names, if it and its options may be used.

    Their names are looked up in this user's own configuration. A path would lead to a file that
    says what to execute, and a run directory may contain such a file. Options that no site card
    checks may be code as well: they are taken from this user's own runs only.

    Raises
    ------
    BackendError
        The endpoint is named by its path.
    RequestError
        The run was not started by this user, and its options cannot be checked.
    """
    again = f"fitserve resume {path} --endpoint ENDPOINT"
    for name in endpoint.split(","):
        if not _NAME.fullmatch(name.strip()):
            raise BackendError(
                "the run directory names its endpoint by a path, from which code would be run",
                evidence=f"endpoint '{endpoint}'",
                hint=f"{again}; repeat the path there if you trust what it leads to",
            )
    if options and path.resolve() not in known_runs() and not _are_checked(endpoint):
        settings = " ".join(f"{name}={value}" for name, value in options.items())
        raise RequestError(
            "the run directory sets options of the endpoint that no site card checks, and it is "
            "none of the runs that were started here",
            evidence=settings,
            hint=f"{again} --set NAME=VALUE, with the options that you trust",
        )
    return endpoint


def _are_checked(endpoint: str) -> bool:
    """Return whether a card says which values each of the endpoint's options may have."""
    from fitserve.endpoints.cards import find_profile

    try:
        profiles = [find_profile(name.strip()) for name in endpoint.split(",")]
    except FitserveError:
        return True  # it takes no options, or does not exist: opening it says so
    return all(profile.card.options is not None for profile in profiles)
