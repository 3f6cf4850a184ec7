"""The service on login nodes: the SDK looks for it on localhost."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from globusrig.processes import AMQP_PORT
from globusrig.rig import wait_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from schedulerrig.hosts import Host
    from schedulerrig.rig import Rig

__all__ = ["SERVICE_PORT", "Tunnels"]

SERVICE_PORT = 5000
_PORTS = (SERVICE_PORT, AMQP_PORT)


class Tunnels:
    """Lets login nodes reach the service's ports as their own."""

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        self._open: dict[str, subprocess.Popen[bytes]] = {}

    def open(self, host: Host, ports: Sequence[int] = _PORTS) -> None:
        """Open the way of a host, anew if it was rebooted."""
        self._close(host.name)
        forwards = [word for port in ports for word in ("-R", f"{port}:127.0.0.1:{port}")]
        config = str(self._rig.ssh_config)
        command = ("ssh", "-F", config, "-l", "root", "-N", *forwards, host.name)
        self._open[host.name] = subprocess.Popen(command, stdin=subprocess.DEVNULL)
        for port in ports:
            reach = ("bash", "-c", f"exec 3<> /dev/tcp/127.0.0.1/{port}")
            wait_for(
                lambda asked=reach: host.run(*asked, status=None).returncode == 0,
                20,
                f"port {port} on {host.name}",
            )

    def close(self) -> None:
        for name in list(self._open):
            self._close(name)

    def _close(self, name: str) -> None:
        process = self._open.pop(name, None)
        if process is not None:
            process.terminate()
            process.wait(10)
