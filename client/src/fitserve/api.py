"""The Python interface: run a pallet, resume a run, open one, look at it."""

from __future__ import annotations

import contextlib
import html
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import msgspec

from fitserve.endpoints import open_backend
from fitserve.errors import ModelWarning, RequestError
from fitserve.kinds import KINDS
from fitserve.runs.complete import complete, open_store
from fitserve.runs.drive import interrupts_wait
from fitserve.runs.plan import Bounds
from fitserve.runs.prepare import default_directory, prepare, recorded_endpoint
from fitserve.runs.progress import LiveProgress, Silent
from fitserve.runs.store import RunStore, read_run
from fitserve.runs.summary import cautions, columns, counts, table_rows
from fitserve_contract import HypotestRequest, Request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd

    from fitserve.endpoints.base import Backend
    from fitserve.pallet.edit import Edits
    from fitserve.pallet.load import Pallet
    from fitserve.pallet.signals import OwnSignals
    from fitserve.runs.drive import Observer
    from fitserve.runs.records import Inputs, Manifest
    from fitserve.runs.store import SavedRun
    from fitserve_contract import HypothesisResult, ModelOptions

__all__ = ["Run", "asked_signals", "make_request", "open_run", "resume", "run"]


class Run:
    """A run and its results, as they are on disk at this moment.

    Attributes
    ----------
    saved
        The content of the run directory.
    """

    def __init__(self, saved: SavedRun) -> None:
        self.saved = saved

    @property
    def path(self) -> Path:
        """The run directory."""
        return self.saved.path

    @property
    def manifest(self) -> Manifest:
        """The request, with digests and versions."""
        return self.saved.manifest

    @property
    def results(self) -> dict[str, HypothesisResult]:
        """Finished hypotheses by name, in the patchset's order."""
        return self.saved.results

    @property
    def unfinished(self) -> list[str]:
        """Names of the hypotheses without a result."""
        return self.saved.unfinished

    def to_dataframe(self) -> pd.DataFrame:
        """Return a table, indexed by the names of the hypotheses.

        Each has one row for each signal strength that was asked for: of a scan or of several
        ``mu`` the names repeat, and ``frame.pivot(columns="mu", values="CLs_obs")`` has a column
        for each. Columns have the names that they have in CSV and Parquet (see "Export" on the
        page "Results"): ``mass_`` and the patchset's label for each mass value, ``mu``,
        ``status``, ``reason``, ``CLs_obs``, ``CLs_exp_m2``, ``CLs_exp_m1``, ``CLs_exp_0``,
        ``CLs_exp_p1``, ``CLs_exp_p2`` and so on, and those of limits and toys. Fits and rankings
        have no CLs and no ``mu``, and one row for each hypothesis. A missing value is NaN.

        Until version 1.0 the last columns repeat some under their old names: the mass values
        under the patchset's labels alone, ``CLs_exp_0`` as ``CLs_exp``, and ``limit_exp_0`` as
        ``limit_exp``.

        Raises
        ------
        MissingExtraError
            pandas is not installed.
        """
        from fitserve.export import to_frame

        return to_frame(self.manifest, self.results)

    def contour(self, output: str | Path | None = None) -> Any:
        """Return the exclusion contour as a `matplotlib.figure.Figure`, and save it if asked to.

        Parameters
        ----------
        output
            A file to write: ``.png``, ``.pdf`` or ``.svg``.
        """
        from fitserve.draw.contour import draw_contour
        from fitserve.draw.style import save_figure

        figure = draw_contour(self.manifest, self.results)
        if output is not None:
            save_figure(figure, Path(output))
        return figure

    def __repr__(self) -> str:
        numbers = ", ".join(
            f"{count} {word}" for word, count in counts(self.saved).items() if count
        )
        return f"<Run {self.path}: {numbers}>"

    def _repr_html_(self) -> str:
        head = [*self.manifest.pallet.labels, *columns(self.manifest.request)]
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th>"
            + "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
            + "</tr>"
            for name, row in table_rows(self.saved)
        )
        titles = "".join(f"<th>{html.escape(title)}</th>" for title in ["", *head])
        return (
            f"<p><b>{html.escape(self.manifest.pallet.name)}</b> {html.escape(repr(self))}</p>"
            f"<table><thead><tr>{titles}</tr></thead><tbody>{cells}</tbody></table>"
        )


