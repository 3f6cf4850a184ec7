"""Hold upper limits on own signals against pyhf's, found by a root scan, on published backgrounds.

Usage: .venv/bin/python benchmarks/limits_check.py PALLET... [--sizes 0.2 2 20] [--seconds 300]
       [--backend jax] [--output F]

The signals have events in every signal region, drawn at random, always the same for a size: the
size is about the significance of the signal without systematics, and 2 divided by it about its
limit. The limits are those of `fitserve run PALLET --signals TABLE --limit`. pyhf's model is built
here, from the background and the yields, with the signal multiplied by a power of two, so that its
limits are within the bounds of the parameter of interest. Where pyhf's fits end above the minimum,
its scan is done again from its best fit at the limit. A scan that takes longer than ``--seconds``
is given up.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import multiprocessing
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from machine import cores, describe
from scipy.optimize import brentq

from fitserve.pallet.load import load_pallet
from fitserve.pallet.template import regions

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_SEED = 20210317
_SETTINGS = {"normsys": {"interpcode": "code4"}, "histosys": {"interpcode": "code4p"}}
# Relative, of a limit, and absolute, of a minimum of -2 log L: what is more is looked into.
_DIFFERENCE = 1e-3
_ABOVE = 1e-3

Yields = dict[str, list[float]]


def main() -> None:
    """Compare, and print a table; with ``--output`` keep the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pallets", nargs="+", help="paths, or names of analyses")
    parser.add_argument("--sizes", type=float, nargs="+", default=[0.2, 2.0, 20.0])
    parser.add_argument("--seconds", type=float, default=300, help="for one scan of pyhf")
    parser.add_argument("--backend", choices=["jax", "numpy"], default="jax", help="of pyhf")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{len(cores())} cores, pyhf {options.backend}+scipy\n\n{HEAD}", flush=True)
    for pallet in options.pallets:
        for row in check(pallet, options.sizes, options.seconds, options.backend):
            rows.append(row)
            print(line(row), flush=True)
    if options.output:
        found = {"machine": describe(), "backend": options.backend, "rows": rows}
        options.output.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1))


def signals(pallet: str, sizes: list[float]) -> dict[str, Yields]:
    """Return signals of a size each, by name: their events in each bin of the signal regions."""
    chosen = [one for one in regions(load_pallet(pallet)) if one.kind == "signal region"]
    if not chosen:
        raise SystemExit(f"{pallet}: no channel is a signal region by its name")
    generator = np.random.default_rng(_SEED)
    spread = [np.sqrt(np.array(one.background) + 1) for one in chosen]
    found = {}
    for size in sizes:
        shape = [each * np.exp(generator.normal(0, 1, len(each))) for each in spread]
        power = sum(float(np.sum((a / b) ** 2)) for a, b in zip(shape, spread, strict=True))
        found[f"size {size:g}"] = {
            one.name: (each * size / math.sqrt(power)).tolist()
            for one, each in zip(chosen, shape, strict=True)
        }
    return found


def check(
    pallet: str, sizes: list[float], seconds: float, backend: str = "jax"
) -> list[dict[str, Any]]:
    """Return what fitserve and pyhf find for signals of these sizes."""
    made = signals(pallet, sizes)
    workspace = load_pallet(pallet).workspace
    results, took = ask_fitserve(pallet, made)
    rows = []
    for name, yields in made.items():
        ours = results[name]
        row = {
            "pallet": Path(pallet).stem,
            "signal": name,
            "status": ours["status"],
            "reason": ours["reason"],
            "rescaled": ours["limit"]["rescaled"],
            "fitserve": [ours["limit"]["observed"], *ours["limit"]["expected"]],
            "fitserve seconds": took,
        }
        rows.append(row | compare(ours, bounded(workspace, yields, ours, seconds, backend)))
    return rows


