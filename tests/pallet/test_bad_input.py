"""Each kind of bad input gives one error that says what is wrong and what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from fitserve.errors import FitserveError, InputError, RequestError
from fitserve.pallet.load import load_pallet
from fitserve.runs.prepare import pallet_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[dict, dict], Any]


def _sample(workspace: dict) -> dict:
    return workspace["channels"][0]["samples"][0]


def _signal(patchset: dict) -> dict:
    return patchset["patches"][0]["patch"][0]["value"]


def _other(name: str, modifiers: list[dict]) -> dict:
    return {"name": name, "data": [9.0, 9.0], "modifiers": modifiers}


def _modifier(type_: str, data: Any, name: str = "new") -> dict:
    return {"name": name, "type": type_, "data": data}


def _parameter(**content: Any) -> Change:
    return lambda workspace, _: workspace["measurements"][0]["config"]["parameters"].append(content)


def _background(type_: str, data: Any, name: str = "new") -> Change:
    return lambda workspace, _: _sample(workspace)["modifiers"].append(_modifier(type_, data, name))


def _operation(**operation: Any) -> Change:
    return lambda _, patchset: patchset["patches"][1]["patch"].append(operation)


def _twice(key: str) -> Change:
    return lambda workspace, _: workspace[key].append(workspace[key][0])


WRONG: dict[str, tuple[Change, str]] = {
    # The schema
    "no measurements": (
        lambda w, _: w.pop("measurements"),
        r"violates pyhf's schema of a workspace.*\"measurements\" is a required property",
    ),
    "a yield that is text": (
        lambda w, _: _sample(w).update(data=["50", 52.0]),
        r"/channels/0 'SR'/samples/0 'background'/data/0: \"50\" is not of type \"number\"",
    ),
    "a yield that is true": (
        lambda w, _: _sample(w).update(data=[True, 52.0]),
        r"true is not of type \"number\"",
    ),
    "a channel without bins": (
        lambda w, _: _sample(w).update(data=[]),
        r"/channels/0 'SR'/samples/0 'background'/data: \[\] has less than 1 item",
    ),
    "a modifier without its data": (
        _background("normsys", {"hi": 1.1}),
        r"/modifiers/2 'new'/data: \"lo\" is a required property",
    ),
    "an unknown modifier": (
        _background("splines", None),
        r"/modifiers/2 'new': .*splines.* is not valid",
    ),
    "another version of the schema": (
        lambda w, _: w.update(version="9.9.9"),
        r"/version: \"1.0.0\" was expected",
    ),
    "a version that is a path": (
        lambda w, _: w.update(version="../1.0.0"),
        r"/version: \"1.0.0\" was expected",
    ),
    "a patch name with a space": (
        lambda _, p: p["patches"][0]["metadata"].update(name="S 100"),
        r"schema of a patchset.*/patches/0 'S 100'/metadata/name",
    ),
    "an unknown operation": (
        _operation(op="merge", path="/channels/0"),
        r"schema of a patchset.*/patches/1 'S_200'/patch/1",
    ),
    # Patches
    "no patches": (lambda _, p: p["patches"].clear(), r"has no patches"),
    "the same name twice": (
        lambda _, p: p["patches"][1]["metadata"].update(name="S_100"),
        r"patches have the same name.*'S_100', 2 times",
    ),
    "a value too many": (
        lambda _, p: p["patches"][0]["metadata"]["values"].append(3),
        r"one value for each label.*'S_100' has 3 values, the patchset 2 labels",
    ),
    "no such channel": (
        lambda _, p: p["patches"][0]["patch"][0].update(path="/channels/7/samples/0"),
        r"does not apply.*'S_100', operation 0 \(add /channels/7/samples/0\): there are 1 channels",
    ),
    "no such position": (
        lambda _, p: p["patches"][0]["patch"][0].update(path="/channels/0/samples/2"),
        r"does not apply.*operation 0 \(add .*\): channel 'SR' has 1 samples",
    ),
    "a signal that is no sample": (
        lambda _, p: _signal(p).pop("data"),
        r"sample that violates pyhf's schema.*'S_100', operation 0.*\"data\" is a required",
    ),
    "a signal with too few bins": (
        lambda _, p: _signal(p).update(data=[1.0]),
        r"different numbers of bins.*'S_100', channel 'SR', sample 'signal' has 1 bins",
    ),
    "a signal named as a background": (
        lambda _, p: _signal(p).update(name="background"),
        r"two samples of a channel have the same name.*'S_100'",
    ),
    "a signal that makes the yield negative": (
        lambda _, p: _signal(p).update(data=[-70.0, 1.0]),
        r"negative expected yield.*'S_100', channel 'SR', bin 0: -20",
    ),
    "a path that is not there": (
        _operation(op="remove", path="/channels/0/samples/9"),
        r"does not apply.*'S_200', operation 1 \(remove /channels/0/samples/9\)",
    ),
    "a path into a number": (
        _operation(op="add", path="/channels/0/samples/0/data/0/x", value=1),
        r"does not apply.*'S_200', operation 1",
    ),
    "a test that fails": (
        _operation(op="test", path="/version", value="2.0.0"),
        r"does not apply.*'S_200', operation 1 \(test /version\)",
    ),
    "a patch that removes what is needed": (
        _operation(op="remove", path="/channels/0/samples/0/data"),
        r"makes a workspace that violates pyhf's schema.*'S_200'.*\"data\" is a required",
    ),
    "a patch that empties the observations": (
        _operation(op="replace", path="/observations/0/data", value=[1.0]),
        r"different numbers of bins.*'S_200', channel 'SR' has 1 observations and 2 bins",
    ),
    # Yields
    "negative observations": (
        lambda w, _: w["observations"][0].update(data=[-1.0, 48.0]),
        r"negative or unbounded observed data.*'SR': -1",
    ),
    "a negative background": (
        lambda w, _: _sample(w).update(data=[-50.0, 52.0]),
        r"negative expected yield of a bin, summed over samples.*'SR', bin 0: -50",
    ),
    "a yield that no double holds": (
        lambda w, _: _sample(w).update(data=[10**400, 52.0]),
        r"a yield is too large for a number",
    ),
    # Channels
    "channels of the same name": (_twice("channels"), r"two channels have the same name.*'SR'"),
    "observations twice": (_twice("observations"), r"observed data twice.*'SR'"),
    "samples of the same name": (
        lambda w, _: w["channels"][0]["samples"].append(
            {"name": "background", "data": [1.0, 1.0], "modifiers": []}
        ),
        r"two samples of a channel have the same name",
    ),
    "no observations of a channel": (
        lambda w, _: w["observations"][0].update(name="elsewhere"),
        r"a channel has no observed data.*'SR'",
    ),
    "observations of other bins": (
        lambda w, _: w["observations"][0].update(data=[51.0]),
        r"different numbers of bins.*'SR' has 1 observations and 2 bins",
    ),
    "samples of other bins": (
        lambda w, _: w["channels"][0]["samples"].append(
            {"name": "other", "data": [1.0], "modifiers": []}
        ),
        r"samples of a channel have different numbers of bins.*'other' has 1 bins, .* 2",
    ),
    # Modifiers
    "histosys of other bins": (
        _background("histosys", {"lo_data": [49.0, 51.0], "hi_data": [51.0]}),
        r"another number of bins than its sample.*histosys 'new' has 1 instead of 2",
    ),
    "staterror of other bins": (
        _background("staterror", [1.0]),
        r"another number of bins than its sample.*staterror 'new' has 1 instead of 2",
    ),
    "normsys of zero": (
        _background("normsys", {"lo": 0.0, "hi": 1.1}),
        r"a normsys factor is not positive.*'new': 0",
    ),
    "types that cannot share": (
        _background("normfactor", None, name="norm"),
        r"cannot share a parameter.*'norm' is normsys or histosys and normfactor",
    ),
    "shapesys of two samples": (
        lambda w, _: w["channels"][0]["samples"].append(
            {
                "name": "other",
                "data": [1.0, 1.0],
                "modifiers": [_modifier("shapesys", [0.1, 0.1], name="uncorr_bkg")],
            }
        ),
        r"a shapesys modifier cannot be shared.*'uncorr_bkg'",
    ),
    # Measurements
    "measurements of the same name": (
        _twice("measurements"),
        r"two measurements have the same name.*'main'",
    ),
    "luminosity without auxdata": (
        _background("lumi", None, name="lumi"),
        r"does not say what lumi is.*'main', parameter 'lumi'.*no inits, bounds, auxdata, sigmas",
    ),
    "a parameter twice": (
        lambda w, p: [_parameter(name="norm")(w, p) for _ in range(2)],
        r"configures a parameter twice.*'norm'",
    ),
    "half a bound": (
        _parameter(name="norm", bounds=[[0.0]]),
        r"bounds are not pairs.*'norm'",
    ),
    "bounds upside down": (
        _parameter(name="norm", bounds=[[5.0, -5.0]]),
        r"bounds are not pairs.*'norm'",
    ),
    "inits out of bounds": (
        _parameter(name="norm", inits=[7.0], bounds=[[-5.0, 5.0]]),
        r"inits lie outside the bounds.*'norm'",
    ),
    "more inits than bounds": (
        _parameter(name="norm", inits=[0.0, 0.0], bounds=[[-5.0, 5.0]]),
        r"inits and bounds are of different lengths",
    ),
    "a sigma of zero": (_parameter(name="norm", sigmas=[0.0]), r"sigmas are not positive"),
    "an init outside pyhf's own bounds": (
        _parameter(name="norm", inits=[7.0]),
        r"starts outside its bounds.*'norm': 7 is not within -5 to 5 \(pyh.*next: add bounds",
    ),
    "bounds without pyhf's own init": (
        _parameter(name="mu", bounds=[[2.0, 9.0]]),
        r"outside its bounds.*patch 'S_100'.*'mu': 1 is not within 2 to 9 .*next: add inits",
    ),
    "a value for one bin of two": (
        _parameter(name="uncorr_bkg", inits=[1.0]),
        r"another number of values.*'uncorr_bkg': 1 inits for 2 components of a shapesys",
    ),
    "sigmas of a normsys": (
        _parameter(name="norm", sigmas=[1.0]),
        r"what a parameter of that type does not have.*'norm': sigmas of a normsys",
    ),
    "luminosity in the patches alone": (
        lambda _, p: _signal(p)["modifiers"].append(_modifier("lumi", None, "lumi")),
        r"does not say what lumi is.*patch 'S_100', measurement 'main', parameter 'lumi'",
    ),
    "a Poisson constraint with negative counts": (
        _parameter(name="uncorr_bkg", auxdata=[-1.0, 4.0]),
        r"negative counts or factors.*'uncorr_bkg': auxdata from -1",
    ),
    "a slash in a staterror's name": (
        _background("staterror", [1.0, 1.0], "stat/SR"),
        r"a staterror with a slash in its name.*'stat/SR'",
    ),
    "a staterror shared unevenly": (
        lambda w, p: [
            _background("staterror", [1.0, 2.0], "st")(w, p),
            w["channels"].append({"name": "CR", "samples": [_other("background", [])]}),
            w["observations"].append({"name": "CR", "data": [9.0, 9.0]}),
            w["channels"][1]["samples"].append(
                _other("other", [_modifier("staterror", [1.0, 1.0], "st")])
            ),
        ],
        r"staterror is shared unevenly.*'st' is in channel 'CR', but not for sample 'background'",
    ),
    "an init that no double holds": (
        _parameter(name="norm", inits=[-(10**400)]),
        r"inits are too large",
    ),
}


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_makes_no_likelihood_is_refused(
    broken: Callable[[Change], Path], change: Change, told: str
) -> None:
    directory = broken(change)
    # Not even --force makes a likelihood of it.
    for force in (False, True):
        with pytest.raises(InputError) as caught:
            load_pallet(directory, force=force)
        assert caught.value.exit_code == 3
        assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)
        assert caught.value.hint


DOUBTFUL: dict[str, tuple[Change, str]] = {
    "the same mass values twice": (
        lambda _, p: p["patches"][1]["metadata"].update(values=[100.0, 1.0]),
        r"patches have the same mass values: \[100.0, 1.0\], 2 times",
    ),
    "the same modifier twice": (
        _background("normsys", {"lo": 0.5, "hi": 1.5}, name="norm"),
        r"a sample has the same modifier twice.*: channel 'SR', sample .*, normsys 'norm'",
    ),
    "events where none can be": (
        lambda w, _: (
            _sample(w).update(data=[0.0, 52.0]),
            _sample(w)["modifiers"].pop(0),
        ),
        r"events are observed where no background is expected.*'SR', bin 0: 51 observed",
    ),
}


@pytest.mark.parametrize(("change", "told"), DOUBTFUL.values(), ids=DOUBTFUL.keys())
def test_what_the_user_may_know_better_is_recorded(
    broken: Callable[[Change], Path], change: Change, told: str
) -> None:
    directory = broken(change)
    with pytest.raises(InputError) as caught:
        load_pallet(directory)
    assert "--force" in caught.value.hint
    pallet = load_pallet(directory, force=True)
    assert len(pallet.forced) == 1
    assert re.fullmatch(told, pallet.forced[0]), pallet.forced
    assert pallet_record(pallet).forced == list(pallet.forced)


NOTED: dict[str, tuple[Change, str]] = {
    "a negative sample": (
        lambda w, _: w["channels"][0]["samples"].append(
            {"name": "interference", "data": [-2.0, 1.0], "modifiers": []}
        ),
        r"negative nominal yields: channel 'SR', sample 'interference' has -2",
    ),
    "a negative signal bin": (
        lambda _, p: _signal(p).update(data=[-0.5, 8.0]),
        r"negative nominal yields: patch 'S_100', channel 'SR', sample 'signal' has -0.5",
    ),
    "a negative uncertainty": (
        _background("staterror", [-1.0, 1.0]),
        r"negative statistical uncertainties: .*staterror 'new': -1",
    ),
    "observations of no channel": (
        lambda w, _: w["observations"].append({"name": "VR", "data": [3.0]}),
        r"observed data of no channel are not used: 'VR'",
    ),
    "parameters under ROOT's names": (
        lambda w, p: [
            _parameter(name=name, fixed=True)(w, p)
            for name in ("alpha_norm", "gamma_uncorr_bkg", "mu")
        ],
        r"a measurement configures par.*'alpha_norm' in .* 'norm'\?.*'gamma_unc.* 'uncorr_bkg'\?\)",
    ),
    "an empty patch": (
        lambda _, p: p["patches"][4]["patch"].clear(),
        r"patches that change nothing: without a signal, CLs is 1: patch 'S_500'",
    ),
}


@pytest.mark.parametrize(("change", "told"), NOTED.values(), ids=NOTED.keys())
def test_what_published_data_have_is_noted(
    broken: Callable[[Change], Path], change: Change, told: str
) -> None:
    pallet = load_pallet(broken(change))
    assert len(pallet.notes) == 1
    assert re.fullmatch(told, pallet.notes[0]), pallet.notes
    assert not pallet.forced


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_patchset_for_another_workspace_is_refused(
    write: Callable[..., Path], workspace: dict, patchset: dict, algorithm: str
) -> None:
    wrong = {"sha256": "0" * 64, "md5": "0" * 32}[algorithm]
    patchset["metadata"]["digests"] = {algorithm: wrong}
    directory = write({"BkgOnly.json": workspace, "patchset.json": patchset})
    with pytest.raises(InputError, match="made for another background-only workspace") as caught:
        load_pallet(directory)
    assert wrong in caught.value.evidence
    pallet = load_pallet(directory, force=True)
    assert not pallet.digest_verified
    assert not pallet_record(pallet).digest_verified
    assert len(pallet.forced) == 1


TEXTS = {
    "nothing": (b"", "the file is empty"),
    "text": (b"channels: []", "is not JSON"),
    "half": (b'{"channels": [{"name": "SR"', "is not complete JSON"),
    "not a number": (b'{"channels": [\n1.5, NaN]}', "has the value NaN.*line 2"),
    "infinite": (b'{"channels": [-Infinity]}', "has the value -Infinity"),
    "too large": (b'{"channels": [1e999]}', "too large for a yield"),
    "another encoding": ('{"channels": [1e]}'.encode("utf-16"), "is not JSON"),
    "half a character": (b'{"channels": ["\xff"]}', "is not JSON in UTF-8"),
    "deep": (b'{"channels": ' + b"[" * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize(("raw", "told"), TEXTS.values(), ids=TEXTS.keys())
@pytest.mark.parametrize("name", ["BkgOnly.json", "patchset.json"])
def test_what_is_not_json_is_told_with_its_file(
    write: Callable[..., Path], sound: dict[str, bytes], raw: bytes, told: str, name: str
) -> None:
    if name == "patchset.json":
        raw = raw.replace(b"channels", b"patches")
    with pytest.raises(InputError) as caught:
        load_pallet(write(sound | {name: raw}))
    assert name in caught.value.cause
    assert re.search(told, str(caught.value), re.DOTALL), str(caught.value)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no background-only workspace"),
        ({"README.md": b"# hello"}, "no JSON file, but: README.md"),
        ({"patchset.json": {"patches": []}}, "no background-only workspace"),
        ({"a.json": {"x": 1}, "b.json": [1, 2]}, r"a.json \(neither workspace nor patches\)"),
    ],
)
def test_what_is_missing_is_said(
    write: Callable[..., Path], tmp_path: Path, files: dict[str, Any], told: str
) -> None:
    (tmp_path / "pallet").mkdir()
    with pytest.raises(InputError, match=f"(?s){told}"):
        load_pallet(write(files))
    assert load_pallet("example").name == "example"


def test_what_does_not_exist_is_told_with_what_could_be_meant() -> None:
    with pytest.raises(InputError, match="there is no pallet") as caught:
        load_pallet("no-such-pallet")
    assert "1Lbb" in caught.value.evidence
    assert caught.value.hint == "fitserve analyses list"


@pytest.mark.parametrize(
    "source", ["", "\0", "x" * 5000, "ftp://example.org/x", "10.1234", "https://[x"]
)
def test_odd_names_are_no_pallets(source: str) -> None:
    with pytest.raises(FitserveError):
        load_pallet(source)


def test_unreadable_files_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "pallet.zip"
    path.write_bytes(b"PK\x03\x04")

    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(InputError, match="cannot be read") as caught:
        load_pallet(path)
    assert caught.value.evidence == "Permission denied"


def test_an_unknown_region_is_a_wrong_request(
    write: Callable[..., Path], sound: dict[str, bytes]
) -> None:
    with pytest.raises(RequestError) as caught:
        load_pallet(write(sound), region="SRA")
    assert caught.value.exit_code == 4
