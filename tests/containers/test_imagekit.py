"""What keeps a machine from building or running an image is said, each with what to do."""

from __future__ import annotations

import json
import platform
import stat
from typing import TYPE_CHECKING

import pytest

from fitserve import __version__
from fitserve.errors import BackendError, RequestError
from imagekit import check
from imagekit.build import build, index_settings
from imagekit.cli import main
from imagekit.engine import Engine, find_engine
from imagekit.sif import find_apptainer, make_sif

if TYPE_CHECKING:
    from pathlib import Path

DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  {}  Tue Jan  7 20:47:44 UTC 2025\n"
HERE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


def _engine(directory: Path, script: str, name: str = "podman") -> Engine:
    """Return an engine that only does what a script says."""
    command = directory / name
    command.write_text(f"#!/bin/sh\n{script}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return Engine(name, str(command))


def _with_image(directory: Path, **changes: object) -> Engine:
    image = {
        "Architecture": HERE,
        "Size": 1,
        "Labels": {"org.opencontainers.image.version": __version__},
        **changes,
    }
    return _engine(directory, f"cat << 'E'\n{json.dumps([image])}\nE")


def test_no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BackendError, match="no container engine is installed") as raised:
        find_engine()
    assert "apt install podman" in raised.value.hint
    with pytest.raises(BackendError, match="docker is not installed"):
        find_engine("docker")
    with pytest.raises(BackendError, match="apptainer is not an engine"):
        find_engine("apptainer")
    with pytest.raises(BackendError, match="Apptainer is not installed"):
        find_apptainer()


def test_the_engine_that_is_there_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _engine(tmp_path, "exit 0", "docker")
    assert find_engine().name == "docker"
    _engine(tmp_path, "exit 0", "podman")
    assert find_engine().name == "podman"
    assert find_engine("docker").name == "docker"


@pytest.mark.parametrize(
    ("line", "good"),
    [
        ("ada:100000:65536", True),
        ("1000:100000:65536", True),
        ("ada:100000:32768\nada:200000:32768", True),
        ("ada:100000:1000", False),
        ("bob:100000:65536", False),
        ("", False),
    ],
)
def test_subordinate_ids(tmp_path: Path, line: str, *, good: bool) -> None:
    file = tmp_path / "subuid"
    file.write_text(f"{line}\n")
    if good:
        check.check_subuid("ada", 1000, file)
        return
    with pytest.raises(BackendError, match="too few subordinate ids") as raised:
        check.check_subuid("ada", 1000, file)
    assert "usermod --add-subuids" in raised.value.hint


def test_no_file_of_subordinate_ids(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="too few"):
        check.check_subuid("ada", 1000, tmp_path / "subgid")


def test_too_little_room(tmp_path: Path) -> None:
    check.check_space(tmp_path / "not" / "there" / "yet", 0.001)
    with pytest.raises(BackendError, match="too little room") as raised:
        check.check_space(tmp_path, 1e9)
    assert "a build needs" in raised.value.evidence


@pytest.mark.parametrize(
    ("target", "driver", "good"),
    [
        ("worker", "390.157", True),
        ("worker-cuda12", "525.60.13", True),
        ("worker-cuda12", "470.256.02", False),
        ("worker-cuda13", "575.57.08", False),
        ("worker-cuda13", "580.65.06", True),
    ],
)
def test_the_driver(tmp_path: Path, target: str, driver: str, *, good: bool) -> None:
    file = tmp_path / "version"
    file.write_text(DRIVER.format(driver))
    check.check_driver(target, tmp_path / "none")
    if good:
        check.check_driver(target, file)
        return
    with pytest.raises(BackendError, match="too old") as raised:
        check.check_driver(target, file)
    assert driver in raised.value.evidence


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"Architecture": "riscv64"}, "another processor"),
        ({"Labels": {"org.opencontainers.image.version": "0.0.1"}}, "another version"),
        ({"Labels": None}, "another version"),
    ],
)
def test_an_image_that_is_not_for_here(tmp_path: Path, changes: dict, match: str) -> None:
    assert check.check_image(_with_image(tmp_path), "worker")["Size"] == 1
    with pytest.raises(BackendError, match=match):
        check.check_image(_with_image(tmp_path, **changes), "worker")