def ask_fitserve(pallet: str, made: dict[str, Yields]) -> tuple[dict[str, Any], float]:
    """Return the results of a run for limits by name, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path, run = Path(folder) / "signals.csv", Path(folder) / "run"
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            first = next(iter(made.values()))
            bins = [(name, at) for name, events in first.items() for at in range(len(events))]
            writer.writerow(["name", *(f"{name}[{at}]" for name, at in bins)])
            for name, yields in made.items():
                writer.writerow([name, *(repr(yields[channel][at]) for channel, at in bins)])
        command = [sys.executable, "-m", "fitserve", "run", pallet, "--signals", str(path)]
        begin = time.perf_counter()
        done = subprocess.run(
            [*command, "--limit", "--output", str(run), "--refit", "--quiet"],
            capture_output=True,
            text=True,
            check=False,
        )
        # A run that ends with doubtful results has them all the same.
        if not (run / "results.json").exists():
            raise SystemExit(f"{pallet}: {done.stderr or 'the run failed'}")
        return json.loads((run / "results.json").read_bytes()), time.perf_counter() - begin


def with_signal(workspace: dict[str, Any], yields: Yields, factor: float) -> dict[str, Any]:
    """Return a workspace with a signal multiplied by a factor, in place of the one it has.

    Own code, so that what fitserve adds is checked too. The signal has the uncertainty of the
    luminosity if the workspace has.
    """
    copied = msgspec.json.decode(msgspec.json.encode(workspace))
    config = copied["measurements"][0]["config"]
    poi = config["poi"]
    modifiers = [{"name": poi, "type": "normfactor", "data": None}]
    if any(one["name"] == "lumi" for one in config["parameters"]):
        modifiers.append({"name": "lumi", "type": "lumi", "data": None})
    for channel in copied["channels"]:
        channel["samples"] = [
            sample
            for sample in channel["samples"]
            if poi not in [modifier["name"] for modifier in sample["modifiers"]]
        ]
        if channel["name"] in yields:
            data = [factor * events for events in yields[channel["name"]]]
            channel["samples"].append({"name": "own", "data": data, "modifiers": modifiers})
    return copied


def bounded(
    workspace: dict[str, Any],
    yields: Yields,
    ours: dict[str, Any],
    seconds: float,
    backend: str,
) -> dict[str, Any]:
    """Return what pyhf finds in a process of its own, which is ended when its time is up."""
    near = ours["limit"]["observed"] or ours["limit"]["expected"][2] or 1.0
    factor = 2.0 ** round(math.log2(near))
    # At these signal strengths, none and the one next to the limit, -2 log L is compared.
    tested = min((one["mu"] for one in ours["points"]), key=lambda mu: abs(mu - near))
    rise = next(one["twice_delta_nll"] for one in ours["points"] if one["mu"] == tested)
    lowest = {
        "free": ours["twice_nll"],
        "background": ours["twice_nll_background"],
        "limit": ours["twice_nll"] + rise,
    }
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    spec = with_signal(workspace, yields, factor)
    task = (sender, spec, tested / factor, lowest, backend)
    process = context.Process(target=_pyhf, args=task, daemon=True)
    begin = time.perf_counter()
    process.start()
    sender.close()
    found: dict[str, Any] = {}
    try:
        # One message for each step, so that what is done when time is up counts.
        while receiver.poll(max(0.0, seconds - (time.perf_counter() - begin))):
            found |= receiver.recv()
        found |= {"why not": f"pyhf takes more than {seconds:g} s"}
    except EOFError:
        if "limits" not in found and "why not" not in found:
            found["why not"] = "pyhf's process ended"
    finally:
        process.kill()
        process.join()
    found["factor"], found["lowest"] = factor, lowest
    return found | {"pyhf seconds": time.perf_counter() - begin}


def _pyhf(
    sender: Connection, spec: dict[str, Any], tested: float, lowest: dict[str, float], backend: str
) -> None:
    """Send pyhf's minima of -2 log L and its limits, from one start or, where needed, two."""
    import pyhf

    pyhf.set_backend(backend, pyhf.optimize.scipy_optimizer(maxiter=100_000), precision="64b")
    loaded = pyhf.Workspace(spec)
    model = loaded.model(modifier_settings=_SETTINGS)
    data = loaded.data(model)

    def minima(start: Any) -> dict[str, Any]:
        fits = {
            "free": pyhf.infer.mle.fit(data, model, start, return_fitted_val=True),
            "background": pyhf.infer.mle.fixed_poi_fit(
                0.0, data, model, start, return_fitted_val=True
            ),
            "limit": pyhf.infer.mle.fixed_poi_fit(
                tested, data, model, start, return_fitted_val=True
            ),
        }
        start[:] = np.asarray(fits["limit"][0]).tolist()
        return {name: float(value) for name, (_, value) in fits.items()}

    def limits(start: Any) -> list[float]:
        # pyhf's own toms748_scan fails with JAX, whose arrays are no keys of its cache, and at
        # zero, where CLs is 0/0.
        upper = model.config.suggested_bounds()[model.config.poi_index][1]
        known: dict[float, list[float]] = {}

        def excess(mu: float, at: int) -> float:
            if mu not in known:
                observed, expected = pyhf.infer.hypotest(
                    mu, data, model, init_pars=start, return_expected_set=True
                )
                known[mu] = [float(observed), *map(float, expected)]
            return math.log(max(known[mu][at], 1e-300) / 0.05)

        ends = [1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, upper]

        def root(at: int) -> float:
            # The bracket is looked for from 1, as fits far beyond the limit are slow.
            low = 3
            while excess(ends[low + 1], at) > 0:
                low += 1
            while excess(ends[low], at) < 0:
                low -= 1
            return float(brentq(excess, ends[low], ends[low + 1], args=(at,), rtol=1e-5))

        return [root(at) for at in range(6)]

    try:
        start = model.config.suggested_init()
        first = list(start)
        found = minima(start)
        sender.send({"minima": found, "parameters": model.config.npars})
        sender.send({"limits": limits(first)})
        if any(found[name] > lowest[name] + _ABOVE for name in lowest):
            start[model.config.poi_index] = first[model.config.poi_index]
            again = list(start)
            sender.send({"second minima": minima(start)})
            sender.send({"second limits": limits(again)})
    except (ValueError, IndexError, pyhf.exceptions.FailedMinimization) as error:
        sender.send({"why not": f"{type(error).__name__}: {error}"[:200]})
    finally:
        sender.close()


