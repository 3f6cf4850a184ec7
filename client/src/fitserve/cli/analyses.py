"""`fitserve analyses`: the catalogue of published analyses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from fitserve.analyses import Analysis

__all__ = ["analyses"]


@click.group()
def analyses() -> None:
    """Find and fetch published analyses."""


@analyses.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_(*, as_json: bool) -> None:
    """List the analyses that fitserve knows by name."""
    from fitserve.analyses import catalogue
    from fitserve.console import emit_json, show_table

    if as_json:
        emit_json([_as_data(each) for each in catalogue()])
        return
    show_table(
        ["name", "hypotheses", "here", "record", "title"],
        (
            [
                each.name,
                str(each.archive.hypotheses),
                "yes" if _fetched(each) else "no",
                each.inspire or "-",
                each.title,
            ]
            for each in catalogue()
        ),
    )


@analyses.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def show(name: str, *, as_json: bool) -> None:
    """Show what is known of the analysis NAME."""
    from fitserve.analyses import find
    from fitserve.console import emit_json, tell

    analysis = find(name)
    if as_json:
        emit_json(_as_data(analysis))
        return
    for word, text in _details(analysis):
        if text:
            tell(f"{word + ':':<14} {text}")


@analyses.command()
@click.argument("name")
@click.option("--refresh", is_flag=True, help="Download again what is there.")
@click.option(
    "--force", is_flag=True, help="Keep it although it is not what the catalogue describes."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was fetched as JSON.")
def fetch(name: str, *, refresh: bool, force: bool, as_json: bool) -> None:
    """Download the pallet of the analysis NAME and verify it.

    It is kept in the cache directory (FITSERVE_CACHE) for 'fitserve run NAME'.
    """
    from fitserve.analyses import find
    from fitserve.analyses.fetch import fetch as fetch_analysis
    from fitserve.analyses.fetch import is_fetched
    from fitserve.cli.pallets import show_pallet
    from fitserve.console import emit_json, say

    analysis = find(name)
    if analysis.archive.address and (refresh or not is_fetched(analysis)):
        say(f"downloading {analysis.archive.address}")
    pallet = fetch_analysis(analysis, refresh=refresh, force=force)
    if as_json:
        emit_json(pallet.record())
    else:
        show_pallet(pallet)


def _details(analysis: Analysis) -> list[tuple[str, str]]:
    archive = analysis.archive
    verified = (
        f"sha256 {archive.digest}, of the background-only workspace"
        if archive.digest
        else "not known before the archive is fetched; it is then verified by the digest in its "
        "own patchset only"
    )
    return [
        ("name", analysis.name),
        ("title", analysis.title),
        ("process", analysis.process),
        ("data", f"{analysis.luminosity:g}/fb at {analysis.energy:g} TeV"),
        ("reference", ", ".join(_references(analysis))),
        ("hypotheses", str(archive.hypotheses)),
        ("mass values", ", ".join(analysis.labels)),
        ("axes", "; ".join(analysis.axes)),
        ("archive", ", ".join(filter(None, (archive.url, archive.doi and f"doi:{archive.doi}")))),
        ("region", archive.region or ""),
        ("digest", verified),
        ("note", analysis.note or ""),
        ("here", "yes" if _fetched(analysis) else f"no: fitserve analyses fetch {analysis.name}"),
    ]


def _references(analysis: Analysis) -> list[str]:
    return [
        text
        for text in (
            analysis.journal,
            analysis.arxiv and f"arXiv:{analysis.arxiv}",
            analysis.inspire and f"https://www.hepdata.net/record/{analysis.inspire}",
        )
        if text
    ]


def _fetched(analysis: Analysis) -> bool:
    from fitserve.analyses.fetch import is_fetched

    return is_fetched(analysis)


def _as_data(analysis: Analysis) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(analysis)
    return data | {"fetched": _fetched(analysis)}
