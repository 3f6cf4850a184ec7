"""Write what fitserve and sitekit put out into a directory, to compare with another tree's.

Usage: .venv/bin/python tools/freeze.py DIRECTORY [--shared DIRECTORY]

Answers all kinds of question for the bundled example and, where the published pallets are, CLs of
staus and 1Lbb; writes results, tables, exports, curves, reports, pictures (as digests), `--help` of
all commands, errors with exit codes, schemas, and every shipped site rendered. Times, hosts, paths
and versions of software are left out. `diff -r` of two directories is the comparison: empty where
nothing changed.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
FITSERVE = str(BIN / "fitserve")
QUESTIONS = {
    "cls": [],
    "cls-several": ["--mu", "0.5", "--mu", "1"],
    "limit": ["--limit", "--patch", "X_6*"],
    "scan": ["--scan", "0:2:0.5", "--patch", "X_6*"],
    "fit": ["--fit", "--intervals", "--patch", "X_6*"],
    "background": ["--fit", "--background-only"],
    "ranking": ["--ranking", "--patch", "X_6*"],
    "toys": ["--toys", "500", "--patch", "X_6*"],
    "pyhf": ["--engine", "pyhf", "--patch", "X_6*"],
}
PICTURES = ("contour", "limits", "scan", "pulls", "correlations", "yields", "ranking", "toys")
WRONG = [
    ["run"],
    ["run", "nothing-here"],
    ["run", "example", "--endpoint", "nowhere"],
    ["run", "example", "--mu", "-1"],
    ["run", "example", "--limit", "--mu", "1"],
    ["run", "example", "--patch", "none*"],
    ["run", "example", "--measurement", "none"],
    ["show", "nothing-here"],
    ["contour", "nothing-here"],
    ["export", "nothing-here", "--format", "csv", "-o", "-"],
    ["plot", "none"],
    ["endpoints", "check", "nowhere"],
    ["analyses", "fetch", "nothing"],
]
# Members of results that differ between runs, or between machines.
TIMES = re.compile(r"time|seconds|started|finished|created|host|version|path|pid|directory|machine")
NOISE = [
    (re.compile(r"\d\d\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?(Z|\+00:00| UTC)?"), "DATE"),
    (re.compile(r"\b\d+(\.\d+)? ?(ms|s|min|h|MB|kB|GB)\b"), "AMOUNT"),
    # How far a run was, where it took long.
    (re.compile(r"(?m)^\d+ of \d+ hypotheses are done\n"), ""),
    (re.compile(r"\b\d+(\.\d+)? (times|per second|hypotheses per second)"), "RATE"),
]


class Freezer:
    """Runs commands in a home of its own and keeps what they print."""

    def __init__(self, out: Path, home: Path) -> None:
        self.out, self.home = out, home
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("XDG_")},
            "HOME": str(home),
            "COLUMNS": "100",
            "SOURCE_DATE_EPOCH": "0",
            "PYTHONPATH": f"{ROOT / 'deploy'}",
        }

    def run(self, name: str, *command: str) -> str:
        """Run a command, keep all it printed and its exit code, return its standard output."""
        done = subprocess.run(
            command,
            cwd=self.home,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        text = f"exit {done.returncode}\n{done.stdout}\n--- stderr\n{done.stderr}"
        self.keep(name, text)
        return done.stdout

    def keep(self, name: str, text: str) -> None:
        """Write text without what differs between two runs of one tree."""
        for place, word in ((str(self.home), "HOME"), (str(ROOT), "TREE")):
            text = text.replace(place, word)
        for pattern, word in NOISE:
            text = pattern.sub(word, text)
        path = self.out / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def keep_json(self, name: str, text: str) -> None:
        """Write JSON without times, its members in order."""
        self.keep(name, json.dumps(_still(json.loads(text)), indent=1, sort_keys=True))


def _still(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _still(one) for key, one in value.items() if not TIMES.search(key)}
    return [_still(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    """Write everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", type=Path)
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    options = parser.parse_args()
    options.directory.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as home:
        freezer = Freezer(options.directory.resolve(), Path(home).resolve())
        _usage(freezer)
        _sites(freezer)
        for name, question in QUESTIONS.items():
            _question(freezer, f"example-{name}", "example", question)
        for analysis in ("staus", "1Lbb"):
            pallet = options.shared / "pallets" / f"{analysis}.tar.xz"
            if pallet.exists():
                _question(freezer, analysis, str(pallet.resolve()), [])


def _usage(freezer: Freezer) -> None:
    from click import Context, Group

    from fitserve.cli import cli

    def helps(command: Any, names: list[str]) -> None:
        freezer.run(f"help/{'-'.join(names) or 'fitserve'}", FITSERVE, *names, "--help")
        if isinstance(command, Group):
            context = Context(command)
            for name in command.list_commands(context):
                helps(command.get_command(context, name), [*names, name])

    helps(cli, [])
    for index, arguments in enumerate(WRONG):
        freezer.run(f"errors/{index:02}-{arguments[0]}", FITSERVE, *arguments)
    schema = "from fitserve.export import results_schema; print(results_schema())"
    freezer.run("schemas/results", str(BIN / "python"), "-c", schema)


def _sites(freezer: Freezer) -> None:
    sitekit = (str(BIN / "python"), "-m", "sitekit")
    freezer.run("sites/help", *sitekit, "--help")
    listed = sorted((ROOT / "endpoint_configs" / "sites").glob("*.yaml"))
    for site in [path.stem for path in listed]:
        freezer.run(f"sites/check-{site}", *sitekit, "check", site)
        freezer.run(f"sites/values-{site}", *sitekit, "cluster", "values", site)
        rendered = freezer.home / "rendered" / site
        freezer.run(f"sites/render-{site}", *sitekit, "render", site, "--output", str(rendered))
        for path in sorted(rendered.rglob("*")):
            if path.is_file():
                freezer.keep(f"sites/{site}/{path.relative_to(rendered)}", path.read_text())


def _question(freezer: Freezer, name: str, pallet: str, question: list[str]) -> None:
    run = str(freezer.home / name)
    common = ("--endpoint", "inline", "--verify", "0", "-o", run)
    freezer.run(f"{name}/run", FITSERVE, "run", pallet, *question, *common)
    freezer.keep_json(f"{name}/results.json", (Path(run) / "results.json").read_text())
    freezer.run(f"{name}/show", FITSERVE, "show", run)
    shown = freezer.run(f"{name}/shown", FITSERVE, "show", run, "--json")
    freezer.keep_json(f"{name}/shown", shown)
    freezer.run(f"{name}/diff", FITSERVE, "diff", run, run)
    table = Path(run) / "table.csv"
    freezer.run(f"{name}/csv", FITSERVE, "export", run, "--format", "csv", "-o", str(table))
    if table.exists():
        with table.open(newline="") as rows:
            freezer.keep(f"{name}/table.csv", str(_still(list(csv.DictReader(rows)))))
    curves = freezer.run(f"{name}/contour", FITSERVE, "contour", run, "--json")
    if curves:
        freezer.keep_json(f"{name}/contour", curves)
    hepdata = Path(run) / "hepdata"
    freezer.run(
        f"{name}/hepdata", FITSERVE, "export", run, "--format", "hepdata", "-o", str(hepdata)
    )
    for path in sorted(hepdata.glob("*.yaml")):
        freezer.keep(f"{name}/hepdata-{path.name}", path.read_text())
    for picture in PICTURES:
        path = Path(run) / f"{picture}.png"
        command = ["contour"] if picture == "contour" else ["plot", picture]
        which = [] if picture in ("contour", "limits") else ["--patch", "X_600_100"]
        freezer.run(f"{name}/picture-{picture}", FITSERVE, *command, run, *which, "-o", str(path))
        if path.exists():
            freezer.keep(f"{name}/{picture}.png", hashlib.sha256(path.read_bytes()).hexdigest())
    report = Path(run) / "report.html"
    freezer.run(f"{name}/report", FITSERVE, "report", run, "-o", str(report))
    if report.exists():
        freezer.keep(f"{name}/report.html", _words(report.read_text()))


def _words(page: str) -> str:
    """Return what a page says, without its pictures and markup."""
    page = re.sub(r"(?s)<(svg|style|script)\b.*?</\1>", "", page)
    page = re.sub(r'(?s)<section id="timing".*?</section>', "", page)
    return "\n".join(filter(None, (line.strip() for line in re.split(r"<[^>]*>", page))))


if __name__ == "__main__":
    main()
