"""What images are built from is checked: Dockerfile, scripts, workflows, and locked versions."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from imagekit.names import TARGETS, lock_name, required_driver

ROOT = Path(__file__).parents[2]
LOCKS = ("worker", "worker-endpoint", "worker-cuda12", "worker-cuda13")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
# The oldest glibc that an image may have, by what the workflow calls a processor.
PLATFORMS = {
    "linux/amd64": "x86_64-manylinux_2_31",
    "linux/arm64": "aarch64-manylinux_2_31",
}
PINNED = re.compile(r"(?m)^([A-Za-z0-9._-]+)==(\S+?)(?: ; (.*?))? \\$")


def _pins(name: str) -> dict[tuple[str, str | None], str]:
    text = (ROOT / "requirements" / f"{name}.lock").read_text()
    return {(found[1], found[3]): found[2] for found in PINNED.finditer(text)}


def _published() -> list[dict[str, str]]:
    """Return what the workflow that publishes images makes: target, lock file and platforms."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())
    return workflow["jobs"]["image"]["strategy"]["matrix"]["include"]


def _locked() -> list[tuple[str, str]]:
    """Return each lock file with each platform that an image is published for."""
    return [
        (one["lock"], platform) for one in _published() for platform in one["platforms"].split(",")
    ]


def _stages() -> dict[str, tuple[dict[str, str], dict[str, str]]]:
    """Return the variables and the labels of each stage of the Dockerfile, inherited ones too."""
    text = re.sub(r"\\\n", " ", (ROOT / "containers/Dockerfile").read_text())
    stages: dict[str, tuple[dict[str, str], dict[str, str]]] = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            parent, _, name = rest.partition(" AS ")
            inherited = stages.get(parent, ({}, {}))
            stages[name] = (dict(inherited[0]), dict(inherited[1]))
        elif word in {"ENV", "LABEL"}:
            pairs = dict(one.split("=", 1) for one in shlex.split(rest))
            stages[name][word == "LABEL"].update(pairs)
    return stages


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


@pytest.mark.parametrize("target", TARGETS)
def test_an_image_says_what_it_fits_on(target: str) -> None:
    variables, labels = _stages()[target]
    driver = required_driver(target)
    # What the host brings of CUDA must not go before the image's own.
    assert "LD_LIBRARY_PATH" not in variables
    nvidia = {name: value for name, value in variables.items() if name.startswith("NVIDIA_")}
    if driver is None:
        assert (variables["JAX_PLATFORMS"], labels["org.fitserve.device"]) == ("cpu", "cpu")
        assert nvidia == {}
        return
    # Without "cpu" behind it: no GPU is an error.
    assert variables["JAX_PLATFORMS"] == "cuda"
    assert nvidia["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert set(nvidia["NVIDIA_DRIVER_CAPABILITIES"].split(",")) == {"compute", "utility"}
    assert labels["org.fitserve.device"] == target.removeprefix("worker-")
    assert labels["org.fitserve.driver"] == str(driver)


def test_nothing_sets_where_libraries_are_found() -> None:
    sources = [ROOT / "containers/Dockerfile", ROOT / "containers/worker.def"]
    sources += ROOT.glob("containers/image/*")
    assert [path.name for path in sources if "LD_LIBRARY_PATH" in path.read_text()] == []


def test_every_image_is_published() -> None:
    published = {one["target"]: one["lock"] for one in _published()}
    assert published == {target: lock_name(target) for target in TARGETS}
    assert {platform for _, platform in _locked()} == set(PLATFORMS)


def _shellcheck(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    command = shutil.which("shellcheck", path=str(Path(sys.executable).parent))
    return subprocess.run([command, *words], capture_output=True, text=True, check=False, **options)


def test_scripts_are_without_fault() -> None:
    scripts = [*ROOT.glob("containers/*/*.sh")]
    assert len(scripts) >= 6
    done = _shellcheck(*scripts)
    assert (done.returncode, done.stdout) == (0, "")


def _steps() -> list[tuple[str, str]]:
    """Return the scripts in the workflows, each with where it is."""
    found = []
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                if "run" in step:
                    name = step.get("name", step["run"].splitlines()[0])
                    found.append((f"{path.stem}: {name}", step["run"]))
    return found


@pytest.mark.parametrize(("script"), [pytest.param(text, id=name) for name, text in _steps()])
def test_scripts_in_workflows_are_without_fault(script: str) -> None:
    done = _shellcheck("--shell", "bash", "-", input=f"set -e\n{script}\n")
    assert (done.returncode, done.stdout) == (0, "")
    # GitHub puts these in as text, whatever it does to the script: they come by env.
    assert "${{" not in script


def test_a_fault_in_a_workflows_script_is_found() -> None:
    assert len(_steps()) >= 4
    done = _shellcheck("--shell", "bash", "-", input="set -e\ncd $HOME/$1\n")
    assert "SC2086" in done.stdout


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
@pytest.mark.parametrize(("name", "platform"), _locked())
def test_an_index_has_what_is_locked(name: str, platform: str, python: str, tmp_path: Path) -> None:
    """Every file that would be installed is there, as a wheel, with a hash that is locked."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--no-deps"]
    command += ["--require-hashes", "--only-binary", ":all:", "--python-version", python]
    command += ["--python-platform", PLATFORMS[platform], "--target", str(tmp_path)]
    command += ["-r", str(ROOT / "requirements" / f"{name}.lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "Would install" in done.stderr
