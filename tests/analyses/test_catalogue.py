"""The catalogue: complete, right, and drawable."""

from __future__ import annotations

import re

import pytest

from fitserve.errors import RequestError
from fitserve.pallet.download import check_address
from fitserve.pallet.source import Analysis, analysis_of, catalogue, find_analysis

# The four searches of arXiv:2103.02182: number of hypotheses and record of HEPData.
STUDY = {"1Lbb": (125, "ins1755298"), "3L-RJ": (64, "ins1771533"), "staus": (57, "ins1765529")}
STUDY["SS3L"] = (76, "ins1754675")
UNOPENED = [each for each in catalogue() if "Not opened here" in (each.note or "")]
OPENED = [each for each in catalogue() if each not in UNOPENED]


def test_it_has_the_original_study_and_the_example() -> None:
    found = {each.name: (each.archive.hypotheses, each.inspire) for each in OPENED}
    assert found.pop("example") == (60, None)
    assert found == STUDY


def test_it_has_every_likelihood_of_pyhfs_bibliography() -> None:
    records = {each.inspire for each in catalogue() if each.inspire}
    # docs/bib/HEPData_likelihoods.bib of pyhf has these and the four above.
    assert len(records) == len(UNOPENED) + len(STUDY) == 26


@pytest.mark.parametrize("analysis", UNOPENED, ids=lambda analysis: analysis.name)
def test_an_entry_that_nobody_opened_claims_nothing_of_its_content(analysis: Analysis) -> None:
    assert analysis.title
    assert re.fullmatch(r"ins\d{6,8}", analysis.inspire or "")
    assert analysis.archive.digest is None
    assert analysis.archive.hypotheses is None
    assert not analysis.labels
    assert not analysis.axes
    assert re.fullmatch(r"10\.17182/hepdata\.\d+", analysis.record or "")
    if analysis.archive.address is not None:
        check_address(analysis.archive.address, force=False)


@pytest.mark.parametrize("analysis", OPENED, ids=lambda analysis: analysis.name)
def test_an_entry_is_complete(analysis: Analysis) -> None:
    assert len(analysis.axes) == 2
    assert not analysis.labels or len(analysis.labels) == 2
    assert analysis.archive.digest is None or re.fullmatch("[0-9a-f]{64}", analysis.archive.digest)
    assert (analysis.luminosity, analysis.energy) == (139, 13)
    if analysis.name == "example":
        assert analysis.archive.address is None
        return
    assert analysis.archive.address is not None
    check_address(analysis.archive.address, force=False)
    assert re.fullmatch(r"\d{4}\.\d{5}", analysis.arxiv or "")
    assert analysis.journal


@pytest.mark.parametrize("analysis", OPENED, ids=lambda analysis: analysis.name)
def test_latex_is_drawable(analysis: Analysis) -> None:
    parser = pytest.importorskip("matplotlib.mathtext").MathTextParser("path")
    for text in (analysis.process, *analysis.axes):
        assert text.count("$") == 2
        parser.parse(text)


@pytest.mark.parametrize("name", ["1Lbb", "1lbb", "INS1755298"])
def test_analyses_are_found_by_name_or_record(name: str) -> None:
    assert find_analysis(name).name == "1Lbb"


@pytest.mark.parametrize("name", ["", "2Lbb", "None"])
def test_an_unknown_analysis_is_told_with_the_known(name: str) -> None:
    with pytest.raises(RequestError, match="no analysis") as caught:
        find_analysis(name)
    assert "1Lbb, 3L-RJ, staus, SS3L" in caught.value.evidence


def test_analyses_are_recognised_by_their_workspace() -> None:
    digest = find_analysis("staus").archive.digest
    assert digest is not None
    found = analysis_of(digest)
    assert found is not None
    assert found.name == "staus"
    assert analysis_of("0" * 64) is None


def test_names_are_unique() -> None:
    names = [each.name.casefold() for each in catalogue()]
    assert len(set(names)) == len(names)
    digests = [each.archive.digest for each in catalogue() if each.archive.digest]
    assert len(set(digests)) == len(digests)
