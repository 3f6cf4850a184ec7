"""What the client does where no extra is installed: all but drawing, and fitting by itself."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import packages_distributions, requires
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fitserve.runs.store import SavedRun

SCRIPT = """
import sys
sys.modules.update(dict.fromkeys(sys.argv[1].split()))
sys.argv[:2] = ["fitserve"]
"""
COMMAND = f"{SCRIPT}from fitserve.cli import main\nmain()"
JUMPS = f"""{SCRIPT}
from pathlib import Path
from fitserve.runs.neighbours import find_jumps
from fitserve.runs.store import read_run
run = read_run(Path(sys.argv[1]))
print(*find_jumps(run.manifest.request, run.results))
"""


def _installed(name: str) -> set[str]:
    """Return the distributions that a plain install of one brings, itself among them."""
    found, left = set(), [canonicalize_name(name)]
    while left:
        one = left.pop()
        if one in found:
            continue
        found.add(one)
        for line in requires(one) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                left.append(canonicalize_name(requirement.name))
    return found


@pytest.fixture(scope="module")
def missing() -> str:
    """Return the modules that are here and do not come with the client."""
    brought = _installed("fitserve")
    modules = {
        module
        for module, names in packages_distributions().items()
        if module.isidentifier() and not brought & {canonicalize_name(name) for name in names}
    }
    assert modules >= {"pyhf", "scipy", "matplotlib", "jinja2", "pandas", "parsl", "jax", "iminuit"}
    assert not modules & {"numpy", "fitserve", "fitserve_contract", "msgspec", "yaml"}
    return " ".join({*modules, "fitserve_worker"})


@pytest.fixture
def bare(missing: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs a program with arguments in a bare install."""

    def run(*words: object, program: str = COMMAND) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, missing, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.fixture
def run(tmp_path: Path, build_run: Callable, save_run: Callable) -> SavedRun:
    """Return a run of a plane in which CLs rises, but at one point."""
    points = {
        f"X_{x}_{y}": ((float(x), float(y)), min(0.9, 0.02 * (1 + x + y)), None)
        for x in range(8)
        for y in range(8)
    }
    points["X_3_4"] = ((3.0, 4.0), 0.9, None)
    return save_run(tmp_path / "run", *build_run(points))


def test_a_pallet_is_checked_and_planned(bare: Callable, tmp_path: Path) -> None:
    found = bare("pallets", "check", "example")
    assert (found.returncode, "verified" in found.stdout) == (0, True), found.stderr
    (tmp_path / "bad.json").write_text('{"channels": [{"name": 1}]}')
    found = bare("pallets", "check", tmp_path / "bad.json")
    assert found.returncode == 3
    card = {
        "card_version": 1,
        "name": "there",
        "endpoint_id": "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
    }
    (tmp_path / "card.json").write_text(json.dumps(card))
    found = bare("endpoints", "add", "there", "--card", tmp_path / "card.json")
    assert found.returncode == 0, found.stderr
    found = bare("run", "example", "--endpoint", "there", "--plan", "--output", tmp_path / "run")
    assert found.returncode == 0, found.stderr
    assert "X_1000_900" in found.stdout


def test_a_run_is_looked_at_and_exported(bare: Callable, run: SavedRun, tmp_path: Path) -> None:
    for words in (
        ["show", run.path],
        ["show", "--json", run.path],
        ["export", run.path, "--format", "csv", "--output", tmp_path / "out.csv"],
        ["export", run.path, "--format", "json", "--output", tmp_path / "out.json"],
        ["diff", run.path, run.path],
    ):
        found = bare(*words)
        assert found.returncode == 0, found.stderr
    assert len(json.loads((tmp_path / "out.json").read_text())) == len(run.results)


def test_results_are_held_against_their_neighbours(bare: Callable, run: SavedRun) -> None:
    found = bare(run.path, program=JUMPS)
    assert (found.returncode, found.stdout.split()) == (0, ["X_3_4"]), found.stderr


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["contour", "RUN", "--output", "x.png"], "plot"),
        (["report", "RUN", "--output", "x.html"], "plot"),
        (["run", "example", "--endpoint", "local"], "local"),
        (["run", "example", "--endpoint", "inline"], "local"),
        (["export", "RUN", "--format", "hepdata", "--output", "x"], "plot"),
    ],
)
def test_what_needs_more_says_how_to_install_it(
    bare: Callable, run: SavedRun, tmp_path: Path, words: list[str], extra: str
) -> None:
    places = {"RUN": run.path, **{f"x{end}": tmp_path / f"x{end}" for end in ("", ".png", ".html")}}
    more = ["--output", tmp_path / "fits"] if words[0] == "run" else []
    found = bare(*(places.get(word, word) for word in words), *more)
    assert found.returncode == 5, found.stderr
    assert f'next: pip install "fitserve[{extra}]"' in found.stderr
