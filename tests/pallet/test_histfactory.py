"""HistFactory's XML, as ROOT writes it, becomes the model that ROOT makes of it."""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from fitserve.errors import InputError, MissingExtraError
from fitserve.pallet import histfactory
from fitserve.pallet.load import load_pallet

if TYPE_CHECKING:
    from collections.abc import Callable

uproot = pytest.importorskip("uproot")

HERE = Path(__file__).parent / "histfactory"


@pytest.fixture
def analysis(tmp_path: Path) -> Path:
    """Return a directory with the XML of ROOT, and a ROOT file of the same histograms."""
    folder = tmp_path / "analysis"
    shutil.copytree(HERE / "config", folder / "config")
    (folder / "data").mkdir()
    _histograms(folder / "data" / "histograms.root")
    return folder


def _histograms(path: Path) -> None:
    with uproot.recreate(path) as file:
        for channel, histograms in json.loads((HERE / "histograms.json").read_text()).items():
            for name, (contents, *errors) in histograms.items():
                count = len(contents)
                squares = np.array(errors[0] if errors else [0.0] * count) ** 2
                file[f"{channel}/{name}"] = uproot.writing.identify.to_TH1x(
                    fName=name,
                    fTitle=name,
                    data=np.array([0.0, *contents, 0.0]),
                    fEntries=float(count),
                    fTsumw=float(sum(contents)),
                    fTsumw2=float(squares.sum()),
                    fTsumwx=0.0,
                    fTsumwx2=0.0,
                    fSumw2=np.array([0.0, *squares, 0.0]),
                    fXaxis=uproot.writing.identify.to_TAxis(
                        fName="xaxis", fTitle="", fNbins=count, fXmin=0.0, fXmax=float(count)
                    ),
                )


def _edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _content(workspace: dict[str, Any]) -> dict[str, Any]:
    """Return channels, samples and modifiers by their names."""
    return {
        channel["name"]: {
            sample["name"]: (
                sample["data"],
                {(one["type"], one["name"]): one["data"] for one in sample["modifiers"]},
            )
            for sample in channel["samples"]
        }
        for channel in workspace["channels"]
    }


