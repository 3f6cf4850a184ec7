"""Take out of an environment what no fit reads: tests, sources in C, and symbol tables.

Usage: python slim.py ENVIRONMENT

A symbol table is a third of jaxlib. JAX's languages for kernels of one's own (Pallas and Mosaic)
go: fits are compiled by XLA alone. NVIDIA's libraries are left as they were published, which their
licence wants, and so are those that a wheel's maker has patched (`NAME.libs`), which strip would
break.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

# Not .pyi: libraries that load their parts late read theirs.
SOURCES = {".a", ".c", ".cpp", ".h", ".hpp", ".pxd", ".pyx"}
UNUSED = (
    "jax/_src/internal_test_util",
    "jax/_src/pallas",
    "jax/experimental/mosaic",
    "jax/experimental/pallas",
    *(f"jaxlib/mlir/dialects/{name}" for name in ("*gpu*", "*llvm*", "*nvvm*")),
    "jsonschema/benchmarks",
)
LIBRARY = re.compile(r"\.so(\.\d+)*$")
KEPT = ("nvidia", "jax_plugins")


def main(environment: Path) -> None:
    """Make the environment smaller, and print by how much."""
    [packages] = environment.glob("lib/python3*/site-packages")
    before = _size(packages)
    for tests in sorted(packages.rglob("tests")):
        if tests.is_dir() and (tests / "__init__.py").exists():
            shutil.rmtree(tests)
    for pattern in UNUSED:
        for path in sorted(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for source in [path for path in packages.rglob("*") if path.suffix in SOURCES]:
        source.unlink()
    for library in sorted(packages.rglob("*.so*")):
        if LIBRARY.search(library.name) and _may_be_stripped(library.relative_to(packages)):
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=True)  # noqa: S607
    after = _size(packages)
    print(f"slim.py: {before >> 20} MiB, now {after >> 20} MiB")


def _may_be_stripped(path: Path) -> bool:
    return not (path.parts[0].endswith(".libs") or path.parts[0].startswith(KEPT))


def _size(directory: Path) -> int:
    files = (path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(path.stat().st_size for path in files)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
