"""A small site on one machine: real Slurm, Torque's commands over it, and a simulated PBS Pro.

Every host is a set of namespaces (network, processes, mounts, host name) with an address of
its own on one switch, so that mistakes of addresses and of shared directories are real, and a
host that dies takes all its processes with it. Users, their homes, keys and every
configuration exist in those namespaces only: nothing of the machine outside is changed.

===== ======================================================================
login sshd, cron, Slurm's commands and Debian's qsub, qstat and qdel over Slurm
head  slurmctld, slurmdbd and its MariaDB
c1 c2 compute nodes of Slurm, 2 CPUs and 2 pretended GPUs each
pbs   sshd, cron, ada's systemd, and OpenPBS' qsub, qstat, qdel (`schedulerrig.pbs`)
p1 p2 compute nodes of PBS, 2 CPUs each
===== ======================================================================

Inside, ``/home`` and ``/srv`` are shared by all hosts, and ``/tmp`` and ``/run`` are a host's
own; what root writes below ``/etc``, ``/opt``, ``/usr/local`` and ``/var/lib`` stays on that
host, as do tables of cron. ``/srv/fitserve`` is the checkout, ``/srv/venv`` an environment with
both distributions.
There is no network beyond the switch; the machine outside is on it as ``admin``.

It needs root and Debian's packages (`schedulerrig.rig.PACKAGES`). By hand::

    PYTHONPATH=tests/rigs python -m schedulerrig up
    PYTHONPATH=tests/rigs python -m schedulerrig on --user ada login sinfo
    PYTHONPATH=tests/rigs python -m schedulerrig down
"""
