"""What modules of a package import of it."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(scope="session")
def find_circle() -> Callable[[Path], list[str]]:
    """Return a function that returns modules of a package that import each other in a circle."""

    def find(package: Path) -> list[str]:
        modules = {}
        for path in package.rglob("*.py"):
            parts = path.relative_to(package.parent).with_suffix("").parts
            modules[".".join(parts).removesuffix(".__init__")] = path
        graph = {name: _imports(name, modules) for name in modules}
        try:
            tuple(TopologicalSorter(graph).static_order())
        except CycleError as error:
            return list(error.args[1])
        return []

    return find


def _imports(name: str, modules: dict[str, Path]) -> set[str]:
    """Return what a module imports of its package: in functions and for types as well.

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
