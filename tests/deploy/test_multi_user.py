"""root's endpoint on a login node of Slurm: users' fits run under their own accounts.

The tests are in the order of an endpoint's life, and each goes on from the one before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from deployrig.shared import NAME, PAM, PLACE, ROOTS, Shared
from deployrig.tower import other_version
from globusrig.client import complete
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from globusrig.rig import Rig as Service
    from schedulerrig.rig import Rig

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(900)]

# Whoever has an account and is not ben.
PAM_RULES = """\
account required pam_succeed_if.so quiet user != ben
account required pam_permit.so
auth    required pam_permit.so
session required pam_permit.so
"""
# Whom PAM lets in, and who fits nothing here.
SUDOER = "cleo"
ONE = ("--patch", "X_600_0", "--engine", "pyhf", "--verify", "0")


@pytest.fixture(scope="module")
def shared(
    rig: Rig, service_there: Service, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    rig.login.run("tee", f"/etc/pam.d/{PAM}", stdin=PAM_RULES)
    shared = Shared(rig, service_there, tree, tmp_path_factory.mktemp("admin"))
    yield shared
    shared.end()
    # Users' own, which root does not take away: the next site is to find homes as they were.
    for own in (".fitserve", ".globus_compute"):
        rig.login.run("rm", "-rf", f"/home/ada/{own}")


def test_root_deploys_it_over_ssh_and_again(shared: Shared) -> None:
    said = shared("deploy")
    assert "another function is refused" in said.err
    assert "fitserve endpoints check shared" in said.err
    again = shared("deploy", "--diff")
    assert again.changed == 0, again.err
    modes = shared.rig.login.run("stat", "-c", "%a", f"/etc/fitserve/fitserve-{NAME}.env")
    assert modes.stdout.split() == ["600"]
    denied = shared.rig.login.run("ls", "/etc/fitserve", user="ada", status=2)
    assert "Permission denied" in denied.stderr


def test_a_user_fits_under_their_own_account(shared: Shared, tmp_path: Path) -> None:
    client = shared.client(shared.service.member, tmp_path)
    client("run", "example", *ONE, "-e", NAME, "-o", tmp_path / "run", timeout=600)
    complete(tmp_path / "run")

    def owners() -> set[str]:
        words = ("sacct", "-X", "-n", "-a", "-o", "user%20,jobname%60")
        lines = shared.rig.login.run(*words).stdout.splitlines()
        return {line.split()[0] for line in lines if f"parsl.fitserve-{NAME}" in line}

    # Slurm writes its accounts some time after a job has begun.
    wait_for(owners, 60, "the account of the job")
    assert owners() == {"ada"}
    found = shared.status()
    assert len(found["children"]) == 1
    pids = [one["pid"] for one in found["processes"]]
    accounts = shared.rig.login.run("ps", "-o", "user=", "-p", ",".join(map(str, pids)))
    assert "ada" in accounts.stdout.split()


def test_policy_mapping_and_pam_decide_who_is_let_in(shared: Shared, tmp_path: Path) -> None:
    service = shared.service
    for account, told in (
        (service.stranger, "authentication policy"),
        (service.admin, "the site has no account for your Globus identity"),
        (service.barred, "the site cannot start your endpoint there"),
    ):
        place = tmp_path / account.username
        place.mkdir()
        client = shared.client(account, place)
        done = client("run", "example", *ONE, "-e", NAME, "-o", place / "run", status=5)
        assert told in " ".join(done.stderr.split())
    assert not shared.rig.login.run("ps", "-u", "ben", "-o", "args=", status=None).stdout
    # What PAM said is for the administrator alone.
    logs = (f"/root/.globus_compute/fitserve-{NAME}", f"{PLACE}/fitserve-{NAME}/supervisor.log")
    assert "[PAM_" in shared.rig.login.run("grep", "-rhs", "PAM", *logs).stdout


def test_another_version_serves_and_makes_way_again(
    shared: Shared, tree: Path, tmp_path: Path
) -> None:
    before = shared.status()
    shared("upgrade", tree=other_version(tree, tmp_path / "tree", "0.2.0"))
    after = shared.status()
    assert after["versions"]["fitserve"] == "0.2.0"
    # The same package and configuration of the endpoint: users' own go on below it.
    assert after["endpoint"]["pid"] == before["endpoint"]["pid"]
    client = shared.client(shared.service.member, tmp_path)
    client("run", "example", *ONE, "-e", NAME, "-o", tmp_path / "run", timeout=600)
    complete(tmp_path / "run")
    shared("rollback")
    back = shared.status()
    assert back["versions"]["release"] == before["versions"]["release"]


def test_nothing_of_roots_is_left(shared: Shared) -> None:
    said = shared("destroy", "--yes")
    assert "ended" in said.out
    wait_for(lambda: not shared.rig.slurm.jobs(), 20, "the end of all jobs")
    _nothing_is_left(shared)


def _nothing_is_left(shared: Shared) -> None:
    assert shared.files() == shared.before
    left = shared.rig.login.run("ps", "-e", "-o", "args=").stdout
    assert "globus-compute" not in left
    assert "sitekit" not in left


# -- by sudo -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_sudo(shared: Shared, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """Return the same site for an administrator who logs in as an ordinary user."""
    place = tmp_path_factory.mktemp("sudoer")
    sudoer = Shared(shared.rig, shared.service, shared.admin.tree, place, user=SUDOER)
    yield sudoer
    sudoer.end()
    sudoer.let(SUDOER, may=False)


def test_whom_sudo_does_not_let_touches_nothing(by_sudo: Shared) -> None:
    said = by_sudo("deploy", status=5)
    assert "Missing sudo password" in said.err
    assert "log in as root, or as a user whom sudo lets become root without a password" in said.err
    assert said.changed == 0
    assert by_sudo.files() == by_sudo.before
    assert by_sudo.home(SUDOER) == set()


def test_whom_sudo_lets_deploys_as_root_does(by_sudo: Shared) -> None:
    login = by_sudo.rig.login
    by_sudo.let(SUDOER)
    said = by_sudo("deploy")
    assert "another function is refused" in said.err
    endpoint = by_sudo.status()["endpoint"]
    owner = login.run("ps", "-o", "user=", "-p", endpoint["pid"]).stdout
    assert owner.split() == ["root"]
    assert login.run("find", *ROOTS, "-user", SUDOER).stdout == ""
    again = by_sudo("deploy", "--diff")
    assert again.changed == 0, again.err


def test_whom_sudo_lets_takes_it_away(by_sudo: Shared) -> None:
    by_sudo("destroy", "--yes")
    _nothing_is_left(by_sudo)
    assert by_sudo.home(SUDOER) == set()
