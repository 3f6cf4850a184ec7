"""What another user of the machine has put into a shared directory is not used or waited for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fitserve_worker.kernel.jit_cache import JitCache
from fitserve_worker.outbox import Outbox
from fitserve_worker.trust import trusted

DIGEST = "a" * 64


@pytest.fixture(autouse=True)
def _no_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """Return a directory of ours in one that anybody may write to, and replace things in."""
    tmp_path.chmod(0o777)
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    return own


def test_a_directory_that_others_can_replace_is_not_trusted(shared: Path) -> None:
    assert trusted(shared) is None
    assert trusted(shared / "below") is None
    shared.parent.chmod(0o1777)
    assert trusted(shared) == shared
    shared.parent.chmod(0o755)
    assert trusted(shared) == shared
    shared.chmod(0o770)
    assert trusted(shared) is None


@pytest.mark.parametrize(("owner", "is_trusted"), [(0, True), (2, True), (100, False)])
def test_a_directory_below_another_persons_is_not_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: int, *, is_trusted: bool
) -> None:
    own = tmp_path / "theirs" / "own"
    own.mkdir(parents=True)
    assert trusted(own) == own
    real = Path.stat

    def stat(path: Path, **options: bool) -> os.stat_result:
        found = real(path, **options)
        if path.name != "theirs":
            return found
        changed = list(found)
        changed[4] = owner
        return os.stat_result(changed)

    monkeypatch.setattr(Path, "stat", stat)
    assert (trusted(own) is not None) == is_trusted


def test_where_a_link_leads_is_trusted_and_not_the_link(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    link = tmp_path / "link"
    link.symlink_to(own)
    assert trusted(link) == own


def test_a_group_may_write_above_only_if_it_is_the_users_own(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared.parent.chmod(0o770)
    group = shared.parent.stat().st_gid
    for number, expected in ((group, shared), (group + 1, None)):
        monkeypatch.setattr("fitserve_worker.trust._own_group", lambda number=number: number)
        assert trusted(shared) == expected


def test_in_a_pod_all_volumes_are_the_pods_own(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "192.0.2.1")
    assert trusted(shared) == shared


def test_programs_are_not_kept_where_others_can_replace_them(
    shared: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    fine = tmp_path_factory.mktemp("fine")
    monkeypatch.setattr("tempfile.tempdir", str(fine))
    assert JitCache(shared).publish() == 0
    assert JitCache(fine)._shared is not None
    assert JitCache(shared)._shared is None
    monkeypatch.setattr("tempfile.tempdir", str(shared))
    cache = JitCache(fine)
    assert cache.private is None
    with cache.first_use("program"):
        pass
    assert cache.publish() == 0


def test_answers_are_not_taken_from_where_others_can_replace_them(shared: Path) -> None:
    outbox = Outbox(shared / "outbox", "1")
    assert not outbox.put(DIGEST, "answer")
    shared.parent.chmod(0o1777)
    assert outbox.put(DIGEST, "answer")
    assert outbox.get(DIGEST) == "answer"
    shared.parent.chmod(0o777)
    assert outbox.get(DIGEST) is None


@pytest.mark.parametrize("what", ["pipe", "link", "link to it all"])
def test_what_bears_the_name_of_a_private_directory_stops_no_fit(tmp_path: Path, what: str) -> None:
    place, elsewhere = tmp_path / "fitserve-jit-abc", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "lock").write_text("")
    if what == "link to it all":
        place.symlink_to(elsewhere)
    else:
        place.mkdir()
        if what == "pipe":
            os.mkfifo(place / "lock")
        else:
            (place / "lock").symlink_to(elsewhere / "lock")
    code = "from fitserve_worker.kernel.jit_cache import JitCache; print(JitCache(None).private)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path))
    assert (elsewhere / "lock").exists()
