"""Slurm with accounting: one controller, two nodes, three partitions, accounts with limits."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from schedulerrig.hosts import sh, wait_for

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from schedulerrig.hosts import Host

__all__ = ["Slurm", "start_munge"]

_GPUS = 2
_SLURM_CONF = """\
ClusterName=rig
SlurmctldHost=head({head})
SlurmUser=slurm
AuthType=auth/munge
CredType=cred/munge
GresTypes=gpu
StateSaveLocation=/srv/slurm/state
SlurmdSpoolDir=/run/slurmd
SlurmctldPidFile=/run/slurmctld.pid
SlurmdPidFile=/run/slurmd.pid
SlurmctldLogFile=/srv/log/slurmctld.log
SlurmdLogFile=/srv/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0,bf_interval=1
PriorityType=priority/basic
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=5
KillWait=5
MinJobAge=300
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=head
AccountingStorageEnforce=associations,limits,qos
NodeName=c1,c2 CPUs=2 RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=cpu Nodes=c1,c2 Default=YES MaxTime=60 DefaultTime=10 DefMemPerCPU=100 State=UP
PartitionName=gpu Nodes=c1,c2 MaxTime=60 DefaultTime=10 DefMemPerCPU=100 State=UP
PartitionName=short Nodes=c1,c2 MaxTime=2 DefaultTime=1 DefMemPerCPU=100 State=UP
"""
_SLURMDBD_CONF = """\
AuthType=auth/munge
DbdHost=head
SlurmUser=slurm
LogFile=/srv/log/slurmdbd.log
PidFile=/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=slurm
StoragePass=rig
StorageLoc=slurm_acct_db
"""
# Users of `site.USERS`: ada and ben may use everything; cleo's account has used its hours up,
# and her other one takes a single job.
_ACCOUNTS = (
    "add account physics cluster=rig",
    "add account spent cluster=rig GrpTRESMins=cpu=0",
    "add account narrow cluster=rig MaxSubmitJobs=1",
    "add user ada,ben account=physics",
    "add user cleo account=spent,narrow DefaultAccount=narrow",
    "modify user root set DefaultAccount=root",
)
_SOCKET = "/run/mysqld/mysqld.sock"
_MARIADB = ("mariadb", "--no-defaults", f"--socket={_SOCKET}")


def start_munge(host: Host) -> None:
    """Start a host's munged, with which Slurm's messages are signed."""
    host.run("install", "-d", "-o", "munge", "-g", "munge", "-m", "0755", "/run/munge")
    options = {
        "key-file": "/srv/slurm/munge.key",
        "pid-file": "/run/munge/munged.pid",
        "log-file": "/run/munge/munged.log",
        "seed-file": "/run/munge/munged.seed",
    }
    words = [f"--{name}={value}" for name, value in options.items()]
    host.run("setpriv", "--reuid=munge", "--regid=munge", "--init-groups", "munged", *words)


class Slurm:
    """Slurm on hosts that are up.

    Parameters
    ----------
    directory
        Of the rig, outside.
    """

    def __init__(self, directory: Path, head: Host, login: Host, nodes: list[Host]) -> None:
        self._directory = directory
        self._head = head
        self._login = login
        self._nodes = nodes

    def configure(self) -> None:
        """Write everything that must be there before the hosts mount it."""
        slurm = self._directory / "slurm"
        for name in ("etc", "state", "db", "dev"):
            (slurm / name).mkdir(parents=True, mode=0o755)
        (slurm / "etc" / "slurm.conf").write_text(
            _SLURM_CONF.format(head=self._head.address, gpus=_GPUS)
        )
        (slurm / "etc" / "gres.conf").write_text(
            f"NodeName=c1,c2 Name=gpu File=/srv/slurm/dev/gpu[0-{_GPUS - 1}]\n"
        )
        for number in range(_GPUS):
            sh("mknod", slurm / "dev" / f"gpu{number}", "c", "1", "3")
        database = slurm / "etc" / "slurmdbd.conf"
        database.write_text(_SLURMDBD_CONF)
        database.chmod(0o600)
        key = slurm / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        for path, owner in (
            (database, "slurm"),
            (key, "munge"),
            (slurm / "state", "slurm"),
            (slurm / "db", "mysql"),
            (self._directory / "log", "slurm"),
        ):
            shutil.chown(path, owner, owner)

    def start(self) -> None:
        """Start every daemon, and wait until the nodes are idle."""
        starting = self._start_database()
        for host in (self._head, self._login, *self._nodes):
            start_munge(host)
        self._wait_for_database(starting)
        self._head.run("slurmdbd")
        wait_for("slurmdbd", lambda: self._sacctmgr("list", "cluster", status=None) == 0)
        self._sacctmgr("add", "cluster", "rig")
        for line in _ACCOUNTS:
            self._sacctmgr(*line.split())
        self.start_controller()
        for node in self._nodes:
            self.start_node(node)
        wait_for("idle nodes", lambda: self.idle() == len(self._nodes))

    def start_controller(self) -> None:
        self._head.run("slurmctld")

    def stop_controller(self) -> None:
        """End slurmctld as a restart of the service does."""
        pid = int(self._head.run("cat", "/run/slurmctld.pid").stdout)
        self._head.run("kill", "-TERM", pid)
        gone = ("test", "!", "-e", f"/proc/{pid}")
        wait_for("the end of slurmctld", lambda: self._head.run(*gone, status=None).returncode == 0)

    def start_node(self, node: Host) -> None:
        node.run("slurmd")

    def idle(self) -> int:
        """Return how many nodes are idle."""
        shown = self._head.run("sinfo", "-h", "-N", "-p", "cpu", "-o", "%T", status=None)
        return shown.stdout.split().count("idle")

    def jobs(self, user: str | None = None, *, form: str = "%i %T %r") -> list[list[str]]:
        """Return what squeue says of each job that is in the queue."""
        whose = ("-u", user) if user else ()
        lines = self._head.run("squeue", "-h", *whose, "-o", form).stdout.splitlines()
        return [line.split(maxsplit=2) for line in lines]

    def cancel_all(self) -> None:
        """Leave no job behind, and no node down."""
        jobs = [job for job, *_ in self.jobs()]
        if jobs:
            # A job may end by itself before it is cancelled: the queue is what is waited for.
            self._head.run("scancel", *jobs, status=None)
            wait_for("an empty queue", lambda: not self.jobs())

    def control(self, *command: object) -> str:
        return self._head.run("scontrol", *command).stdout

    def _sacctmgr(self, *words: str, status: int | None = 0) -> int:
        return self._head.run("sacctmgr", "-i", *words, status=status).returncode

    def _start_database(self) -> subprocess.Popen[str]:
        self._head.run("install", "-d", "-o", "mysql", "-g", "mysql", "/run/mysqld")
        script = f"""
        mariadb-install-db --no-defaults --user=mysql --datadir=/srv/slurm/db \\
            --auth-root-authentication-method=socket --skip-test-db > /dev/null
        exec mariadbd --no-defaults --user=mysql --datadir=/srv/slurm/db --socket={_SOCKET} \\
            --pid-file=/run/mysqld/mysqld.pid --skip-networking \\
            --innodb-buffer-pool-size=64M --innodb-lock-wait-timeout=900
        """
        return self._head.start("bash", "-ec", script, log=self._directory / "log" / "mariadb.log")

    def _wait_for_database(self, starting: subprocess.Popen[str]) -> None:
        def ready() -> bool:
            if starting.poll() is not None:
                raise RuntimeError((self._directory / "log" / "mariadb.log").read_text())
            asked = self._head.run(*_MARIADB, "-e", "select 1", status=None)
            return asked.returncode == 0

        wait_for("MariaDB", ready, 60)
        self._head.run(
            *(*_MARIADB, "-e"),
            "create database slurm_acct_db; create user slurm@localhost identified by 'rig'; "
            "grant all on slurm_acct_db.* to slurm@localhost",
        )