def _numbers(content: Any) -> Any:
    """Return the same with all numbers rounded to what a sum of squares leaves of them."""
    if isinstance(content, dict):
        return {key: _numbers(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_numbers(one) for one in content]
    return float(f"{content:.12g}") if isinstance(content, float) else content


def test_xml_and_hs3_of_one_model_are_one_workspace(analysis: Path) -> None:
    ours, theirs = load_pallet(analysis), load_pallet(HERE / "hs3.json")
    assert _numbers(_content(ours.workspace)) == _numbers(_content(theirs.workspace))
    assert ours.measurements == {"main": "mu"}
    [hypothesis] = ours.hypotheses
    assert (hypothesis.name, hypothesis.patch) == ("main", [])
    configured = {
        one["name"]: one for one in ours.workspace["measurements"][0]["config"]["parameters"]
    }
    assert configured["held"]["fixed"]
    assert configured["mu"]["bounds"] == [[0.0, 10.0]]
    assert configured["lumi"]["sigmas"] == [0.02]


def test_the_file_itself_may_be_given_and_an_archive(analysis: Path, tmp_path: Path) -> None:
    expected = load_pallet(analysis).workspace
    assert load_pallet(analysis / "config" / "main.xml").workspace == expected
    for kind in ("zip", "gztar"):
        archive = shutil.make_archive(str(tmp_path / "packed"), kind, analysis)
        assert load_pallet(archive).workspace == expected


def test_a_file_for_each_mass_point_makes_a_pallet(analysis: Path) -> None:
    for mass in (300, 400):
        for name in ("main.xml", "main_SR.xml"):
            target = analysis / "config" / name.replace("main", f"point_{mass}")
            shutil.copy(analysis / "config" / name, target)
        _edit(analysis / "config" / f"point_{mass}.xml", "main_SR", f"point_{mass}_SR")
        _edit(analysis / "config" / f"point_{mass}_SR.xml", 'Low="0.9"', f'Low="0.{mass}"')
    (analysis / "config" / "main.xml").unlink()
    pallet = load_pallet(analysis, masses="point_{m}")
    assert [(one.name, one.values) for one in pallet.hypotheses] == [
        ("point_300", (300,)),
        ("point_400", (400,)),
    ]
    names = {one["name"] for channel in pallet.workspace["channels"] for one in channel["samples"]}
    assert names == {"bkg", "fake", "other", "qcd"}


def test_absolute_paths_are_found_by_their_ends(analysis: Path) -> None:
    expected = load_pallet(analysis).workspace
    for path in (analysis / "config").iterdir():
        path.write_text(path.read_text().replace('="data/', '="/afs/cern.ch/user/data/'))
    assert load_pallet(analysis).workspace == expected


def test_the_threshold_and_type_of_statistical_uncertainties_count(analysis: Path) -> None:
    region = analysis / "config" / "main_SR.xml"
    _edit(region, 'RelErrorThreshold="0.03"', 'RelErrorThreshold="0.06"')
    samples = _content(load_pallet(analysis).workspace)["SR"]
    assert samples["bkg"][1]["staterror", "staterror_SR"] == [0.0, 1.68, 0.0]
    _edit(region, 'ConstraintType="Gaussian"', 'ConstraintType="Poisson"')
    with pytest.raises(InputError, match="Poisson constraints, which pyhf does not have"):
        load_pallet(analysis)
    assert load_pallet(analysis, force=True).forced
    # ROOT's default is Poisson.
    text = region.read_text().splitlines()
    region.write_text("\n".join(line for line in text if "StatErrorConfig" not in line))
    with pytest.raises(InputError, match="Poisson constraints"):
        load_pallet(analysis)


@pytest.mark.parametrize(
    ("file", "old", "new", "expected"),
    [
        ("main.xml", "<POI>", "<ConstraintTerm Type='Gamma'>a</ConstraintTerm><POI>",
         "pyhf does not have a ConstraintTerm"),
        ("main.xml", "<POI>mu</POI>", "<POI>mu kfake</POI>", "one parameter of interest"),
        ("main.xml", "alpha_held", "gamma_stat_SR_bin_0", "pyhf does not hold single bins"),
        ("main.xml", 'Lumi="1"', 'Lumi="inf"', "Lumi is no number"),
        ("main.xml", "./config/main_SR.xml", "../config/main_SR.xml", "leads up"),
        ("main.xml", "./config/main_SR.xml", "/etc/passwd", "not in what was given"),
        ("main.xml", "./config/main_SR.xml", "config/main.xml", "an Input is not a Channel"),
        ("main_SR.xml", '"data" InputFile="data/', '"data" InputFile="../../data/', "leads up"),
        ("main_SR.xml", 'HistoName="bkg"', 'HistoName="nothing"', "a histogram is not in its file"),
        ("main_SR.xml", 'High="1.06"', 'High="1e999"', "High is no number"),
        ("main_SR.xml", 'High="1.06"', 'Hgih="1.06"', "High is missing"),
        ("main_SR.xml", "<OverallSys", "<HistoFactor Name='a'/><OverallSys", "HistoFactor"),
        ("main_SR.xml", "<OverallSys", "<Oops/><OverallSys", "there is no Oops in a Sample"),
        ("main_SR.xml", "<Data ", "<Data HistoName='b'/><Data ", "a channel needs one Data"),
        ("main_SR.xml", "</Channel>", "", "is not XML"),
        ("main_CR.xml", 'ConstraintType="Gaussian"', 'ConstraintType="Gamma"', "neither Gaussian"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_file_and_line(
    analysis: Path, file: str, old: str, new: str, expected: str
) -> None:
    _edit(analysis / "config" / file, old, new)
    with pytest.raises(InputError, match="line ") as caught:
        load_pallet(analysis)
    told = str(caught.value)
    assert expected in told
    assert f"config/{file}" in told


_LAUGHS = "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 10))


@pytest.mark.parametrize(
    "subset",
    [
        f"[<!ENTITY l0 'ha'>{_LAUGHS}]",
        "[<!ENTITY x SYSTEM 'file:///etc/passwd'>]",
        "[<!ENTITY % x SYSTEM 'http://127.0.0.1:1/x.dtd'> %x;]",
    ],
)
def test_entities_are_refused_before_they_do_anything(analysis: Path, subset: str) -> None:
    path = analysis / "config" / "main.xml"
    _edit(path, "'HistFactorySchema.dtd'>", f"'HistFactorySchema.dtd' {subset}>")
    with pytest.raises(InputError, match="declares an entity"):
        load_pallet(analysis)


def test_a_link_out_of_the_directory_is_not_followed(analysis: Path, tmp_path: Path) -> None:
    data = analysis / "data" / "histograms.root"
    outside = tmp_path / "elsewhere.root"
    data.rename(outside)
    data.symlink_to(outside)
    with pytest.raises(InputError, match="not in what was given"):
        load_pallet(analysis)


@pytest.mark.parametrize("content", [b"", b"root", b"root" + bytes(300), b"\x00" * 100])
def test_a_broken_root_file_is_an_error_of_the_input(analysis: Path, content: bytes) -> None:
    (analysis / "data" / "histograms.root").write_bytes(content)
    with pytest.raises(InputError, match=r"cannot be read|not in its file"):
        load_pallet(analysis)


def test_damaged_root_files_end_in_an_error_or_a_model(analysis: Path) -> None:
    path = analysis / "data" / "histograms.root"
    whole = path.read_bytes()
    generator = np.random.default_rng(5)
    for _ in range(4):
        damaged = np.frombuffer(whole, np.uint8).copy()
        damaged[generator.integers(0, damaged.size, 40)] = generator.integers(0, 256, 40)
        path.write_bytes(damaged.tobytes())
        with contextlib.suppress(InputError):
            assert load_pallet(analysis, force=True).bins == {"SR": 3, "CR": 2}


def test_nesting_and_size_are_bounded(analysis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histfactory, "_LARGEST_XML", 100)
    with pytest.raises(InputError, match="larger than any HistFactory file"):
        load_pallet(analysis)


def test_time_is_bounded(analysis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histfactory, "_CHILD", "import time; time.sleep(60)")
    monkeypatch.setattr(histfactory, "_SECONDS", 0.2)
    with pytest.raises(InputError, match="longer than"):
        load_pallet(analysis)


def test_without_uproot_the_extra_is_named(analysis: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = histfactory._CHILD.replace("import readxml", "import no_such_module")
    monkeypatch.setattr(histfactory, "_CHILD", child)
    with pytest.raises(MissingExtraError) as caught:
        load_pallet(analysis)
    assert "fitserve[root]" in caught.value.hint


def test_other_xml_is_no_concern_of_a_pallet(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    path = write(sound | {"notes.xml": b"<Combination><!ENTITY", "page.xml": b"<html/>"})
    assert len(load_pallet(path).hypotheses) == 5
