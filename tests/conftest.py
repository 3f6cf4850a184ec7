"""Fixtures of all areas: small workspaces with known answers, and the published data."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from signal import SIG_IGN, SIGINT, default_int_handler, getsignal
from signal import signal as set_signal
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import HealthCheck, settings

# Other processes of tests have the other cores. NumPy reads it when it is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from fitserve.runs.records import Inputs, Manifest, PalletRecord, StoredResult
from fitserve.runs.store import RunStore, SavedRun, read_run
from fitserve_contract import (
    HypotestRequest,
    Hypothesis,
    HypothesisResult,
    MuPoint,
    Task,
    WorkerInfo,
    digest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parent.parent


# How long an example takes says nothing where other tests run beside it.
settings.register_profile(
    "tests", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_configure() -> None:
    """Have Ctrl-C reach what tests start: a shell has that ignored in the background."""
    if getsignal(SIGINT) is SIG_IGN:
        set_signal(SIGINT, default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, so that no process has it to do when others are done."""
    long = ("kernel", "requests", "backends", "worker", "generated", "pallet")
    places = {ROOT / "tests" / area: rank for rank, area in enumerate(long)}
    items.sort(key=lambda item: places.get(item.path.parent, len(long)))


@pytest.fixture(scope="session", autouse=True)
def _programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Have each program compiled once: by one process of all that tests start or are run by."""
    base = tmp_path_factory.getbasetemp()
    # The directory of a process of pytest-xdist is within that of the whole session.
    session = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("FITSERVE_JIT_CACHE", str(session / "programs"))
        yield


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests out of the user's caches and list of runs."""
    home = tmp_path_factory.mktemp("home")
    for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))


@pytest.fixture(autouse=True)
def _sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have nothing verified that is not asked for; tests/verification has the sample."""
    monkeypatch.setattr("fitserve.runs.verification._SAMPLE", 0.0)


@pytest.fixture(autouse=True)
def _doctest_directory(doctest_namespace: dict[str, object], tmp_path: Path) -> None:
    doctest_namespace["tmp_path"] = tmp_path


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the directory of published pallets and reference results."""
    directory = Path(os.environ.get("FITSERVE_SHARED", ROOT.parent / "shared"))
    if not (directory / "pallets").is_dir():
        message = f"the published pallets are not in {directory}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return directory


@pytest.fixture(scope="session")
def references(shared: Path) -> dict[str, dict]:
    """Return the reference results of the published analyses, by analysis and hypothesis."""
    return {
        path.stem: json.loads(path.read_text())["hypotheses"]
        for path in sorted((shared / "references").glob("*.json"))
    }


@pytest.fixture
def workspace() -> dict:
    """Return a counting experiment in two bins with a background uncertainty."""
    return {
        "channels": [
            {
                "name": "SR",
                "samples": [
                    {
                        "name": "background",
                        "data": [50.0, 52.0],
                        "modifiers": [
                            {"name": "uncorr_bkg", "type": "shapesys", "data": [3.0, 7.0]},
                            {
                                "name": "norm",
                                "type": "normsys",
                                "data": {"hi": 1.05, "lo": 0.95},
                            },
                        ],
                    }
                ],
            }
        ],
        "observations": [{"name": "SR", "data": [51.0, 48.0]}],
        "measurements": [{"name": "main", "config": {"poi": "mu", "parameters": []}}],
        "version": "1.0.0",
    }


def signal(name: str, values: tuple[float, ...], data: list[float]) -> Hypothesis:
    """Return a hypothesis that adds a signal sample to the channel of `workspace`."""
    return Hypothesis(
        name=name,
        values=values,
        patch=[
            {
                "op": "add",
                "path": "/channels/0/samples/1",
                "value": {
                    "name": "signal",
                    "data": data,
                    "modifiers": [{"name": "mu", "type": "normfactor", "data": None}],
                },
            }
        ],
    )


@pytest.fixture
def hypotheses() -> list[Hypothesis]:
    """Return signals from far too weak to far too strong to be seen."""
    return [
        signal(f"S_{mass}", (float(mass), 1.0), [12.0 * scale, 11.0 * scale])
        for mass, scale in ((100, 3.0), (200, 1.5), (300, 1.0), (400, 0.3), (500, 0.01))
    ]


@pytest.fixture
def task(workspace: dict, hypotheses: list[Hypothesis]) -> Task:
    """Return a task with all hypotheses on the workspace."""
    return Task(
        workspace_digest=digest(workspace),
        workspace=workspace,
        hypotheses=hypotheses,
        request=HypotestRequest(),
    )


