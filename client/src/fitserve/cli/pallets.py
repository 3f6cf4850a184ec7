"""`fitserve pallets` and `fitserve analyses`: look at a pallet, or find a published one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from fitserve.pallet.edit import Edits
    from fitserve.pallet.load import Pallet
    from fitserve.pallet.signals import OwnSignals
    from fitserve.pallet.source import Analysis

__all__ = [
    "analyses",
    "edits_of",
    "pallet_options",
    "pallets",
    "region_options",
    "show_pallet",
    "signal_options",
    "signals_of",
]

_Command = TypeVar("_Command", bound="Callable[..., Any]")

_EDITS = {
    "channels": ("--channels", "GLOB", "Only channels whose names match"),
    "drop_channels": ("--drop-channel", "GLOB", "Leave channels out"),
    "drop_samples": ("--drop-sample", "GLOB", "Leave samples out"),
    "drop_modifiers": ("--drop-modifier", "GLOB", "Leave modifiers out"),
    "drop_modifier_types": ("--drop-modifier-type", "TYPE", "Leave out all modifiers of a type"),
    "drop_measurements": ("--drop-measurement", "GLOB", "Leave measurements out"),
    "rename": ("--rename", "KIND:OLD=NEW", "Rename a channel, sample, modifier or measurement"),
}


def signal_options(command: _Command) -> _Command:
    """Add the options that say how own signals are read."""
    for option in (
        click.option(
            "--signal-lumi",
            metavar="auto|none|FRACTION",
            default="auto",
            show_default=True,
            help="Uncertainty of the luminosity of own signals: that of the workspace if it has "
            "one, none, or a relative one of their own.",
        ),
        click.option(
            "--bad-yields",
            type=click.Choice(["error", "zero", "drop", "keep"]),
            default="error",
            show_default=True,
            help="Negative or missing yields of own signals: stop, take them as zero, leave their "
            "signals out, or keep negative ones.",
        ),
        click.option(
            "--columns",
            metavar="FILE",
            help="What columns of the table mean, if they have names of their own: YAML or JSON "
            "with a line for each, such as 'yield_1: SR[0]'.",
        ),
    ):
        command = option(command)
    return command


def region_options(command: _Command) -> _Command:
    """Add the options that say which part of a pallet is read, and whether in spite of doubts."""
    for option in (
        click.option("--force", is_flag=True, help="Go on although the patchset's digest differs."),
        click.option("--region", help="Which of several analysis regions in the pallet."),
    ):
        command = option(command)
    return command


def signals_of(options: dict[str, Any]) -> OwnSignals | None:
    """Take the options of own signals out of others, and return what they say.

    Raises
    ------
    click.UsageError
        There are options and no table.
    """
    table, columns, bad, lumi = (
        options.pop(name) for name in ("signals", "columns", "bad_yields", "signal_lumi")
    )
    if table is None:
        given = {"--columns": columns is not None, "--bad-yields": bad != "error"}
        given["--signal-lumi"] = lumi != "auto"
        for option in (option for option, there in given.items() if there):
            raise click.UsageError(f"{option} goes with --signals")
        return None
    from fitserve.pallet.signals import OwnSignals

    return OwnSignals(table=table, columns=columns, bad_yields=bad, lumi=lumi)


def pallet_options(command: _Command) -> _Command:
    """Add the options that say how a pallet is read, and with which signals."""
    for option in (
        signal_options,
        click.option(
            "--signals",
            metavar="TABLE",
            help="Own signals instead of the pallet's: a table of their yields in each bin, .csv, "
            ".json, .parquet, .npz or .h5 ('fitserve signals template' writes an empty one).",
        ),
        click.option(
            "--masses",
            metavar="PATTERN|FILE",
            help="Mass values of the hypotheses: a pattern of their names, such as "
            "'C1N2_{m1}_{m2}', or a CSV file with a column 'name' and one for each mass. "
            "[default: the patchset's]",
        ),
        region_options,
    ):
        command = option(command)
    for name, (flag, metavar, text) in reversed(_EDITS.items()):
        several = f"{text}; may be repeated."
        command = click.option(flag, name, multiple=True, metavar=metavar, help=several)(command)
    return command


def edits_of(options: dict[str, Any]) -> Edits:
    """Take the options that edit a pallet out of all of them.

    Raises
    ------
    click.UsageError
        A name is not given as KIND:OLD=NEW.
    """
    given: dict[str, Any] = {name: list(options.pop(name)) for name in _EDITS}
    renames: dict[str, dict[str, str]] = {}
    for text in given.pop("rename"):
        kind, colon, names = text.partition(":")
        old, equals, new = names.partition("=")
        kinds = ("channel", "sample", "modifier", "measurement")
        if kind not in kinds or not colon or not equals or not old or not new:
            raise click.UsageError(
                f"--rename takes KIND:OLD=NEW, where KIND is one of {', '.join(kinds)}: {text}"
            )
        if old in renames.setdefault(f"{kind}s", {}):
            raise click.UsageError(f"--rename gives two new names to the {kind} {old}")
        renames[f"{kind}s"][old] = new
    return cast(
        "Edits", {name: each for name, each in (given | {"rename": renames}).items() if each}
    )


def _loaded(source: str, options: dict[str, Any]) -> Pallet:
    """Return the pallet that `pallet_options` say."""
    from fitserve.api import asked_signals
    from fitserve.pallet.load import load_pallet
    from fitserve_contract import ModelOptions

    signals = asked_signals(signals_of(options), ModelOptions())
    edits = edits_of(options)
    return load_pallet(source, signals=signals, **options, **edits)


@click.group()
def pallets() -> None:
    """Look at pallets: workspaces with their signal patchsets."""


@pallets.command()
@click.argument("source")
@pallet_options
@click.option("--hypotheses", "listed", is_flag=True, help="List every hypothesis.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
def check(source: str, *, listed: bool, as_json: bool, **options: Any) -> None:
    """Verify the pallet SOURCE and say what is in it.

    SOURCE is a directory, an archive, a URL, a DOI, the name of a known analysis
    ('fitserve analyses list'), a complete workspace, or the YAML file of a combination.
    """
    from fitserve.console import emit_json, show_table
    from fitserve.runs.prepare import check_request
    from fitserve_contract import HypotestRequest

    pallet = _loaded(source, options)
    if as_json:
        emit_json(_as_data(pallet))
    else:
        show_pallet(pallet)
    if listed and not as_json:
        show_table(
            ["hypothesis", *pallet.labels],
            ([each.name, *map(_number, each.values)] for each in pallet.hypotheses),
        )
    # As a run with the default options would.
    check_request(pallet, pallet.hypotheses, HypotestRequest())


@pallets.command()
@click.argument("source")
@pallet_options
@click.option(
    "-o", "--output", required=True, type=click.Path(file_okay=False), help="A new directory."
)
def write(source: str, *, output: str, **options: Any) -> None:
    """Write the pallet SOURCE, combined, edited or with own signals, as workspace and patchset."""
    from pathlib import Path

    from fitserve.console import tell
    from fitserve.pallet.write import write_pallet

    pallet = _loaded(source, options)
    for path in write_pallet(pallet, Path(output)):
        tell(str(path))


@pallets.command()
@click.argument("sources", nargs=-1, required=True, metavar="PALLET...")
@click.option("--force", is_flag=True, help="Go on although a patchset's digest differs.")
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False),
    help="Write a combination to start from: a YAML file in which only the luminosity is shared.",
)
def correlate(sources: tuple[str, ...], *, force: bool, as_json: bool, output: str | None) -> None:
    """List parameters of PALLETs that may be one: those with equal or like names.

    For each it says what pyhf's own combination would do with it. In place of several pallets, the
    YAML file of a combination can be given: its parts are listed.
    """
    from pathlib import Path

    from fitserve.console import emit_json, say, show_table
    from fitserve.files import write_output
    from fitserve.pallet.correlate import alike, starting_file
    from fitserve.pallet.load import load_parts

    said, pieces, measurements = load_parts(sources, force=force)
    found = alike(pieces, measurements)
    if output is not None:
        if Path(output).exists():
            raise click.UsageError(f"{output} is there already: give another -o")
        folder = Path(output).resolve().parent
        text = starting_file(said, pieces, found, folder)
        write_output(Path(output), text.encode())
    if as_json:
        emit_json([each._asdict() for each in found])
    elif not found:
        say("the pallets have no parameters with equal or like names")
    else:
        show_table(
            [*pieces, "types", "names", "by pyhf", "as one"],
            (
                [
                    *(each.names.get(part, "-") for part in pieces),
                    ", ".join(dict.fromkeys(each.types.values())),
                    each.why.removesuffix(" names"),
                    each.by_pyhf,
                    each.fit or "fits",
                ]
                for each in found
            ),
        )
    if output is not None:
        say(f"written: {output}; share what is one, then: fitserve run {output}")


@pallets.command()
@click.argument("source")
@pallet_options
@click.option("--hypothesis", help="The hypothesis to write, where there are several.")
@click.option("--background-only", is_flag=True, help="Write the workspace without a signal.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(["workspace", "hs3"]),
    default="workspace",
    show_default=True,
    help="pyhf's JSON, or HS3 as ROOT's RooJSONFactoryWSTool reads it.",
)
@click.option(
    "-o", "--output", type=click.Path(), required=True, help="The file to write; - is stdout."
)
def export(
    source: str,
    *,
    hypothesis: str | None,
    background_only: bool,
    format_: str,
    output: str,
    **options: Any,
) -> None:
    """Write one hypothesis of the pallet SOURCE as a complete workspace.

    SOURCE is anything that 'fitserve run' takes: so HistFactory's XML becomes a workspace of pyhf,
    and that a file for ROOT.
    """
    from pathlib import Path

    import msgspec

    from fitserve.console import emit_json, say
    from fitserve.files import write_output
    from fitserve.pallet.hs3_write import write_hs3
    from fitserve.pallet.load import complete_workspace

    pallet = _loaded(source, options)
    content = complete_workspace(pallet, hypothesis, background_only=background_only)
    if format_ == "hs3":
        content = write_hs3(content, pallet.name)
    if output == "-":
        emit_json(content)
        return
    write_output(Path(output), msgspec.json.format(msgspec.json.encode(content), indent=1) + b"\n")
    say(f"{output} is written")


def show_pallet(pallet: Pallet) -> None:
    """Show what is in a pallet and what its checks found."""
    from fitserve.console import say, tell, warn

    names = [each.name for each in pallet.hypotheses]
    span = " ... ".join([*names[:1], *names[1:][-1:]])
    bins = pallet.bins
    tell(f"pallet:        {pallet.name}" + (f", region {pallet.region}" if pallet.region else ""))
    if pallet.title:
        tell(f"analysis:      {pallet.analysis}: {pallet.title}")
    tell(f"description:   {pallet.description}")
    for kind, reference in pallet.references.items():
        tell(f"reference:     {kind} {reference}")
    for name, part in pallet.parts.items():
        tell(f"part:          {name}: {part.source}, workspace {part.workspace_digest[:12]}")
    tell(f"hypotheses:    {len(names)}" + (f": {span}" if span else ""))
    tell(f"mass values:   {', '.join(pallet.labels) or 'none'}")
    for measurement in pallet.measurements:
        tell(f"measurement:   {measurement}, parameter of interest {_poi(pallet, measurement)}")
    tell(
        f"channels:      {len(bins)} with {sum(bins.values())} bins: "
        + ", ".join(f"{name} ({count})" for name, count in bins.items())
    )
    tell(f"workspace:     {pallet.workspace_digest}")
    for algorithm, value in pallet.patchset_digests.items():
        verified = "verified" if pallet.digest_verified else "does NOT fit the workspace"
        tell(f"digest:        {algorithm} {value}, {verified}")
    for note in pallet.notes:
        say(f"note:          {note}")
    for ignored in pallet.forced:
        warn(f"ignored by --force: {ignored}")


def _poi(pallet: Pallet, name: str) -> str:
    """Return the parameter of interest of a measurement, and why it cannot be one, if so."""
    from fitserve.errors import RequestError
    from fitserve.runs.prepare import check_request
    from fitserve_contract import HypotestRequest, ModelOptions

    measurements = [outline.measurement(name) for outline in pallet.outlines.values()]
    names = dict.fromkeys(each["config"]["poi"] for each in measurements if each is not None)
    text = ", ".join(names) or pallet.measurements[name]
    try:
        model = ModelOptions(measurement=name)
        check_request(pallet, pallet.hypotheses, HypotestRequest(model=model))
    except RequestError as error:
        return f"{text} ({error.cause})"
    return text


def _as_data(pallet: Pallet) -> dict[str, Any]:
    import msgspec

    from fitserve.runs.prepare import pallet_record

    record: dict[str, Any] = msgspec.to_builtins(pallet_record(pallet))
    return record | {
        "notes": list(pallet.notes),
        "measurements": pallet.measurements,
        "normfactors": sorted(pallet.normfactors),
        "bins": pallet.bins,
        "hypotheses": {each.name: list(each.values) for each in pallet.hypotheses},
    }


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


@click.group()
def analyses() -> None:
    """Find and fetch published analyses."""


@analyses.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_(*, as_json: bool) -> None:
    """List the analyses that fitserve knows by name."""
    from fitserve.console import emit_json, show_table
    from fitserve.pallet.source import catalogue

    if as_json:
        emit_json([_entry_as_data(each) for each in catalogue()])
        return
    show_table(
        ["name", "hypotheses", "here", "record", "title"],
        (
            [
                each.name,
                str(each.archive.hypotheses or "-"),
                "yes" if _fetched(each) else "no" if each.archive.address else "record",
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
    """Show the catalogue's entry of the analysis NAME."""
    from fitserve.console import emit_json, tell
    from fitserve.pallet.source import find_analysis

    analysis = find_analysis(name)
    if as_json:
        emit_json(_entry_as_data(analysis))
        return
    for word, text in _details(analysis):
        if text:
            tell(f"{word + ':':<14} {text}")


