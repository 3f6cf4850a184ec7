"""Bring a rig up by hand, run a command on one of its hosts, take it down."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from schedulerrig.rig import Rig, missing


def main() -> int:
    parser = argparse.ArgumentParser(prog="schedulerrig", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="bring a rig up")
    commands.add_parser("list", help="say which rigs there are")
    down = commands.add_parser("down", help="take rigs down")
    down.add_argument("number", nargs="?", help="of the rig; all if none is given")
    on = commands.add_parser("on", help="run a command on a host of the last rig")
    on.add_argument("--user", default="root", help="root if none is given")
    on.add_argument("host")
    on.add_argument("words", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    if absent := missing():
        print(absent, file=sys.stderr)  # noqa: T201
        return 1
    rigs = Rig.all()
    if asked.command == "up":
        started = time.monotonic()
        rig = Rig.new()
        rig.up()
        print(f"{rig.directory}: up in {time.monotonic() - started:.1f} s")  # noqa: T201
        print(f"ssh -F {rig.ssh_config} -l ada login")  # noqa: T201
    elif asked.command == "list":
        for rig in rigs:
            print(rig.directory, *(name for name, host in rig.hosts.items() if host.is_up))  # noqa: T201
    elif asked.command == "down":
        for rig in rigs:
            if asked.number in {None, rig.directory.name.rpartition("-")[2]}:
                rig.down()
    else:
        words = asked.words or ["bash", "-l"]
        return subprocess.call(rigs[-1].hosts[asked.host].command(words, user=asked.user))
    return 0


if __name__ == "__main__":
    sys.exit(main())