def test_an_image_that_is_not_there(tmp_path: Path) -> None:
    engine = _engine(tmp_path, "exit 125")
    with pytest.raises(BackendError, match="has no image fitserve/worker:"):
        check.check_image(engine, "worker")
    with pytest.raises(RequestError, match="there is no image jupyter"):
        list(check.check_machine(engine, "jupyter"))


def test_a_processor_without_wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.platform, "machine", lambda: "ppc64le")
    engine = _engine(tmp_path, f"echo {tmp_path}")
    causes = [problem.cause for problem in check.check_machine(engine, "worker")]
    assert "there is no image for this processor" in causes


def test_an_engine_that_does_not_work_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _engine(tmp_path, "echo 'cannot set up namespace' >&2; exit 125")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(SystemExit) as stopped:
        main(["check", "worker", "--engine", "podman"])
    assert stopped.value.code == 5
    assert "cannot set up namespace" in capsys.readouterr().err


def test_a_selftest_that_fails_in_the_image_is_the_error(tmp_path: Path) -> None:
    found = {"passed": False, "problem": "JAX finds no device", "evidence": "x", "hint": "y"}
    engine = _engine(tmp_path, f"cat << 'E'\n{json.dumps(found)}\nE\nexit 5")
    with pytest.raises(BackendError, match="JAX finds no device"):
        check.run_selftest(engine, "worker")
    broken = _engine(tmp_path, "echo 'exec format error' >&2; exit 126")
    with pytest.raises(BackendError, match="does not start") as raised:
        check.run_selftest(broken, "worker")
    assert "exec format error" in raised.value.evidence


def test_a_build_is_given_what_makes_it_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = _engine(tmp_path, f'printf "%s\\n" "$@" > {tmp_path}/words')
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    monkeypatch.setenv("BASE_IMAGE", "localhost/base:1")
    monkeypatch.delenv("BUILD_IMAGE", raising=False)
    assert build(engine, "worker", ["--no-cache"]) == f"fitserve/worker:{__version__}"
    words = (tmp_path / "words").read_text().splitlines()
    assert {"SOURCE_DATE_EPOCH=1700000000", "BASE_IMAGE=localhost/base:1"} <= set(words)
    assert "BUILD_IMAGE=localhost/base:1" in words
    assert words[words.index("--timestamp") + 1] == "1700000000"
    assert {f"VERSION={__version__}", "LOCK=worker"} <= set(words)
    assert "--no-cache" in words
    build(engine, "endpoint")
    assert "LOCK=worker-endpoint" in (tmp_path / "words").read_text().splitlines()
    failing = _engine(tmp_path, "exit 1")
    with pytest.raises(BackendError, match="was not built"):
        build(failing, "worker")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(RequestError, match="SOURCE_DATE_EPOCH is not a time"):
        build(failing, "worker")
    with pytest.raises(RequestError, match="there is no image"):
        build(failing, "jupyter")


def test_only_the_index_of_pips_settings_reaches_a_build() -> None:
    listed = (
        "global.cert='/etc/ca.pem'\nglobal.index-url='https://mirror.invalid/simple'\n"
        "global.find-links='/opt/wheels'\n:env:.timeout='60'\n"
    )
    assert index_settings(listed) == (
        "[global]\nindex-url = https://mirror.invalid/simple\ntimeout = 60\n"
    )
    assert index_settings("global.cert='/etc/ca.pem'\n") == ""


def test_no_image_no_image_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = _engine(tmp_path, "exit 125")
    _engine(tmp_path, "exit 1", "apptainer")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(BackendError, match="has no image") as raised:
        make_sif(engine, "worker", tmp_path)
    assert raised.value.hint.startswith("make images TARGET=worker")