@analyses.command()
@click.argument("name")
@click.option("--refresh", is_flag=True, help="Download again, even if it is in the cache.")
@click.option(
    "--force", is_flag=True, help="Keep it although it is not what the catalogue describes."
)
@click.option("--json", "as_json", is_flag=True, help="Print what was fetched as JSON.")
def fetch(name: str, *, refresh: bool, force: bool, as_json: bool) -> None:
    """Download the pallet of the analysis NAME and verify it.

    It is kept in the cache directory (FITSERVE_CACHE) for 'fitserve run NAME'.
    """
    from fitserve.console import emit_json, say
    from fitserve.pallet.load import fetch as fetch_analysis
    from fitserve.pallet.load import is_fetched
    from fitserve.pallet.source import find_analysis
    from fitserve.runs.prepare import pallet_record

    analysis = find_analysis(name)
    if analysis.archive.address and (refresh or not is_fetched(analysis)):
        say(f"downloading {analysis.archive.address}")
    pallet = fetch_analysis(analysis, refresh=refresh, force=force)
    if as_json:
        emit_json(pallet_record(pallet))
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
        ("data", _data(analysis)),
        ("reference", ", ".join(_references(analysis))),
        ("hypotheses", str(archive.hypotheses or "not known before the archive is fetched")),
        ("mass values", ", ".join(analysis.labels)),
        ("axes", "; ".join(analysis.axes)),
        ("archive", ", ".join(filter(None, (archive.url, archive.doi and f"doi:{archive.doi}")))),
        ("region", archive.region or ""),
        ("digest", verified),
        ("note", analysis.note or ""),
        ("here", _here(analysis)),
    ]


def _here(analysis: Analysis) -> str:
    if analysis.archive.address is None and not analysis.bundled:
        return f"no: find the archive at https://doi.org/{analysis.record}"
    return "yes" if _fetched(analysis) else f"no: fitserve analyses fetch {analysis.name}"


def _data(analysis: Analysis) -> str:
    """Return luminosity and energy, as far as they are known."""
    luminosity = f"{analysis.luminosity:g}/fb" if analysis.luminosity else ""
    energy = f"{analysis.energy:g} TeV" if analysis.energy else ""
    return " at ".join(filter(None, (luminosity, energy)))


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
    from fitserve.pallet.load import is_fetched

    return is_fetched(analysis)


def _entry_as_data(analysis: Analysis) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(analysis)
    return data | {"fetched": _fetched(analysis)}