@pytest.fixture
def pallet_directory(tmp_path: Path, workspace: dict, hypotheses: list[Hypothesis]) -> Path:
    """Return a pallet on disk: the workspace and a patchset with its digest."""
    import pyhf

    directory = tmp_path / "toy"
    directory.mkdir()
    patchset = {
        "metadata": {
            "references": {"hepdata": "ins1234567"},
            "description": "toy signals",
            "digests": {"sha256": pyhf.utils.digest(workspace, algorithm="sha256")},
            "labels": ["m1", "m2"],
        },
        "patches": [
            {"metadata": {"name": one.name, "values": list(one.values)}, "patch": one.patch}
            for one in hypotheses
        ],
        "version": "1.0.0",
    }
    (directory / "BkgOnly.json").write_text(json.dumps(workspace))
    (directory / "patchset.json").write_text(json.dumps(patchset))
    return directory


PICTURED = {
    "1Lbb": (
        ["m1", "m2"],
        [
            r"$m(\tilde{\chi}_1^{\pm}/\tilde{\chi}_2^0)$ [GeV]",
            r"$m(\tilde{\chi}_1^0)$ [GeV]",
        ],
    ),
    "staus": (["mst", "mn2"], [r"$m(\tilde{\tau})$ [GeV]", r"$m(\tilde{\chi}_1^0)$ [GeV]"]),
}


def build_run(
    points: dict[str, tuple[tuple, float | None, list | None]],
    unfinished: dict[str, tuple] | None = None,
    mu: tuple[float, ...] = (1.0,),
    **pallet: object,
) -> tuple[Manifest, dict[str, HypothesisResult]]:
    """Return a manifest and results from mass values and CLs, by name.

    A point without observed CLs has failed; every signal strength has the same CLs.
    """
    values = {name: values for name, (values, _, _) in points.items()} | (unfinished or {})
    width = len(next(iter(values.values())))
    described = {
        "source": "toy.tar.xz",
        "name": "toy",
        "region": None,
        "workspace_digest": "a" * 64,
        "patchset_digests": {"sha256": "b" * 64},
        "digest_verified": True,
        "labels": [f"m{i + 1}" for i in range(width)],
        "description": "toy signals",
        "references": {"hepdata": "ins1234567"},
    } | pallet
    manifest = Manifest(
        pallet=msgspec.convert(described, PalletRecord),
        request=HypotestRequest(mu=mu),
        request_digest="c" * 64,
        endpoint="local",
        hypotheses=list(values),
        created="2026-01-02T03:04:05+00:00",
        host="client",
        python="3.11",
        versions={"fitserve": "1", "pyhf": "0.7.6"},
        values=values,
    )
    results = {}
    for number, (name, (place, obs, given)) in enumerate(points.items()):
        status, reason = ("ok", None) if obs is not None else ("failed", "no fit converged")
        exp = given if given is not None else [obs] * 5
        results[name] = HypothesisResult(
            name=name,
            key="d" * 64,
            mass_hypotheses=place,
            status=status,
            reason=reason,
            CLs_obs=obs,
            CLs_exp=exp,
            fit_time=0.5 + 0.01 * number,
            setup_time=0.1,
            engine="pyhf",
            points=[
                MuPoint(mu=at, CLs_obs=obs, CLs_exp=exp, status=status, reason=reason) for at in mu
            ],
            muhat=0.1,
            twice_nll=200.0,
        )
    return manifest, results


@pytest.fixture(scope="session", name="build_run")
def _build_run() -> Callable[..., tuple[Manifest, dict[str, HypothesisResult]]]:
    """Return `build_run`."""
    return build_run


@pytest.fixture(scope="session")
def published_runs(references: dict[str, dict]) -> dict[str, tuple[Manifest, dict]]:
    """Return the reference results as runs; the masses are the first two numbers of a name."""
    runs = {}
    for analysis, (labels, axes) in PICTURED.items():
        points = {
            name: (
                tuple(float(mass) for mass in re.findall(r"_(\d+)", name)[:2]),
                found["CLs_obs"],
                found["CLs_exp"],
            )
            for name, found in references[analysis].items()
        }
        runs[analysis] = build_run(points, name=analysis, labels=labels, axes=axes)
    return runs


@pytest.fixture(scope="session")
def save_run() -> Callable[[Path, Manifest, dict[str, HypothesisResult]], SavedRun]:
    """Return a function that writes results as a run directory and reads it again."""

    def save(path: Path, manifest: Manifest, results: dict[str, HypothesisResult]) -> SavedRun:
        worker = WorkerInfo(
            host="node", pid=1, python="3.11", device="cpu", versions={"pyhf": "0.7.6"}
        )
        with RunStore.create(path, manifest, Inputs(workspace={}, hypotheses=[])) as store:
            store.append(
                StoredResult(
                    result=result,
                    worker=worker,
                    task=f"t{number}",
                    submitted=1000.0,
                    started=1000.0 + number,
                    arrived=1001.0 + number,
                    task_seconds=1.0,
                    task_size=1,
                )
                for number, result in enumerate(results.values())
            )
            store.write_results()
        return read_run(path)

    return save
