"""Judge fitserve and pyhf on many models: ``python -m tension --help``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import jsonpatch

from fitserve.pallet.load import load_pallet
from tension.answers import By, answerer, judged, kernel_ends
from tension.models import SPREADS
from tension.reference import right
from tension.stored import Stored, read, stored

if TYPE_CHECKING:
    from collections.abc import Iterator

_HEADER = [
    "answered by",
    "models",
    "wrong",
    "of these suspect",
    "no number",
    "silently wrong",
    *(f"s = {spread:g}" for spread in SPREADS),
    "right but suspect",
    "ambiguous",
]
# A minimum so far below the reference's is one that it has missed.
_LOWER = 1e-4


def main(arguments: list[str] | None = None) -> None:
    """Print a table of wrong answers, a row for each way to answer.

    The columns with s are the silently wrong ones among models whose bins are off by a factor
    e^N(0, s). Models that are not right are named on stderr, one model a line.
    """
    options = _options(arguments)
    numbers = options.only or range(options.models)
    models = list(_right(options.seed, numbers, options.right))
    several = sum(max(one.right.minima) > 1 for one in models)
    print(f"{len(models)} models of seed {options.seed}, {several} with several minima in a fit.\n")
    print(_row(_HEADER))
    print(_row(["---", *["--:"] * (len(_HEADER) - 1)]))
    for by in options.by:
        print(_row([by, *_judge(by, models)]), flush=True)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tension", description=main.__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--models", type=int, default=100, help="how many, from number 0")
    parser.add_argument("--only", type=_numbers, help="numbers of models instead: 3,17")
    parser.add_argument(
        "--by", action="append", choices=get_args(By), help="who answers; may be repeated"
    )
    parser.add_argument("--pallet", help="print what is right for the hypotheses of this instead")
    parser.add_argument("--right", type=Path, help="keeps right values, and has some already")
    options = parser.parse_args(arguments)
    options.by = options.by or ["kernel"]
    return options


def _of_pallet(file: str, seed: int) -> dict[str, Any]:
    """Return CLs of all hypotheses, in the form of the reference results of published analyses.

    The kernel's ends are among the starts: 60 others find fewer minima of a large model. No sample
    expects less than no events.
    """
    pallet = load_pallet(file)
    answers = {}
    for one in pallet.hypotheses:
        spec = jsonpatch.JsonPatch(one.patch).apply(pallet.workspace)
        values = right(spec, seed, kernel_ends(pallet.workspace, one), positive=True)
        kept = {"CLs_obs": values.CLs_obs, "CLs_exp": values.CLs_exp, "twice_nll": values.twice_nll}
        answers[one.name] = kept
    return {"how": "the lowest of many minima: tests/generated", "hypotheses": answers}


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def _right(seed: int, numbers: range | list[int], path: Path | None) -> Iterator[Stored]:
    kept = {(one.seed, one.number): one for one in read(path)} if path and path.exists() else {}
    for number in numbers:
        value = kept.get((seed, number))
        if value is None:
            value = stored(seed, number)
            if path:
                value.append(path)
        yield value


def _judge(by: By, models: list[Stored]) -> list[str]:
    """Return the cells of a row; which models are wrong goes to stderr."""
    answer = answerer(by)
    count: Counter[str] = Counter()
    silent: Counter[float] = Counter()
    for one in models:
        ours = answer(one.model)
        verdict = judged(ours, one.right)
        good = ours.status == "ok"
        count[verdict] += 1
        count[f"{verdict}, doubted"] += not good
        if verdict == "wrong" and good:
            silent[SPREADS[one.number % len(SPREADS)]] += 1
        if ours.above(one.right) < -_LOWER:
            _say(f"{by} is lower than the reference: {one.number}")
        if verdict != "right" or not good:
            how = f"CLs off by {ours.off(one.right):.2g}, -2 log L by {ours.above(one.right):.2g}"
            _say(f"{by} {one.number}: {verdict}, {ours.status}, {how} {ours.reason or ''}")
    cells = [len(models), count["wrong"], count["wrong, doubted"], count["none"], silent.total()]
    cells += [silent[spread] for spread in SPREADS]
    cells += [count["right, doubted"], count["ambiguous"]]
    return [str(cell) for cell in cells]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
