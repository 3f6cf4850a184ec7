"""Draw the rooms of the code, and list what is in each, from the code itself.

Usage: .venv/bin/python tools/architecture.py [--check]

Writes docs/figures/architecture.svg and the tables between the marks in docs/architecture.md;
with --check it writes nothing, and ends with 1 where the page is not what would be written.
"""

from __future__ import annotations

import ast
import sys
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PICTURE = ROOT / "docs" / "figures" / "architecture.svg"
PACKAGES = {
    "contract": ROOT / "contract" / "src" / "fitserve_contract",
    "client": ROOT / "client" / "src" / "fitserve",
    "worker": ROOT / "worker" / "src" / "fitserve_worker",
    "sitekit": ROOT / "deploy" / "sitekit",
}
BEGIN, END = "<!-- begin of what tools/architecture.py writes -->", "<!-- end of it -->"


class Room(NamedTuple):
    """A folder of a package, or a module at its top: what it is for, and what it imports."""

    name: str
    purpose: str
    modules: int
    imports: frozenset[str]


def rooms(package: Path) -> dict[str, Room]:
    """Return the rooms of a package by name."""
    files: dict[str, list[Path]] = {}
    for path in sorted(package.rglob("*.py")):
        first = path.relative_to(package).parts[0].removesuffix(".py")
        if first not in {"__init__", "__main__", "_version"}:
            files.setdefault(first, []).append(path)
    found = {}
    for name, paths in files.items():
        head = package / name / "__init__.py" if (package / name).is_dir() else paths[0]
        doc = ast.get_docstring(ast.parse(head.read_text())) or ""
        imported = {module for path in paths for module in _imported(path, package.name)}
        found[name] = Room(
            name,
            " ".join(doc.partition("\n\n")[0].split()),
            len(paths),
            frozenset(imported & set(files) - {name}),
        )
    return found


def _imported(path: Path, package: str) -> set[str]:
    """Return the rooms of its package that a module imports from, types included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == package:
            names = [f"{package}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        found |= {name.split(".")[1] for name in names if name.startswith(f"{package}.")}
    return found


def page(text: str) -> str:
    """Return the page with its tables made anew."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    tables = []
    for title, package in PACKAGES.items():
        of = rooms(package)
        order = in_order(of)
        count = len(list(package.rglob("*.py")))
        tables.append(f"### {title}: {count} modules\n")
        tables.append("| room | what it is for | modules | imports from |\n|---|---|---|---|")
        for name in order:
            room = of[name]
            above = ", ".join(one for one in order if one in room.imports)
            tables.append(f"| `{name}` | {room.purpose} | {room.modules} | {above} |")
        tables.append("")
    return f"{head}{BEGIN}\n\n" + "\n".join(tables) + f"\n{END}{tail}"


def in_order(of: dict[str, Room]) -> list[str]:
    """Return the rooms, each after those that it imports from; the same every time."""
    return list(TopologicalSorter({name: sorted(of[name].imports) for name in of}).static_order())


def direct(of: dict[str, Room]) -> dict[str, frozenset[str]]:
    """Return each room's imports without those that it reaches through another of them."""

    def reach(name: str) -> frozenset[str]:
        return of[name].imports.union(*(reach(one) for one in of[name].imports))

    return {
        name: frozenset(room.imports.difference(*map(reach, room.imports)))
        for name, room in of.items()
    }


def draw() -> None:
    """Write the picture: every room of the client above what it imports from."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams |= {"svg.hashsalt": "fitserve", "svg.fonttype": "none", "font.size": 10}
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyBboxPatch

    of = rooms(PACKAGES["client"])
    below = direct(of)
    where: dict[str, tuple[float, int]] = {}
    level: dict[str, int] = {}
    for name in reversed(in_order(of)):
        level[name] = 1 + max((level[one] for one in of if name in below[one]), default=-1)
    rows = [sorted(n for n in of if level[n] == at) for at in range(1 + max(level.values()))]
    widest = max(map(len, rows))
    for at, names in enumerate(rows):
        # Each below the middle of those that import from it.
        above = {n: [where[one][0] for one in of if n in below[one]] for n in names}
        names.sort(key=lambda n: sum(above[n]) / max(1, len(above[n])))
        for index, name in enumerate(names):
            where[name] = ((index + 0.5) * widest / len(names), len(rows) - at)
    figure = Figure(figsize=(8, 0.72 * len(rows)))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, widest), ylim=(0.5, len(rows) + 0.5))
    axes.axis("off")
    half = 0.33
    for name, (x, y) in where.items():
        box = FancyBboxPatch(
            (x - half, y - 0.2),
            2 * half,
            0.4,
            boxstyle="round,pad=0.02,rounding_size=0.06",
            facecolor="#dbe9f6",
            edgecolor="#0072b2",
            mutation_aspect=2,
            zorder=2,
        )
        axes.add_patch(box)
        axes.text(x, y, name, ha="center", va="center", zorder=3)
        for other in sorted(below[name]):
            to, at = where[other]
            arrow = {"arrowstyle": "-|>", "color": "#555555", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", xy=(to, at + 0.24), xytext=(x, y - 0.24), arrowprops=arrow, zorder=1)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Write page and picture, or say that they are old."""
    text = PAGE.read_text()
    wanted = page(text)
    if "--check" in sys.argv[1:]:
        if wanted != text:
            sys.exit("docs/architecture.md is old: run .venv/bin/python tools/architecture.py")
        return
    PAGE.write_text(wanted)
    draw()


if __name__ == "__main__":
    main()
