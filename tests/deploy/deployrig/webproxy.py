"""A site's web proxy: tinyproxy, on the machine outside."""

from __future__ import annotations

import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

from schedulerrig.hosts import wait_for

if TYPE_CHECKING:
    from schedulerrig.rig import Rig

__all__ = ["PORT", "WebProxy"]

PORT = 3128


class WebProxy:
    """The only way from hosts to the web.

    Attributes
    ----------
    address
        As hosts reach it.
    """

    def __init__(self, rig: Rig) -> None:
        place = rig.directory / "tinyproxy"
        place.mkdir()
        self._log = place / "log"
        outside = f"{rig.switch.network}.1"
        self.address = f"http://{outside}:{PORT}"
        lines = (f"Listen {outside}", f"Port {PORT}", "LogLevel Connect", "MaxClients 100")
        (place / "conf").write_text("\n".join(lines) + "\n")
        # Not in the background, so that it logs to its standard output.
        command = ("tinyproxy", "-d", "-c", str(place / "conf"))
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_for("the proxy", lambda: self._listens(outside), 20)

    @staticmethod
    def installed() -> bool:
        return shutil.which("tinyproxy") is not None

    def asked(self) -> list[str]:
        """Return what it was asked for, as methods and addresses."""
        requests = [line for line in self._log.read_text().splitlines() if "): " in line]
        return [line.partition("): ")[2] for line in requests if " HTTP/1" in line]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _listens(self, address: str) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((address, PORT)) == 0
