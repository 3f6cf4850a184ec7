"""The worker's test of itself: it passes where fits work, and says what is wrong elsewhere."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import msgspec
import pyhf
import pytest

from fitserve.errors import BackendError
from fitserve_worker import selftest
from fitserve_worker.kernel import runtime

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Jan  7 20:47:44 UTC 2025\n"
OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  {}  Release Build\n"
VERSIONS = {"fitserve-contract": "1.2.0", "fitserve-worker": "1.2.0"}


def _command(*options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fitserve_worker", "selftest", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.parametrize("optimizer", ["scipy", "minuit"])
def test_the_known_values_are_those_of_a_converged_fit_by_pyhf(optimizer: str) -> None:
    pyhf.set_backend("numpy", getattr(pyhf.optimize, f"{optimizer}_optimizer")(tolerance=1e-12))
    whole = pyhf.Workspace(selftest._WORKSPACE)
    model = whole.model(patches=[[selftest._SIGNAL]])
    observed, expected = pyhf.infer.hypotest(
        1.0, whole.data(model), model, test_stat="qtilde", return_expected_set=True
    )
    assert [float(observed), *map(float, expected)] == pytest.approx(selftest.KNOWN, abs=3e-8)


def test_it_passes_here_and_prints_what_decides_the_numbers() -> None:
    done = _command("--json", JAX_PLATFORMS="cpu")
    assert done.returncode == 0, done.stderr
    found = msgspec.json.decode(done.stdout, type=selftest.Selftest)
    assert found.passed
    assert found.float64
    assert found.device == "cpu: cpu"
    assert found.difference < selftest.TOLERANCE
    assert found.CLs_obs == pytest.approx(selftest.KNOWN[0], abs=selftest.TOLERANCE)
    assert found.CLs_exp == pytest.approx(selftest.KNOWN[1:], abs=selftest.TOLERANCE)
    assert set(found.versions) >= {"fitserve-contract", "fitserve-worker", "pyhf", "jax", "numpy"}
    assert 0 < found.device_seconds < found.seconds


@pytest.mark.parametrize(
    ("options", "environment", "seen"),
    [
        ([], {"JAX_PLATFORMS": "cuda"}, "JAX finds no device to fit on"),
        (["--device", "gpu"], {"JAX_PLATFORMS": "cpu"}, "would not fit on a gpu"),
        ([], {"FITSERVE_IMAGE_VERSION": "0.0.1"}, "another version of the worker"),
    ],
)
def test_what_is_wrong_is_said_with_its_own_status(
    options: list[str], environment: dict[str, str], seen: str
) -> None:
    done = _command(*options, **environment)
    assert done.returncode == 5
    assert seen in done.stderr
    assert "next:" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_failure_is_in_the_json_too() -> None:
    done = _command("--json", FITSERVE_IMAGE_VERSION="0.0.1")
    found = msgspec.json.decode(done.stdout, type=selftest.Selftest)
    assert (done.returncode, found.passed, found.image) == (5, False, "0.0.1")
    assert found.problem
    assert found.hint


def test_another_value_than_the_known_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "KNOWN", (*selftest.KNOWN[:-1], selftest.KNOWN[-1] + 2e-6))
    found, problem = selftest.selftest()
    assert not found.passed
    assert found.problem == "the worker does not reproduce the known CLs"
    assert problem.exit_code == 5


def test_a_fit_in_doubt_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = selftest._answer()
    doubted = msgspec.structs.replace(answer, status="suspect", reason="no minimum")
    monkeypatch.setattr(selftest, "_answer", lambda: doubted)
    found, _ = selftest.selftest()
    assert "in doubt" in found.problem
    assert "no minimum" in found.evidence


def test_why_jax_finds_no_device_is_said_without_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_device() -> None:
        failure = RuntimeError("operation cuInit(0) failed")
        logging.getLogger("jax._src.xla_bridge").error("no plugin", exc_info=failure)
        raise BackendError("JAX finds no device to fit on", evidence="JAX_PLATFORMS=cuda")

    monkeypatch.setattr(runtime, "runtime", no_device)
    found, problem = selftest.selftest()
    assert problem.cause == "JAX finds no device to fit on"
    assert "JAX_PLATFORMS=cuda" in found.evidence
    assert "cuInit(0) failed" in found.evidence
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("versions", "image", "match"),
    [
        ({"fitserve-contract": "1.2.0", "fitserve-worker": "1.3.0"}, None, "not of one release"),
        ({"fitserve-contract": "1.2.0"}, None, "not of one release"),
        (VERSIONS, "1.1.0", "another version of the worker"),
    ],
)
def test_versions_that_do_not_fit_together(versions: dict, image: str | None, match: str) -> None:
    selftest.check_versions(VERSIONS, "1.2.0")
    selftest.check_versions(VERSIONS, None)
    with pytest.raises(BackendError, match=match):
        selftest.check_versions(versions, image)


@pytest.mark.parametrize("text", [DRIVER, OPEN_DRIVER])
@pytest.mark.parametrize(
    ("plugin", "driver", "good"),
    [
        ("jax-cuda12-plugin", "525.60.13", True),
        ("jax-cuda12-plugin", "470.256.02", False),
        ("jax-cuda13-plugin", "580.65.06", True),
        ("jax-cuda13-plugin", "575.57.08", False),
        ("jaxlib", "390.157", True),
    ],
)
def test_a_driver_too_old_is_named(
    tmp_path: Path, text: str, plugin: str, driver: str, *, good: bool
) -> None:
    file = tmp_path / "version"
    file.write_text(text.format(driver))
    if good:
        selftest.check_driver({plugin: "0.10.2"}, file)
        return
    with pytest.raises(BackendError, match="too old") as raised:
        selftest.check_driver({plugin: "0.10.2"}, file)
    assert driver in raised.value.evidence
    assert raised.value.hint.startswith("use the image for CUDA 12" if "13" in plugin else "update")


def test_no_driver_is_left_to_whoever_asks_for_a_gpu(tmp_path: Path) -> None:
    selftest.check_driver({"jax-cuda12-plugin": "0.10.2"}, tmp_path / "missing")


def test_what_it_compiled_is_kept_for_the_next_fit(tmp_path: Path) -> None:
    for _ in range(2):
        done = _command("--json", JAX_PLATFORMS="cpu", FITSERVE_JIT_CACHE=str(tmp_path))
        assert done.returncode == 0, done.stderr
        kept = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert kept
