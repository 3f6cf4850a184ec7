"""Site files are found, read by the YAML 1.2 rules, merged, and refused with a line."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import pytest

from fitserve.errors import BackendError
from sitekit.cli import commands
from sitekit.load import CONFIGS, find_site, load_site, shipped_sites
from sitekit.problems import SiteError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sitekit.load import Loaded


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_every_site_file_is_shipped() -> None:
    files = {path.stem for path in (CONFIGS / "sites").iterdir()}
    assert set(shipped_sites()) == files
    original_study = {"expanse", "bluewaters", "river"}
    documented_by_globus = {
        "anvil",
        "bebop",
        "bridges-2",
        "delta",
        "faster",
        "frontera",
        "midway",
        "perlmutter",
        "polaris",
        "stampede3",
        "uchicago-ai",
    }
    generic = {"local", "slurm", "slurm-gpu", "pbspro", "torque", "kubernetes", "kubernetes-gpu"}
    assert original_study | documented_by_globus | generic <= files


@pytest.mark.parametrize("name", shipped_sites())
def test_a_shipped_site_says_where_its_facts_are_from(name: str) -> None:
    site, warnings = load_site(name)
    assert warnings == []
    assert site.sources
    assert site.verified == "not verified on the machine"


def test_a_walltime_stays_text_and_no_is_not_false(tmp_path: Path) -> None:
    path = _write(
        tmp_path / "a.yaml",
        "extends: slurm\nscheduler: {account: no}\nblocks:\n  walltime: 01:30:00\n  max: 0x10\n",
    )
    with pytest.raises(SiteError) as refused:
        load_site(path)
    [problem] = refused.value.problems
    assert problem.field == "blocks.max"
    assert '"0x10"' in problem.expected
    path = _write(
        tmp_path / "b.yaml",
        "extends: slurm\nscheduler: {account: no}\nblocks: {walltime: 01:30:00}\n",
    )
    site, _ = load_site(path)
    assert site.scheduler.account == "no"
    assert site.blocks.walltime == "01:30:00"


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("extends: slurm\nblocks: {max: 1}\nblocks: {max: 2}\n", 3, "once"),
        ("extends: slurm\nnode: &n {cores: 2}\nlimits: *n\n", 2, "aliases"),
        ("extends: slurm\ndescription: !!python/name:os.system x\n", 2, "tag"),
        ("extends: slurm\ndescription: !secret x\n", 2, "tag"),
        ('extends: slurm\ndescription: "{{ 7 * 7 }} of them"\n', 2, "template"),
        ("extends: slurm\ndescription: a [% raw %] b\n", 2, "template"),
        ("extends: slurm\nblocks: {max: 1\n", 3, "YAML"),
        ("extends: slurm\nblocks:\n\tmax: 1\n", 3, "YAML"),
        ("extends: slurm\nblocks: {? [a] : 1}\n", 2, "name"),
        ("extends: [slurm]\n", 1, "name or path"),
    ],
)
def test_what_is_not_a_plain_mapping_is_refused_at_its_line(
    tmp_path: Path, text: str, line: int, words: str
) -> None:
    path = _write(tmp_path / "bad.yaml", text)
    with pytest.raises(SiteError) as refused:
        load_site(path)
    [problem] = refused.value.problems
    assert problem.line == line
    assert words in problem.expected or words in problem.field
    assert refused.value.exit_code == 3


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"", b"- a\n- b\n", b"just text", b"a: 1\n" * 100_000]
)
def test_files_of_another_kind_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.yaml"
    path.write_bytes(content)
    with pytest.raises(SiteError):
        load_site(path)


def test_deep_nesting_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "deep.yaml", "a: " + "[" * 5000 + "]" * 5000)
    with pytest.raises(SiteError):
        load_site(path)


def test_an_unknown_name_suggests_close_ones() -> None:
    with pytest.raises(SiteError, match="did you mean expanse"):
        find_site("expnse")
    with pytest.raises(SiteError, match=r"known: .*polaris"):
        find_site("zzzzzz")
    with pytest.raises(SiteError, match=r"there is no site file ./nothing\.yaml"):
        find_site("./nothing.yaml")


def test_a_site_of_ones_own_hides_a_shipped_one_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = _write(tmp_path / "expanse.yaml", "extends: expanse\nscheduler: {account: abc123}\n")
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.setenv("FITSERVE_SITE_PATH", os.pathsep.join([str(other), str(tmp_path)]))
    site, [warning] = load_site("expanse")
    assert str(own) in warning
    assert "hides" in warning
    assert site.scheduler.account == "abc123"
    assert site.network.interface == "ib0"


def test_extends_merges_and_keeps_each_line(tmp_path: Path) -> None:
    base = _write(
        tmp_path / "base.yaml", "extends: slurm\nscheduler:\n  account: one\n  partition: p\n"
    )
    path = _write(
        tmp_path / "mine.yaml",
        "extends: ./base.yaml\n\nscheduler:\n  partition: null\n"
        "  directives: [--hint=compute_bound]\n",
    )
    site, _ = load_site(path)
    assert site.scheduler.account == "one"
    assert site.scheduler.partition is None
    assert site.scheduler.directives == ["--hint=compute_bound"]
    assert site.origin.where("scheduler.account").file.endswith(base.name)
    assert site.origin.where("scheduler.account").line == 3
    assert site.origin.where("scheduler.directives").line == 5
    assert site.origin.where("blocks.walltime").file.endswith("slurm.yaml")


def test_extends_in_a_circle_is_refused(tmp_path: Path) -> None:
    _write(tmp_path / "a.yaml", "extends: ./b.yaml\n")
    _write(tmp_path / "b.yaml", "extends: ./a.yaml\n")
    with pytest.raises(SiteError, match="itself"):
        load_site(tmp_path / "a.yaml")
    with pytest.raises(SiteError, match=r"no site file \./gone\.yaml"):
        load_site(_write(tmp_path / "c.yaml", "extends: ./gone.yaml\n"))


SECRETS = [
    "# -----BEGIN OPENSSH PRIVATE KEY-----",
    "description: see https://me:hunter2@example.org/x",
    "# aws AKIAIOSFODNN7EXAMPLE",
    "# ghp_abcdefghijklmnopqrstuvwxyz0123456789",
    "# eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.x",
    "# c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0MTI=",
    "environment: {variables: {MY_PASSWORD: hunter22}}",
    "# client_secret: abcdefgh",
    "endpoint: {client_secret: x}",
    "environment: {variables: {HF_TOKEN: abc}}",
    "network: {proxy: {https: 'http://user:pass@proxy:3128'}}",
]


@pytest.mark.parametrize("line", SECRETS)
def test_what_looks_like_a_secret_is_refused_and_not_repeated(tmp_path: Path, line: str) -> None:
    path = _write(tmp_path / "leaky.yaml", f"extends: slurm\n\n{line}\n")
    with pytest.raises(SiteError) as refused:
        load_site(path)
    assert [problem.line for problem in refused.value.problems] == [3]
    shown = str(refused.value)
    for secret in ("hunter2", "AKIAIOSF", "ghp_abc", "eyJhbG", "c2VjcmV0", "abcdefgh", "pass@"):
        assert secret not in shown


def test_words_that_only_sound_secret_are_let_through(write_site: Callable[..., Path]) -> None:
    path = write_site("kubernetes", kubernetes={"pull_secret": "registry"})
    path.write_text(
        "# tokens, keys and passwords: none here\n"
        f"# image digest sha256:{'ab' * 32}\n" + path.read_text(encoding="utf-8"),
        encoding="utf-8",
    )
    site, _ = load_site(path)
    assert site.pods.pull_secret == "registry"  # noqa: S105 -- its name


@pytest.mark.parametrize(
    "words",
    ["check slurm", "flat slurm --out .", "cluster values river", "deploy local", "status river"],
)
def test_a_command_loads_its_site_once(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = []

    def counting(site: str) -> Loaded:
        loaded.append(site)
        return load_site(site)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("FITSERVE_ANSIBLE_VENV", str(tmp_path))
    monkeypatch.setattr("sitekit.load.load_site", counting)
    # There is neither Ansible nor kubectl: both are asked once the site is known.
    with contextlib.suppress(BackendError):
        commands.main(words.split(), standalone_mode=False)
    assert len(loaded) == 1
