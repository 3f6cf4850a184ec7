"""The pages on sites say what the code does."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from sitekit.cli import commands
from sitekit.doctor.machine import _locked_version
from sitekit.golden import GOLDEN, PAGE, fields_page
from sitekit.load import load_site, shipped_sites
from sitekit.schema import schema

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

DOCS = PAGE.parent


def test_the_page_of_fields_is_the_schema() -> None:
    assert PAGE.read_text(encoding="utf-8") == fields_page(), "make golden"
    page = fields_page()
    for name, node in schema()["properties"].items():
        assert f"`{name}`" in page or f"## {name}" in page
        for field in node.get("properties", {}):
            assert f"`{field}`" in page, f"{name}.{field}"


def test_the_list_of_sites_is_complete() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| `([a-z0-9-]+)` \| (\w+) \| (.+?)(?: \*\(retired\)\*)? \|$", page, re.MULTILINE
    )
    assert [name for name, _, _ in listed] == shipped_sites()
    for name, scheduler, description in listed:
        site, _ = load_site(name)
        assert (scheduler, description) == (site.scheduler.type, site.description)


def test_rendered_files_are_listed() -> None:
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    rendered = {path.name for path in GOLDEN.glob("*/*")} - {"submit.sh", "pod.json"}
    for name in rendered:
        shown = "fitserve-SITE.service" if name.endswith(".service") else name
        assert f"`{shown}`" in page, name


def test_what_add_your_site_shows_is_what_is_said(
    write_site: Callable[..., Path], tmp_path: Path
) -> None:
    """The error in the page is the tool's own, but for the path and line."""
    from sitekit.problems import SiteError
    from sitekit.rules import require_valid

    page = (DOCS / "add.md").read_text(encoding="utf-8")
    path = write_site("slurm", "mysite", blocks={"walltime": "00:30:00"}, user_options=None)
    with pytest.raises(SiteError) as refused:
        require_valid(load_site(path)[0])
    shown = [line.split(": error: ")[-1] for line in str(refused.value).splitlines()]
    for line in shown:
        assert line in page, line


def test_what_a_check_says_is_shown(
    write_site: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_site("slurm", "mysite", node={"cores": 16, "memory_gb": 32})
    commands.main(["check", str(path)], standalone_mode=False)
    page = (DOCS / "add.md").read_text(encoding="utf-8")
    for line in capsys.readouterr().out.splitlines():
        assert line in page


def test_the_endpoint_named_in_the_pages_is_the_pinned_one() -> None:
    pinned = _locked_version()
    page = (DOCS / "index.md").read_text(encoding="utf-8")
    assert f"globus-compute-endpoint {pinned.rpartition('.')[0]}" in page


def test_pages_name_fields_that_exist() -> None:
    root = schema()
    for page in DOCS.glob("*.md"):
        for dotted in re.findall(r"`([a-z_]+\.[a-z_.]+)`", page.read_text(encoding="utf-8")):
            section, _, field = dotted.partition(".")
            if section in root["properties"] and "properties" in root["properties"][section]:
                assert field.split(".")[0] in root["properties"][section]["properties"], dotted
