"""Modules of sitekit import each other in one direction, and each has a name of its own."""

from __future__ import annotations

import ast
import re
from collections import Counter
from pathlib import Path
from typing import get_args

from sitekit.fields import SchedulerType
from sitekit.schedulers.registry import BATCH

SITEKIT = Path(__file__).parents[2] / "deploy" / "sitekit"
NAMES_SCHEDULERS = {
    "schedulers/slurm.py": "what Slurm is",
    "schedulers/pbs.py": "what PBS Pro and Torque are",
    "doctor/slurm_findings.py": "what the doctor looks at with Slurm",
    "doctor/pbs_findings.py": "what the doctor looks at with PBS Pro and Torque",
    "fields.py": "the values of a field, which are held against those of the schema",
}


def _modules() -> dict[str, Path]:
    found = {}
    for path in SITEKIT.rglob("*.py"):
        parts = path.relative_to(SITEKIT.parent).with_suffix("").parts
        found[".".join(parts).removesuffix(".__init__")] = path
    return found


def _imports(name: str, modules: dict[str, Path]) -> set[str]:
    """Return what a module imports of sitekit: in functions and for types as well.

    To import a module is to import the packages that it is in; those of one's own are there.
    """
    names = set()
    for node in ast.walk(ast.parse(modules[name].read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            # A name that is no module comes from the package itself.
            names.update(one if one in modules else node.module for one in below)
    found = names & set(modules)
    packages = {package for one in found for package in _packages(one)}
    return (found | packages) - _packages(name) - {name}


def _packages(name: str) -> set[str]:
    parts = name.split(".")
    return {".".join(parts[:length]) for length in range(1, len(parts))}


def test_no_module_imports_itself_by_way_of_others() -> None:
    modules = _modules()
    left = {name: _imports(name, modules) for name in modules}
    assert sum(map(len, left.values())) > len(modules)
    while left:
        free = {name for name, needs in left.items() if not needs & set(left)}
        assert free, f"a cycle among {', '.join(sorted(left))}"
        left = {name: needs for name, needs in left.items() if name not in free}


def test_no_two_modules_have_the_same_name() -> None:
    names = Counter(path.name for path in SITEKIT.rglob("*.py"))
    twice = {name for name, count in names.items() if count > 1}
    assert twice == {"__init__.py", "__main__.py"}


def _strings(path: Path) -> list[str]:
    """Return the text of a module's strings, without docstrings."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    alone = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    return [
        node.value
        for node in nodes
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone
    ]


def test_what_a_scheduler_is_stands_in_one_place() -> None:
    names = re.compile(rf"\b({'|'.join([*BATCH, 'pbs'])})\b", re.IGNORECASE)
    naming = {
        str(path.relative_to(SITEKIT))
        for path in SITEKIT.rglob("*.py")
        if any(names.search(text) for text in _strings(path))
    }
    assert naming == set(NAMES_SCHEDULERS)


def test_every_scheduler_of_the_schema_is_known() -> None:
    assert {*BATCH, "kubernetes", "local"} == set(get_args(SchedulerType))
