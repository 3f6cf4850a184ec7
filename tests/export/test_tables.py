"""CSV, Parquet and JSON."""

from __future__ import annotations

import csv
import io
import json
import sys

import jsonschema_rs
import msgspec
import pyarrow.parquet as pq
import pytest

from fitserve.errors import MissingExtraError, RequestError, StoreError
from fitserve.export import export_run, results_schema, to_csv, to_json, to_parquet
from fitserve.kinds.base import CLS_COLUMNS as COLUMNS
from fitserve.runs.summary import mass_columns
from fitserve_contract import HypothesisResult, MuPoint

EXP = [0.001, 0.01, 0.05, 0.2, 0.5]


@pytest.fixture
def run(build_run):
    manifest, results = build_run(
        {
            'odd, "name"': ((100.0, 1.0), 1 / 3, EXP),
            "failed": ((200.0, 1.0), None, [None] * 5),
        },
        unfinished={"late": (300.0, 2.5)},
        mu=(1.0, 0.5),
    )
    first = next(iter(results))
    points = [
        MuPoint(mu=1.0, CLs_obs=1 / 3, CLs_exp=EXP),
        MuPoint(mu=0.5, CLs_obs=0.9, CLs_exp=EXP[::-1], status="suspect", reason="order"),
    ]
    results[first] = msgspec.structs.replace(results[first], points=points)
    return manifest, results


def _rows(content):
    return list(csv.DictReader(io.StringIO(content.decode())))


def test_csv_has_a_row_for_each_hypothesis_and_mu(run):
    rows = _rows(to_csv(*run))
    assert len(rows) == 6
    names = ["name", "mass_m1", "mass_m2", *list(COLUMNS)[1:]]
    assert list(rows[0]) == names
    first, second, failed, _, late, _ = rows
    assert first["name"] == 'odd, "name"'
    assert float(first["CLs_obs"]) == 1 / 3
    assert (first["mu"], second["mu"]) == ("1.0", "0.5")
    assert (second["status"], second["reason"]) == ("suspect", "order")
    assert [float(second[f"CLs_exp_{s}"]) for s in ("m2", "m1", "0", "p1", "p2")] == EXP[::-1]
    assert (failed["status"], failed["CLs_obs"]) == ("failed", "")
    assert (late["status"], late["mass_m2"], late["fit_time"]) == ("unfinished", "2.5", "")


def test_odd_labels_make_distinct_columns(build_run):
    manifest, _ = build_run({"a": ((1.0, 2.0), 0.1, None)}, labels=["m(X)", "m[X]"])
    assert mass_columns(manifest) == ["mass_m_X_", "mass_m_X__"]


def test_parquet_is_the_csv_with_types(run):
    table = pq.read_table(io.BytesIO(to_parquet(*run)))
    rows = table.to_pylist()
    for typed, text in zip(rows, _rows(to_csv(*run)), strict=True):
        assert list(typed) == list(text)
        for column, value in typed.items():
            assert text[column] == ("" if value is None else str(value))
    assert str(table.schema.field("CLs_obs").type) == "double"
    assert table.schema.field("name").metadata[b"description"] == COLUMNS["name"].encode()
    manifest = msgspec.json.decode(table.schema.metadata[b"fitserve"], type=type(run[0]))
    assert manifest == run[0]


def test_parquet_with_words_among_the_masses(build_run):
    points = {"a": ((1.0, "left"), 0.1, EXP), "b": ((2.0, 3.0), 0.1, EXP)}
    rows = pq.read_table(io.BytesIO(to_parquet(*build_run(points)))).to_pylist()
    assert [row["mass_m2"] for row in rows] == ["left", "3.0"]
    assert rows[0]["mass_m1"] == 1.0


def test_json_is_results_json(run, tmp_path, save_run):
    manifest, results = run
    content = to_json(results)
    decoded = msgspec.json.decode(content, type=dict[str, HypothesisResult])
    assert decoded == results
    assert list(decoded) == list(results)
    # The fields that scripts of the original study read.
    first = json.loads(content)['odd, "name"']
    assert first["mass_hypotheses"] == [100.0, 1.0]
    assert first["CLs_obs"] == 1 / 3
    assert first["CLs_exp"] == EXP
    assert first["fit_time"] == 0.5
    stored = json.loads(
        (save_run(tmp_path / "run", manifest, results).path / "results.json").read_text()
    )
    assert stored['odd, "name"'] == first


def test_schema_accepts_what_is_written_and_refuses_other_things(run):
    validator = jsonschema_rs.validator_for(results_schema())
    content = json.loads(to_json(run[1]))
    validator.validate(content)
    for field, value in (("CLs_obs", "0.1"), ("status", "fine"), ("points", None)):
        broken = {**content, "failed": {**content["failed"], field: value}}
        assert not validator.is_valid(broken)
    del content["failed"]["engine"]
    assert not validator.is_valid(content)


def test_documented_schema_is_up_to_date(request):
    path = request.config.rootpath / "docs" / "results.schema.json"
    assert json.loads(path.read_text()) == results_schema()


def test_every_field_and_column_is_documented(request):
    text = (request.config.rootpath / "docs" / "results.md").read_text()
    fields = [field.name for field in msgspec.structs.fields(HypothesisResult)]
    for name in [*fields, *COLUMNS]:
        assert f"`{name}`" in text, name


@pytest.mark.parametrize("format_", ["json", "csv", "parquet"])
def test_written_whole_or_not_at_all(run, tmp_path, format_):
    path = tmp_path / f"out.{format_}"
    export_run(*run, format_, path)
    content = path.read_bytes()
    export_run(*run, format_, path)
    assert path.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    with pytest.raises(StoreError, match="cannot be written"):
        export_run(*run, format_, tmp_path)
    with pytest.raises(StoreError) as caught:
        export_run(*run, format_, tmp_path / "none" / "out")
    assert f"mkdir -p {tmp_path / 'none'}" in caught.value.hint
    full = tmp_path / "full"
    full.symlink_to("/dev/full")
    with pytest.raises(StoreError, match="cannot be written"):
        export_run(*run, format_, full)


def test_standard_output(run, capfdbinary):
    from pathlib import Path

    export_run(*run, "csv", Path("-"))
    assert capfdbinary.readouterr().out == to_csv(*run)
    for format_ in ("parquet", "hepdata"):
        with pytest.raises(RequestError, match="standard output"):
            export_run(*run, format_, Path("-"))


@pytest.mark.parametrize(
    ("format_", "module", "extra"),
    [("parquet", "pyarrow", "parquet"), ("hepdata", "hepdata_lib", "hepdata")],
)
def test_missing_extra(run, tmp_path, monkeypatch, format_, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        export_run(*run, format_, tmp_path / "out")
    assert caught.value.hint == f'pip install "fitserve[{extra}]"'
    assert not list(tmp_path.iterdir())