def make_request(
    *,
    kind: str = "hypotest",
    mu: float | Sequence[float] = 1.0,
    level: float = 0.95,
    intervals: bool = False,
    background_only: bool = False,
    toys: int = 1000,
    seed: int = 0,
    test_stat: str = "qtilde",
    measurement: str | None = None,
    poi: str | None = None,
    mu_max: float | None = None,
    normsys: str = "code4",
    histosys: str = "code4p",
    engine: str = "auto",
    backend: str = "numpy",
    optimizer: str = "scipy",
) -> Request:
    """Return a request: what to compute of every hypothesis.

    Parameters
    ----------
    kind
        ``"hypotest"`` (CLs), ``"limit"`` (upper limits on the signal strength), ``"scan"``
        (profile likelihood and CLs), ``"fit"`` (best fit, pulls, yields), ``"ranking"``
        (impacts of the nuisance parameters) or ``"toys"`` (CLs by pseudo-experiments).
    mu
        Signal strengths of a hypotest or scan, or the one of toys.
    level
        Confidence level of limits.
    intervals, background_only
        Of a fit: profile-likelihood intervals too; the workspace without a signal.
    toys, seed
        How many pseudo-experiments with signal, and as many without; and which.
    test_stat
        ``"qtilde"`` or ``"q"``, where there is CLs.
    measurement, poi
        Of the workspace; by default its first measurement and that one's parameter.
    mu_max
        Upper bound of the parameter of interest, where the workspace's own (10 by default, as
        in pyhf) is lower: limits are looked for up to there, and no further.
    normsys, histosys
        Interpolation codes; `run` warns of histosys ``"code2"``, which jumps.
    engine, backend, optimizer
        What fits.

    Raises
    ------
    RequestError
        A value is not known.

    Examples
    --------
    >>> from fitserve.api import make_request
    >>> make_request(mu=2).mu
    (2.0,)
    >>> make_request(kind="limit", level=0.9).level
    0.9
    """
    content: dict[str, Any] = {
        "type": kind,
        "model": {
            "measurement": measurement,
            "poi": poi,
            "normsys": normsys,
            "histosys": histosys,
        },
        "engine": {"engine": engine, "backend": backend, "optimizer": optimizer},
    }
    if mu_max is not None:
        content["model"]["mu_max"] = mu_max
    strengths = [mu] if isinstance(mu, int | float) else list(mu)
    given = {
        "mu": mu if kind == "toys" else strengths,
        "test_stat": test_stat,
        "level": level,
        "intervals": intervals,
        "background_only": background_only,
        "toys": toys,
        "seed": seed,
    }
    fields = KINDS[kind].request.__struct_fields__ if kind in KINDS else ()
    content |= {name: value for name, value in given.items() if name in fields}
    try:
        # By the contract's own types, which alone decide what is allowed.
        request: Request = msgspec.convert(content, type=Request)
    except msgspec.ValidationError as error:
        raise RequestError("the request is not understood", evidence=str(error)) from error
    return request


def run(
    pallet: str | Path | Mapping[str, Any] | tuple[Any, Any] | Pallet,
    *,
    endpoint: str | Sequence[str] = "local",
    options: Mapping[str, str] | None = None,
    region: str | None = None,
    masses: str | Path | None = None,
    signals: Any = None,
    patches: Iterable[str] = (),
    request: Request | None = None,
    output: str | Path | None = None,
    refit: bool = False,
    force: bool = False,
    verify: float | None = None,
    workers: int | None = None,
    bounds: Bounds | None = None,
    progress: bool = True,
    **edits: Unpack[Edits],
) -> Run:
    """Fit the hypotheses of a pallet and return the finished run.

    The same question again is answered from the results of earlier runs.

    Parameters
    ----------
    pallet
        A directory, archive, URL, DOI or name of a known analysis; a workspace (``dict`` or
        `pyhf.Workspace`), or a tuple of it and its patchset; the YAML file of a combination; or a
        loaded pallet.
    endpoint
        ``"local"`` (every core of this machine), ``"inline"`` (this process), or the name of
        an endpoint that was added (``fitserve endpoints add``); several share the run.
    options
        What you set of the site, by name; ``fitserve endpoints list`` shows what may be set.
    region
        Which of several analysis regions in the pallet.
    masses
        The mass values of hypotheses: a pattern of their names, such as ``"C1N2_{m1}_{m2}"``, or a
        CSV file with a column ``name`` and one for each mass; by default those of the patchset.
    signals
        Signals of your own in place of the pallet's: the path of a table, a ``dict``, a data frame,
        an array of shape (signals, bins), or `fitserve.OwnSignals` of one of these, with options;
        see the page "Own signals".
    patches
        Shell-style patterns of hypothesis names; all hypotheses by default.
    request
        What to compute, from `make_request`; CLs at a signal strength of 1 by default.
    output
        The run directory; by default one below ``fitserve-runs`` named after the question.
    refit
        Also fit hypotheses that already have results.
    force
        Go on although the patchset's digest is not the workspace's.
    verify
        Fraction of the hypotheses that pyhf is asked about too, when all have a result; each of
        them has the comparison in its result, and is suspect where a CLs is wrong by more than
        1e-4. Of two minima of -2 log L the lower one is right: one of pyhf's that is higher says
        nothing against a result. By default 2 %, at least one, where pyhf needs less time than
        the run itself; 0 is none.
    workers
        Number of local workers.
    bounds
        Limits of one task.
    progress
        Whether to show a progress bar.
    **edits
        What to select, drop and rename in the pallet, by patterns of names: ``channels``,
        ``drop_channels``, ``drop_samples``, ``drop_modifiers``, ``drop_modifier_types``,
        ``drop_measurements`` are lists, and ``rename`` has new names by the old ones, of each
        kind: ``{"modifiers": {"alpha_JES": "JES"}}``.

    Raises
    ------
    InputError, RequestError, BackendError, StoreError
        See `fitserve.errors`; results that had arrived are kept in the run directory.

    Warns
    -----
    ModelWarning
        An interpolation code is not what it seems.

    Examples
    --------
    >>> import fitserve
    >>> run = fitserve.run("example", patches=["*_600_100"], endpoint="inline",
    ...                    output=tmp_path / "run", progress=False)
    >>> [result.status for result in run.results.values()]
    ['ok']
    """
    from fitserve.pallet.load import load_pallet

    request = request or HypotestRequest()
    for caution in cautions(request):
        warnings.warn(caution, ModelWarning, stacklevel=2)
    name = endpoint if isinstance(endpoint, str) else ",".join(endpoint)
    settings = dict(options or {})
    backend = open_backend(name, workers, settings)
    with _running(backend):
        manifest, inputs = prepare(
            load_pallet(
                pallet,
                region=region,
                masses=masses,
                signals=asked_signals(signals, request.model),
                force=force,
                **edits,
            ),
            request,
            patches,
            name,
            settings,
            limits=backend.limits,
            verify=verify,
        )
        path = Path(output) if output is not None else default_directory(manifest)
        with open_store(path, manifest, inputs, refit=refit) as store:
            return _completed(store, inputs, backend, bounds, progress=progress)


