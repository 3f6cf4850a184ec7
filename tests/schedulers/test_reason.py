"""Why an endpoint's block waits, asked of its scheduler by ssh with the user's own key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from schedulerrig.hosts import wait_for
from schedulerrig.site import VENV

if TYPE_CHECKING:
    from schedulerrig.rig import Rig

pytestmark = pytest.mark.schedulers

ASK = """
import sys
from fitserve.endpoints.globus.backend import waiting_reason
from fitserve.endpoints.cards import SiteCard
card = SiteCard(
    card_version=1, name="Rig", endpoint_id="", scheduler=sys.argv[1],
    login_host=sys.argv[2] or None,
)
print(waiting_reason(card))
"""


def _asked(
    rig: Rig, host: str, login_host: str, user: str = "ada", scheduler: str = "slurm"
) -> str:
    asked = (f"{VENV}/bin/python", "-c", ASK, scheduler, login_host)
    return rig.hosts[host].run(*asked, user=user).stdout.strip()


def test_the_reason_is_squeues(quiet: Rig) -> None:
    submit = ("sbatch", "--nodes=2", "--exclusive", "--wrap", "sleep 600")
    quiet.login.run(*submit, user="ben")
    wait_for("a full cluster", lambda: quiet.slurm.idle() == 0)
    quiet.login.run(*submit, user="ada")
    wait_for(
        "a reason",
        lambda: any(job[1:] in (["PENDING", "Resources"], ["PENDING", "Priority"])
                    for job in quiet.slurm.jobs("ada")),
    )  # fmt: skip
    told = "waiting in the queue of Rig (slurm)"
    # c1 has Slurm's commands too, but is not the host that the card names: it asks by ssh.
    for host in ("login", "c1"):
        assert _asked(quiet, host, "login").removeprefix(told) in {": Resources", ": Priority"}
    # Nobody's job but one's own, no host that the card does not name, none that cannot be asked.
    assert _asked(quiet, "c1", "login", user="cleo") == told
    assert _asked(quiet, "c1", "") == told
    assert _asked(quiet, "c1", "p1") == told
    assert _asked(quiet, "c1", "-oProxyCommand=touch /tmp/ran") == told
    quiet.hosts["c1"].run("test", "!", "-e", "/tmp/ran")  # noqa: S108
    # Torque's qstat over the same jobs; ben's, which runs, is not ada's.
    told = told.replace("slurm", "torque")
    for host in ("login", "c1"):
        assert _asked(quiet, host, "login", scheduler="torque").startswith(told)
    assert _asked(quiet, "c1", "login", user="cleo", scheduler="torque") == told


def test_the_reason_is_the_comment_of_pbs(rig: Rig) -> None:
    submit = ("qsub", "-l", "select=1:ncpus=2", "--", "/bin/sleep", "600")
    jobs = [rig.pbs.run(*submit, user="ben").stdout.strip() for _ in range(2)]
    jobs.append(rig.pbs.run(*submit, user="ada").stdout.strip())
    try:
        told = "waiting in the queue of Rig (pbspro)"
        reason = "Not Running: Insufficient amount of resource: ncpus"
        wait_for("its comment", lambda: reason in rig.pbs.run("qstat", "-f").stdout)
        for host in ("pbs", "p1"):
            assert _asked(rig, host, "pbs", scheduler="pbspro") == f"{told}: {reason}"
        assert _asked(rig, "p1", "pbs", user="cleo", scheduler="pbspro") == told
    finally:
        rig.pbs.run("qdel", *jobs)
