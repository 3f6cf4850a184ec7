"""Figures in docs/performance.md: written by the benchmark, with everything it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs" / "performance.md"


@pytest.fixture
def page(benchmark_module: Callable[[str], ModuleType]) -> ModuleType:
    """Return the module that writes the page."""
    return benchmark_module("page")


def test_figures_are_replaced_and_the_rest_stays(
    page: ModuleType, found_by_a_benchmark: dict, tmp_path: Path
) -> None:
    copy = tmp_path / "performance.md"
    copy.write_text(DOCS.read_text())
    picture = tmp_path / "drawn.png"
    picture.write_bytes(b"a picture")
    page.write_into(copy, found_by_a_benchmark, picture)
    once = copy.read_text()
    page.write_into(copy, found_by_a_benchmark, picture)
    assert copy.read_text() == once
    assert (tmp_path / "performance.png").read_bytes() == b"a picture"
    before, _, rest = DOCS.read_text().partition(page.BEGIN)
    after = rest.partition(page.END)[2]
    assert once.startswith(before)
    assert once.endswith(after)
    for row in (
        "| 1Lbb, 125 hypotheses, warm workers | <= 1.2 s | 1.1 s (median) |",
        "| fitserve run 1Lbb, compile cache cold | <= 15 s | 16 s (**not reached**) |",
        "| 1Lbb | pyhf numpy+scipy | 1 | 30.00 | 3409 | 1705 | 2.0e-06 |",
        "| 1Lbb | pyhf jax+scipy | 0 | more than 90 s |  |  |  |",
        "| 5000 | 1000 and one for each bin | 9.000 | 20.0 | 3000 | more than 60 s |",
        "| Cholesky | 3.000 ms, 75 % |",
        "![Engines side by side",
    ):
        assert row in once, row
    page.write_into(copy, {"machine": found_by_a_benchmark["machine"]})
    assert "performance.png" not in copy.read_text()
    assert "not measured" in copy.read_text()


def test_a_page_without_a_place_is_left_alone(
    page: ModuleType, found_by_a_benchmark: dict, tmp_path: Path
) -> None:
    empty = tmp_path / "page.md"
    empty.write_text("# Something else\n")
    with pytest.raises(ValueError, match="no place for the figures"):
        page.write_into(empty, found_by_a_benchmark)
    assert empty.read_text() == "# Something else\n"


def test_the_picture_shows_what_there_is(
    benchmark_module: Callable[[str], ModuleType], found_by_a_benchmark: dict, tmp_path: Path
) -> None:
    plot = benchmark_module("plot")
    for parts in (("engines", "growth", "patches"), ("patches",)):
        some = {name: found_by_a_benchmark[name] for name in parts}
        plot.draw(some, tmp_path / f"{len(parts)}.png")
        assert (tmp_path / f"{len(parts)}.png").stat().st_size > 5_000
    plot.draw({"machine": {}}, tmp_path / "0.png")
    assert not (tmp_path / "0.png").exists()