def asked_signals(signals: Any, model: ModelOptions) -> OwnSignals | None:
    """Return own signals as `run` takes them, for what a request asks of the model.

    Raises
    ------
    RequestError
        An option of them is not known.
    """
    if signals is None:
        return None
    from fitserve.pallet.signals import OwnSignals

    own = signals if isinstance(signals, OwnSignals) else OwnSignals(table=signals)
    return own.asked(model)


def resume(
    path: str | Path,
    *,
    endpoint: str | Sequence[str] | None = None,
    options: Mapping[str, str] | None = None,
    retry_failed: bool = False,
    workers: int | None = None,
    bounds: Bounds | None = None,
    progress: bool = True,
) -> Run:
    """Finish an interrupted run; what has a result is not fitted again.

    Parameters
    ----------
    path
        The run directory; the pallet is not needed any more.
    endpoint
        Another endpoint than the run was begun on, or several.
    options
        What you set of the site, if not the same as before.
    retry_failed
        Also fit hypotheses anew whose fits failed.
    workers, bounds, progress
        As in `run`.

    Raises
    ------
    BackendError, StoreError
        See `fitserve.errors`.
    """
    with RunStore.open(Path(path)) as store:
        saved = store.saved
        failed = {name for name, result in saved.results.items() if result.status == "failed"}
        if retry_failed and failed:
            store.set_aside(failed)
        backend = _backend_of(saved, endpoint, options, workers)
        with _running(backend):
            inputs = saved.inputs()
            return _completed(store, inputs, backend, bounds, progress=progress, patient=True)


def _backend_of(
    saved: SavedRun,
    endpoint: str | Sequence[str] | None,
    options: Mapping[str, str] | None,
    workers: int | None,
) -> Backend:
    """Return the backend to go on with: what is not given is as the run was begun."""
    if not endpoint:
        given = saved.manifest.options if options is None else {}
        name = recorded_endpoint(saved.path, saved.manifest.endpoint, given)
        return open_backend(name, workers, given if options is None else options)
    name = endpoint if isinstance(endpoint, str) else ",".join(endpoint)
    return open_backend(name, workers, options or {})


def open_run(path: str | Path) -> Run:
    """Open a run directory to look at it, also while it is being worked on.

    Raises
    ------
    StoreError
        It is not a run directory, or is damaged.
    """
    return Run(read_run(path))


@contextlib.contextmanager
def _running(backend: Backend) -> Iterator[None]:
    try:
        # Started first: workers get ready while the pallet is read and checked.
        backend.start()
        yield
    finally:
        # It takes seconds at most; what it would leave in the middle, nobody ends.
        with contextlib.suppress(KeyboardInterrupt), interrupts_wait():
            backend.stop()


def _completed(
    store: RunStore,
    inputs: Inputs,
    backend: Backend,
    bounds: Bounds | None,
    *,
    progress: bool,
    patient: bool = False,
) -> Run:
    saved = store.saved
    with contextlib.ExitStack() as stack:
        observer: Observer = Silent()
        if progress:
            total = len(saved.manifest.hypotheses)
            observer = stack.enter_context(LiveProgress(total, len(saved.records)))
        bounds = bounds or Bounds()
        return Run(complete(store, inputs, backend, observer, bounds, patient=patient))
