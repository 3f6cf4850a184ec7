"""The generator of models in tension with their data."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pyhf
import pytest

from tension.__main__ import main
from tension.models import SPREADS, draw
from tension.stored import read, stored

if TYPE_CHECKING:
    from pathlib import Path

TYPES = {"histosys", "lumi", "normfactor", "normsys", "shapefactor", "shapesys", "staterror"}


def test_a_number_and_a_seed_are_a_model() -> None:
    assert draw(3, 8) == draw(3, 8)
    digests = {draw(seed, number).digest for seed in (3, 4) for number in range(50)}
    assert len(digests) == 100


def test_models_are_what_pyhf_takes_and_have_all_types_of_modifier() -> None:
    types, channels, bins = set(), set(), set()
    for number in range(0, 600, 20):
        spec = draw(1, number).patched
        model = pyhf.Workspace(spec, validate=number < 100).model(validate=False)
        types |= {kind for _, kind in model.config.modifiers}
        channels.add(len(spec["channels"]))
        bins |= set(model.config.channel_nbins.values())
        assert model.config.poi_name == "mu"
        assert model.config.suggested_bounds()[model.config.poi_index] == (0, 10)
    assert types == TYPES
    assert channels == {1, 2, 3, 4}
    assert bins == {1, 2, 3, 4, 5, 6}


def test_a_background_alone_has_no_signal() -> None:
    for number in range(0, 200, 20):
        names = pyhf.Workspace(draw(1, number).workspace, validate=False).samples
        assert "signal" not in names
        assert names


def test_right_values_of_another_model_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "right.jsonl"
    kept = stored(1, 4)
    kept.append(path)
    msgspec.structs.replace(kept, digest="0" * 16).append(path)
    first, second = read(path)
    assert first == kept
    assert first.model == draw(1, 4)
    with pytest.raises(ValueError, match="another now"):
        _ = second.model


def test_the_command_prints_a_table_and_keeps_right_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "right.jsonl"
    arguments = ["--seed", "1", "--only", "4,10", "--by", "plain", "--right", str(path)]
    main(arguments)
    first = capsys.readouterr().out
    assert [one.number for one in read(path)] == [4, 10]
    # An answer that is wrong, according to what the file says.
    [one, other] = read(path)
    path.unlink()
    one.append(path)
    wrong = msgspec.structs.replace(other.right, CLs_obs=other.right.CLs_obs + 0.1)
    msgspec.structs.replace(other, right=wrong).append(path)
    main(arguments)
    output = capsys.readouterr()
    rows = [text.splitlines()[-1].strip("| ").split(" | ") for text in (first, output.out)]
    silent = [str(int(spread == SPREADS[other.number % 4])) for spread in SPREADS]
    assert rows[0] == ["plain", "2", *["0"] * 10]
    assert rows[1] == ["plain", "2", "1", "0", "0", "1", *silent, "0", "0"]
    assert "plain 10: wrong, ok, CLs off by 0.1" in output.err
    assert len(read(path)) == 2