def compare(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, Any]:
    """Return the largest relative differences of limits, and whose minima are lower by how much."""
    mine = [ours["limit"]["observed"], *ours["limit"]["expected"]]
    found: dict[str, Any] = {"pyhf": theirs}
    for key, name in (("limits", "differences"), ("second limits", "second differences")):
        if key in theirs:
            scaled = [theirs["factor"] * one for one in theirs[key]]
            found[name] = [
                math.nan if a is None else a / b - 1 for a, b in zip(mine, scaled, strict=True)
            ]
    for key, name in (("minima", "above"), ("second minima", "second above")):
        if key in theirs:
            # Above zero: pyhf ended above fitserve.
            found[name] = {at: theirs[key][at] - low for at, low in theirs["lowest"].items()}
    return found


HEAD = (
    "| pallet | parameters | signal | status | limit observed, expected | rescaled by | "
    "difference observed, largest expected | "
    "pyhf's -2 log L above fitserve's: free, no signal, limit | fitserve, pyhf / s |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


def line(row: dict[str, Any]) -> str:
    """Return a row of the table in Markdown."""
    theirs = row["pyhf"]
    differences = [_differences(row[key]) for key in _keys(row, "differences")]
    minima = [
        ", ".join(f"{value:+.1e}" for value in row[key].values()) for key in _keys(row, "above")
    ]
    if "why not" in theirs:
        differences.append(theirs["why not"])
    limits = ", ".join("none" if one is None else f"{one:.5g}" for one in row["fitserve"][:1])
    middle = row["fitserve"][3]
    limits += ", none" if middle is None else f", {middle:.5g}"
    cells = [
        row["pallet"],
        str(theirs.get("parameters", "")),
        row["signal"],
        row["status"],
        limits,
        f"{row['rescaled']:g}" if row["rescaled"] else "",
        "; again ".join(differences),
        "; again ".join(minima),
        f"{row['fitserve seconds']:.0f}, {theirs['pyhf seconds']:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def _keys(row: dict[str, Any], name: str) -> list[str]:
    return [key for key in (name, f"second {name}") if key in row]


def _differences(found: list[float]) -> str:
    """Return the difference of the observed limit and the largest one, bold where it matters."""
    cells = [found[0], max(found[1:], key=lambda one: -1.0 if math.isnan(one) else abs(one))]
    return ", ".join(
        f"**{one:+.1e}**" if abs(one) > _DIFFERENCE else f"{one:+.1e}" for one in cells
    )


if __name__ == "__main__":
    main()
