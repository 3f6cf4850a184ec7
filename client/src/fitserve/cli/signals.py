"""`fitserve signals`: tables of own signals, empty, checked, or of a pallet's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from fitserve.cli.pallets import region_options, signal_options, signals_of

if TYPE_CHECKING:
    from fitserve.pallet.load import Pallet

__all__ = ["signals"]

_output = click.option(
    "-o", "--output", type=click.Path(), help="The file to write. [default: standard output]"
)


@click.group()
def signals() -> None:
    """Make and check tables of own signals, for 'fitserve run PALLET --signals TABLE'."""


@signals.command()
@click.argument("pallet")
@region_options
@_output
@click.option("--json", "as_json", is_flag=True, help="Print what the channels are as JSON.")
def template(pallet: str, *, output: str | None, as_json: bool, **options: Any) -> None:
    """Write an empty table for signals on the background of PALLET.

    Its columns are the bins; lines that begin with '#' say what the channels are.
    """
    from fitserve.console import emit_json
    from fitserve.pallet.load import load_pallet
    from fitserve.pallet.template import regions, write_table

    loaded = load_pallet(pallet, **options)
    if as_json:
        emit_json([one._asdict() for one in regions(loaded)])
    else:
        _write(write_table(loaded), output)


@signals.command()
@click.argument("pallet")
@region_options
@click.option("--patch", "patches", multiple=True, metavar="GLOB", help="Only these hypotheses.")
@click.option("--uncertainties", is_flag=True, help="Also statistical ones and systematics.")
@_output
def export(
    pallet: str,
    *,
    patches: tuple[str, ...],
    uncertainties: bool,
    output: str | None,
    **options: Any,
) -> None:
    """Write the signals of PALLET itself as a table, to begin with."""
    from fitserve.pallet.load import load_pallet
    from fitserve.pallet.template import write_table
    from fitserve.runs.prepare import select_hypotheses

    loaded = load_pallet(pallet, **options)
    chosen = select_hypotheses(loaded.hypotheses, patches)
    _write(write_table(loaded, chosen, uncertainties=uncertainties), output)


@signals.command()
@click.argument("pallet")
@click.argument("signals", metavar="TABLE")
@region_options
@signal_options
@click.option("--json", "as_json", is_flag=True, help="Print what was found as JSON.")
def check(pallet: str, *, as_json: bool, **options: Any) -> None:
    """Say whether TABLE has signals for PALLET, and all that is wrong with it."""
    from fitserve.api import asked_signals
    from fitserve.console import emit_json, say, tell
    from fitserve.errors import InputError
    from fitserve.pallet.load import load_pallet
    from fitserve.pallet.signals import check_table
    from fitserve_contract import ModelOptions

    table = options["signals"]
    own = asked_signals(signals_of(options), ModelOptions())
    if own is None:
        raise click.UsageError("there is no table")
    problems = check_table(own, load_pallet(pallet, **options).workspace)
    if problems:
        if as_json:
            emit_json({"signals": 0, "problems": problems})
        else:
            for problem in problems[:_LISTED]:
                tell(problem)
            if len(problems) > _LISTED:
                say(f"and {len(problems) - _LISTED} more (--json lists them all)")
        raise InputError(f"{table} does not fit {pallet}", evidence=f"{len(problems)} problems")
    loaded = load_pallet(pallet, signals=own, **options)
    if as_json:
        emit_json(_found(loaded))
    else:
        tell(f"signals:       {len(loaded.hypotheses)}")
        tell(f"coordinates:   {', '.join(loaded.labels) or 'none'}")
        tell(f"background:    {loaded.name}, {len(loaded.bins)} channels")
        for note in loaded.notes:
            tell(f"note:          {note}")


_LISTED = 100


def _found(pallet: Pallet) -> dict[str, Any]:
    return {
        "signals": len(pallet.hypotheses),
        "problems": [],
        "coordinates": list(pallet.labels),
        "notes": list(pallet.notes),
    }


def _write(text: str, output: str | None) -> None:
    from pathlib import Path

    from fitserve.console import say, tell
    from fitserve.files import write_output

    if output is None:
        for line in text.splitlines():
            tell(line)
    else:
        write_output(Path(output), text.encode())
        say(f"wrote {output}")
