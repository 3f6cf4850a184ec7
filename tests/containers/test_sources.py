"""What images are built from is checked: Dockerfile, scripts, workflows, and locked versions."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("worker", "worker-endpoint", "worker-cuda12", "worker-cuda13")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.*?))? \\$")


def _pins(name: str) -> dict[tuple[str, str | None], str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return {(found[1], found[3]): found[2] for found in PINNED.finditer(text)}


@pytest.mark.parametrize("name", LOCKS)
def test_images_have_the_versions_of_a_site(name: str) -> None:
    """What runs in an image and what runs beside it on a site must speak the same protocols."""
    site, pins = _pins("site"), _pins(name)
    assert {"jax", "jaxlib", "numpy", "pyhf", "parsl"} <= {package for package, _ in pins}
    different = {
        key: (site[key], pins[key]) for key in pins if site.get(key, pins[key]) != pins[key]
    }
    assert different == {}


@pytest.mark.parametrize("name", [*LOCKS, "image-tools", "image-lint"])
def test_everything_is_pinned_with_hashes(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    entries = re.split(r"(?m)^(?=[A-Za-z0-9])", text)
    without = [
        one.splitlines()[0] for one in entries if one.strip() and "--hash=sha256:" not in one
    ]
    assert without == []


@pytest.mark.parametrize(("name", "cuda"), [("worker-cuda12", 12), ("worker-cuda13", 13)])
def test_images_for_gpus_have_one_cuda(name: str, cuda: int) -> None:
    packages = {package for package, _ in _pins(name)}
    assert f"jax-cuda{cuda}-plugin" in packages
    assert f"jax-cuda{25 - cuda}-plugin" not in packages
    assert any(package.startswith("nvidia-cublas") for package in packages)
    assert not any("nvidia" in package for package, _ in _pins("worker"))


def test_scripts_are_without_fault() -> None:
    scripts = [*ROOT.glob("containers/*/*.sh")]
    assert len(scripts) >= 6
    command = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    done = subprocess.run([command, *scripts], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_base_is_pinned_by_digest() -> None:
    text = (ROOT / "containers/Dockerfile").read_text()
    assert re.search(r"(?m)^ARG BASE_IMAGE=\S+@sha256:[0-9a-f]{64}$", text)
    bases = set(re.findall(r"(?m)^FROM (\S+)", text))
    stages = set(re.findall(r"(?m)^FROM \S+ AS (\S+)$", text))
    assert bases - stages == {"${BASE_IMAGE}", "${BUILD_IMAGE}", "scratch"}


def _lint(*words: object) -> None:
    place = ROOT / ".cache/image-lint-venv/bin"
    command = [str(place / str(words[0])), *map(str, words[1:])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.containers
def test_the_dockerfile_is_without_fault() -> None:
    _lint("hadolint", ROOT / "containers/Dockerfile")


@pytest.mark.containers
def test_workflows_are_what_github_reads() -> None:
    assert {path.stem for path in WORKFLOWS} >= {"ci", "images"}
    _lint("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *WORKFLOWS)


@pytest.mark.containers
@pytest.mark.parametrize("python", ["3.11", "3.12"])
@pytest.mark.parametrize("name", LOCKS)
def test_an_index_has_what_is_locked(name: str, python: str, tmp_path: Path) -> None:
    """Every file that would be installed is there, as a wheel, with a hash that is locked."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--python-version", python]
    command += ["--python-platform", "x86_64-manylinux_2_31", "--target", str(tmp_path)]
    command += ["-r", str(ROOT / "requirements" / f"{name}.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr
