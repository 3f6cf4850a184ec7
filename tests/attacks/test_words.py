"""Names and reasons of anybody's steer no terminal, are no formulas, and are no defects."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from rich.cells import cell_len

from fitserve import api, console
from fitserve.cli import cli
from fitserve.draw.style import axis_title, safe_text
from fitserve.endpoints.inline import InlineBackend
from fitserve.errors import FitserveError, InputError
from fitserve.export import to_csv
from fitserve.pallet.load import load_pallet
from fitserve.runs.progress import LiveProgress
from fitserve_contract import ContractError, encode_refusal
from tests.conftest import build_run

if TYPE_CHECKING:
    from pathlib import Path

    from fitserve.endpoints.base import Outcome

# Clear the screen, put a title and a link, by one character of ISO 6429, and turn around.
EVIL = "a\x1b[2Jb\x1b]0;owned\x07c\x9b2Jd\u202ee\u2066f\rg"
STEERS = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
WORDS = "[bold red]x[/] [link=https://example.org]y[/link] :smile: [/nothing]"


@pytest.mark.parametrize("text", [EVIL, WORDS])
def test_nothing_that_is_told_steers_the_terminal(
    capsys: pytest.CaptureFixture[str], text: str
) -> None:
    error = FitserveError(text, evidence=text, hint=text)
    console.say(text)
    console.tell(text)
    console.warn(text)
    console.tell_error(error)
    console.show_table([text], [[text]], title=text)
    console.emit_json({text: [text]}, {text: text})
    with LiveProgress(1, 0) as progress:
        progress.trouble(text)
        progress._line(text)
    told = capsys.readouterr()
    assert not STEERS.search(told.out + told.err)
    said, written = told.out.split("{\n", 1)
    assert json.loads("{" + written) == {text: [text], "results": {text: text}}
    if text == WORDS:
        assert (said.count(WORDS), told.err.count(WORDS)) == (4, 7)
    else:
        assert "a\\u001b[2Jb" in told.err


# The second is wider than a terminal that says nothing of itself.
@pytest.mark.parametrize("text", [EVIL, 2 * EVIL])
def test_a_table_fits_a_terminal_and_does_not_steer_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    console.show_table(["name"], [[text], ["\u4e2d\u0394"]])
    told = capsys.readouterr().out
    assert not STEERS.search(told)
    assert console.plain(text) in told.replace("\n", "")
    assert max(map(cell_len, told.splitlines())) <= 80


def test_a_row_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.show_table(["a", "b"], [["one\n\ttwo", "x"]])
    assert capsys.readouterr().out.splitlines() == ["a         b", "one  two  x"]


def test_line_breaks_and_other_alphabets_stay() -> None:
    text = "one\n\ttwo ~ \u00b5\u0394 \u4e2d \U0001f600"
    assert console.plain(text) == text


def _evil(pallet_directory: Path) -> None:
    for file in ("BkgOnly.json", "patchset.json"):
        content = (pallet_directory / file).read_text().replace('"SR"', json.dumps(f"SR{EVIL}"))
        content = content.replace('"toy signals"', json.dumps(EVIL))
        (pallet_directory / file).write_text(content)


def test_a_pallet_steers_no_terminal(pallet_directory: Path, tmp_path: Path) -> None:
    _evil(pallet_directory)
    run = str(tmp_path / "run")
    for command in (
        ["pallets", "check", str(pallet_directory), "--hypotheses", "--force"],
        ["pallets", "check", str(pallet_directory), "--json", "--force"],
        ["pallets", "check", str(pallet_directory)],
        ["run", str(pallet_directory), "-e", "inline", "-o", run, "--force"],
        ["show", run],
        ["show", run, "--json"],
        ["diff", run, run],
    ):
        done = CliRunner().invoke(cli, command)
        assert done.stderr or done.stdout
        assert "defect" not in done.stderr
        assert not STEERS.search(done.stderr + done.stdout), command


def test_what_a_library_warns_of_steers_no_terminal(pallet_directory: Path, tmp_path: Path) -> None:
    """Matplotlib cites every character that its font lacks."""
    _evil(pallet_directory)
    request, run = api.make_request(kind="fit"), tmp_path / "run"
    api.run(
        pallet_directory,
        request=request,
        patches=["S_100"],
        endpoint="inline",
        force=True,
        output=run,
        progress=False,
    )
    plot = ["plot", "yields", str(run), "-o", str(tmp_path / "yields.png")]
    done = subprocess.run(
        [sys.executable, "-m", "fitserve", *plot], capture_output=True, text=True, check=True
    )
    assert "Glyph 27" in done.stderr
    assert not STEERS.search(done.stderr + done.stdout)


def test_what_is_wrong_with_a_pallet_steers_no_terminal(pallet_directory: Path) -> None:
    file = pallet_directory / "patchset.json"
    file.write_text(file.read_text().replace('"S_100"', json.dumps(f"S_100{EVIL}")))
    done = CliRunner().invoke(cli, ["pallets", "check", str(pallet_directory)])
    assert done.exit_code == InputError.exit_code
    assert "2J" in done.stderr
    assert not STEERS.search(done.stderr)


class _Refusing(InlineBackend):
    def outcomes(self, timeout: float) -> list[Outcome]:
        refusal = encode_refusal(ContractError(EVIL, evidence=EVIL, hint=EVIL))
        return [ended._replace(result=refusal) for ended in super().outcomes(timeout)]


def test_a_refusal_steers_no_terminal(
    pallet_directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "open_backend", lambda *_: _Refusing())
    run = ["run", str(pallet_directory), "-e", "inline", "-o", str(tmp_path / "run")]
    done = CliRunner().invoke(cli, run)
    assert done.exit_code == ContractError.exit_code
    assert "the worker refuses the task: a\\u001b" in done.stderr
    assert not STEERS.search(done.stderr)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_name_is_no_formula_in_a_spreadsheet(start: str) -> None:
    evil = f"{start}cmd|' /C calc'!A0"
    points = {evil: ((evil, -5.0), 0.5, None)}
    manifest, results = build_run(points, labels=[evil, "m2"])
    header, row = csv.reader(io.StringIO(to_csv(manifest, results).decode(), newline=""))
    assert not any(cell.startswith(("=", "+", "@", "\t", "\r")) for cell in [*header, *row])
    assert [cell for cell in row if cell.startswith("-")] == ["-5.0"]
    assert row[0] == f"'{evil}" or start == "\r"


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("file", "before", "after"),
    [
        ("BkgOnly.json", "50.0", HUGE),
        ("BkgOnly.json", "51.0", f"-{HUGE}"),
        ("BkgOnly.json", "0.95", f"-{HUGE}"),
        ("BkgOnly.json", "1.05", HUGE),
        ("patchset.json", "[100.0, 1.0]", f"[{HUGE}, 1.0]"),
        ("patchset.json", "36.0", HUGE),
        *(
            (file, before, before.replace(value, "[" * depth + "]" * depth))
            for depth in (400, 700, 980, 5000)
            for file, before, value in (
                ("BkgOnly.json", '"data": [50.0', "50.0"),
                ("BkgOnly.json", '"version": "1.0.0"', '"1.0.0"'),
                ("patchset.json", '"description": "toy signals"', '"toy signals"'),
                ("patchset.json", '"data": null', "null"),
                ("patchset.json", '"op": "add"', '"add"'),
            )
        ),
    ],
)
def test_odd_numbers_and_depths_are_errors_of_the_input(
    pallet_directory: Path, file: str, before: str, after: str
) -> None:
    content = (pallet_directory / file).read_text()
    assert before in content
    (pallet_directory / file).write_text(content.replace(before, after))
    with pytest.raises(InputError):
        load_pallet(pallet_directory, force=True)


def test_a_deep_directory_is_walked(
    pallet_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pallet_directory)
    for _ in range(1200):
        os.mkdir("a")  # noqa: PTH102 - paths of this length only work step by step
        os.chdir("a")
    try:
        assert len(load_pallet(pallet_directory).hypotheses) == 5
    finally:
        for _ in range(1200):
            os.chdir("..")
            os.rmdir("a")  # noqa: PTH106


NESTED = [
    "$" + "{" * 400 + "x" + "}" * 400 + "$",
    "$" + r"\sqrt{" * 90 + "x" + "}" * 90 + "$",
    "$" + "x^{" * 45 + "x" + "}" * 45 + "$",
]


@pytest.mark.parametrize("title", NESTED)
def test_nested_mathematics_is_drawn_as_text(title: str, tmp_path: Path) -> None:
    assert axis_title(title, "m1") == "m1"
    assert safe_text(title) == title.replace("$", r"\$")
    points: dict[str, Any] = {
        f"p{x}_{y}": ((float(x), float(y)), 0.01 * (x + y), None)
        for x in range(4)
        for y in range(4)
    }
    manifest, results = build_run(points, labels=[title, "m2"], title=title, axes=[title, "m2"])
    from fitserve.draw.contour import draw_contour
    from fitserve.draw.style import save_figure

    save_figure(draw_contour(manifest, results), tmp_path / "contour.png", dpi=40)
    assert (tmp_path / "contour.png").stat().st_size > 0
