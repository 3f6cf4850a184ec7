"""Imports go one way, and starting costs nothing that is not used."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "contract" / "src" / "fitserve_contract"
CLIENT = ROOT / "client" / "src" / "fitserve"
WORKER = ROOT / "worker" / "src" / "fitserve_worker"
SITEKIT = ROOT / "deploy" / "sitekit"

# From what everything may import to what nothing may: a room imports only from those above it.
ROOMS = [
    "errors",
    "files",
    "console",
    "kinds",
    "schedulers",
    "onsite",
    "pallet",
    "endpoints",
    "runs",
    "draw",
    "export",
    "report",
    "api",
    "cli",
    "__main__",
]
HEAVY = {"jax", "pyhf", "scipy", "numpy", "matplotlib", "parsl", "pandas", "rich", "yaml"}


def _modules(package: Path) -> list[Path]:
    return sorted(package.rglob("*.py"))


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def _room(path: Path) -> str:
    return path.relative_to(CLIENT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _modules(CLIENT), ids=lambda path: str(path.relative_to(CLIENT)))
def test_a_room_of_the_client_imports_only_from_rooms_above_it(path: Path) -> None:
    room = _room(path)
    if room == "__init__":
        return
    assert room in ROOMS, f"{room} is a new room: say where in ROOMS it belongs"
    above = ROOMS[: ROOMS.index(room) + 1]
    for module in _imported(path):
        other = module.removeprefix("fitserve.").split(".")[0]
        if module.startswith("fitserve.") and other in ROOMS:
            assert other in above, f"{path.name} imports {module}"


@pytest.mark.parametrize("package", [CONTRACT, CLIENT, WORKER, SITEKIT], ids=lambda path: path.name)
def test_no_modules_import_each_other(package: Path, find_circle: Callable) -> None:
    assert len(_modules(package)) > 1
    assert find_circle(package) == []


def test_a_circle_of_imports_is_found(tmp_path: Path, find_circle: Callable) -> None:
    for name, content in {
        "__init__": "",
        "a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from pack.b import B",
        "b": "def late():\n    from pack import c",
        "c": "import pack.a",
        "d": "import pack.a",
    }.items():
        (tmp_path / "pack").mkdir(exist_ok=True)
        (tmp_path / "pack" / f"{name}.py").write_text(content)
    assert set(find_circle(tmp_path / "pack")) == {"pack.a", "pack.b", "pack.c"}


@pytest.mark.parametrize(
    "path",
    [*_modules(CONTRACT), *_modules(CLIENT)],
    ids=lambda path: "/".join(path.parts[path.parts.index("src") + 1 :]),
)
def test_the_client_never_imports_jax(path: Path) -> None:
    assert not any(module.split(".")[0] in ("jax", "jaxlib") for module in _imported(path))


@pytest.mark.parametrize("path", _modules(WORKER), ids=lambda path: str(path.relative_to(WORKER)))
def test_the_worker_imports_nothing_of_the_client(path: Path) -> None:
    assert "fitserve" not in {module.split(".")[0] for module in _imported(path)}


@pytest.mark.parametrize("path", _modules(CONTRACT), ids=lambda path: path.name)
def test_the_contract_imports_neither_client_nor_worker(path: Path) -> None:
    imported = {module.split(".")[0] for module in _imported(path)}
    assert not imported & {"fitserve", "fitserve_worker"}


def _loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint(' '.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize(
    "code",
    [
        "import fitserve",
        "import fitserve_worker",
        "from fitserve.cli import cli",
        "from fitserve.cli import cli\ntry: cli(['--help'])\nexcept SystemExit: pass",
        "from fitserve.cli import cli\ntry: cli(['run', '--help'])\nexcept SystemExit: pass",
    ],
)
def test_starting_imports_nothing_heavy(code: str) -> None:
    # What an editable install's own hooks import before the first line is not ours.
    loaded = _loaded_by(code) - _loaded_by("")
    assert not loaded & HEAVY


def test_the_contract_imports_neither_pyhf_nor_jax() -> None:
    every = "; ".join(f"import fitserve_contract.{path.stem}" for path in _modules(CONTRACT))
    assert not _loaded_by(every) & {"pyhf", "jax", "scipy", "click", "rich"}


def test_errors_and_version_need_nothing_that_is_installed() -> None:
    # Images are built by a bare Python.
    code = f"sys.path[:0] = {[str(CONTRACT.parent), str(CLIENT.parent)]}; import fitserve.errors"
    done = subprocess.run([sys.executable, "-I", "-S", "-c", f"import sys; {code}"], check=False)
    assert done.returncode == 0


def test_every_name_of_the_contract_is_there() -> None:
    import fitserve_contract

    for name in fitserve_contract.__all__:
        assert getattr(fitserve_contract, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fitserve_contract.nothing


def test_a_run_of_the_client_never_loads_jax(pallet_directory: Path, tmp_path: Path) -> None:
    code = (
        "import fitserve\n"
        "from fitserve.pallet.load import load_pallet\n"
        f"load_pallet({str(pallet_directory)!r})\n"
        "from fitserve.draw.contour import draw_contour\n"
        "import fitserve.api, fitserve.report, fitserve.export\n"
        "import fitserve.export.hepdata, fitserve.endpoints.parsl.local"
    )
    assert "jax" not in _loaded_by(code)


def test_no_pickle_is_named_anywhere() -> None:
    for path in [*_modules(CONTRACT), *_modules(CLIENT), *_modules(WORKER)]:
        names = {module.split(".")[0] for module in _imported(path)}
        assert not names & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, path


def test_all_distributions_have_one_version() -> None:
    from importlib.metadata import requires, version

    from fitserve import __version__

    assert version("fitserve-contract") == __version__
    for name in ("fitserve", "fitserve-worker"):
        assert version(name) == __version__
        assert f"fitserve-contract=={__version__}" in requires(name)
    assert not [one for one in requires("fitserve-worker") if re.match(r"fitserve\b(?!-)", one)]
    hooks = {(ROOT / name / "hatch_build.py").read_text() for name in ("client", "worker")}
    assert len(hooks) == 1
    assert importlib.util.find_spec("fitserve_worker") is not None


def test_the_charts_command_imports_what_there_is() -> None:
    """No type checker sees that file, which runs in pods alone."""
    command = ROOT / "deploy/kubernetes/fitserve-endpoint/files/globus-compute-endpoint"
    tree = ast.parse(command.read_text())
    names = [
        f"{node.module}.{one.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fitserve")
        for one in node.names
    ]
    assert names
    for name in names:
        assert importlib.util.find_spec(name) is not None, name


def test_what_a_workflow_uses_is_named_by_its_commit() -> None:
    """A tag may be moved to other code; the version stands beside for whoever renews it."""
    used = [
        line.strip()
        for workflow in sorted((ROOT / ".github" / "workflows").glob("*.yml"))
        for line in workflow.read_text().splitlines()
        if "uses:" in line
    ]
    assert used
    for line in used:
        assert re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line


def test_no_file_names_a_package_host() -> None:
    """Where packages come from is the machine's own matter: mirrors and proxies differ."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    sources = re.compile(r"\b(?:deb|security|archive)\.(?:debian\.org|ubuntu\.com)\b")
    for name in filter(None, listed):
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            assert not sources.search(path.read_text(errors="replace")), name


@pytest.mark.parametrize(
    ("package", "twice"),
    [(WORKER, set()), (SITEKIT, {"__main__"})],
    ids=["worker", "sitekit"],
)
def test_no_two_modules_have_the_same_name(package: Path, twice: set[str]) -> None:
    # A package has the name of its directory.
    own = (path.parent.name if path.stem == "__init__" else path.stem for path in _modules(package))
    assert {name for name, count in Counter(own).items() if count > 1} == twice
