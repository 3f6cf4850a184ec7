"""What runs on the target speaks to the service through the site's proxy."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from sitekit.load import load_site
from sitekit.target.deployed import Deployed, Manifest, write_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]


class Proxy:
    """Notes where it is asked to connect to, and refuses.

    Attributes
    ----------
    asked
        First lines of what it was sent.
    """

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._heard = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    self.asked.append(connection.recv(2000).decode().splitlines()[0])
                    self._heard.set()
                    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")

    def wait(self) -> None:
        assert self._heard.wait(100), "nobody has asked the proxy"

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.close()


@pytest.fixture
def deployed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proxy: Proxy) -> Deployed:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "mine.yaml"
    network = {"proxy": {"https": proxy.address, "none_for": ["localhost"]}}
    path.write_text(yaml.safe_dump({"extends": "slurm", "network": network}))
    deployed = Deployed(load_site(str(path))[0])
    deployed.state.mkdir(parents=True)
    manifest = Manifest(endpoint=deployed.name, site="mine")
    write_manifest(deployed.path(deployed.places.manifest), manifest, current="1-ab")
    return deployed


def _credentials(deployed: Deployed, *more: str) -> None:
    path = deployed.path(deployed.places.credentials)
    path.parent.mkdir(parents=True, exist_ok=True)
    identity = "11111111-2222-4333-8444-555555555555"
    lines = (f"GLOBUS_COMPUTE_CLIENT_ID={identity}", "GLOBUS_COMPUTE_CLIENT_SECRET=s", *more)
    path.write_text("\n".join(lines) + "\n")
    path.chmod(0o600)


def test_registering_goes_through_the_proxy(deployed: Deployed, proxy: Proxy) -> None:
    """Whatever else the account has for a proxy."""
    _credentials(deployed)
    home = Path(os.environ["HOME"])
    command = [sys.executable, "-m", "sitekit.target", str(home / "mine.yaml"), "register"]
    environment = {
        "HOME": str(home),
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT / "deploy"),
        "https_proxy": "http://127.0.0.1:9",
    }
    with subprocess.Popen(command, env=environment) as registering:
        proxy.wait()
        registering.kill()  # it would try several times
    assert [line.split()[:2] for line in proxy.asked[:1]] == [["CONNECT", "auth.globus.org:443"]]


def test_a_proxy_with_a_password_is_taken_from_the_credentials(
    deployed: Deployed, proxy: Proxy
) -> None:
    _credentials(deployed)
    found = deployed.variables()
    assert (found["HTTPS_PROXY"], found["NO_PROXY"]) == (proxy.address, "localhost")
    assert deployed.environment()["HTTPS_PROXY"] == proxy.address
    _credentials(deployed, "HTTPS_PROXY=http://me:word@proxy:3128")
    assert deployed.variables()["HTTPS_PROXY"] == "http://me:word@proxy:3128"
