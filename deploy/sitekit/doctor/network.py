"""Examine addresses, ports and the way to the internet."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from sitekit.doctor.findings import failed, good, warned

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient
    from sitekit.site import Site

__all__ = ["GLOBUS_HOSTS", "MESSAGE_HOST", "Answering", "address_of", "clock", "interfaces", "look"]

GLOBUS_HOSTS = (("compute.api.globus.org", 443), ("auth.globus.org", 443))
"""Reached by HTTPS: directly or through a proxy."""
MESSAGE_HOST = "compute.amqps.globus.org"
"""Broker of tasks and results: the endpoint's library for it (pika) supports no proxy."""
WORKER_PORTS = range(54000, 55000)
"""Where Parsl listens for workers unless a port is fixed."""

_SIOCGIFADDR = 0x8915
_DIAL_SECONDS = 10.0
_GOOD_SKEW = 5
_BAD_SKEW = 180


def interfaces() -> dict[str, str]:
    """Return the IPv4 address of each interface of this machine that has one."""
    addresses = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            with contextlib.suppress(OSError):
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
                addresses[name] = socket.inet_ntoa(answer[20:24])
    return addresses


def address_of(site: Site) -> str | None:
    """Return the address that workers connect to, or None if this machine has no such address."""
    interface = site.network.interface
    if interface:
        return interfaces().get(interface)
    address = site.network.address
    if address:
        return str(address)
    if site.network.method == "hostname":
        with contextlib.suppress(OSError):
            return socket.gethostbyname(socket.gethostname())
        return None
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
        contextlib.suppress(OSError),
    ):
        # Nothing is sent: connecting a datagram socket only chooses the route.
        probe.connect(("192.0.2.1", 9))
        return str(probe.getsockname()[0])
    return None


def look(patient: Patient) -> Iterator[Check]:
    """Examine the workers' address, their ports and the cloud service."""
    site = patient.site
    addresses = interfaces()
    shown = ", ".join(f"{name} {address}" for name, address in addresses.items())
    address = address_of(site)
    if address is None:
        field = "network.interface" if site.network.interface else "network"
        way = site.network.interface or site.network.method
        yield failed(
            "address",
            f"this machine has no address by {way}",
            evidence=f"there are: {shown}",
            field=field,
            change="the interface of this machine that compute nodes reach",
        )
    elif address not in addresses.values() and not address.startswith("127."):
        yield warned(
            "address",
            f"{address} is not an address of this machine",
            evidence=f"there are: {shown}",
            field="network.address",
            change="interface: the one that compute nodes reach; or leave it, if that address is "
            "forwarded here",
        )
    else:
        yield good("address", f"workers connect to {address}")
    yield _port(patient)
    yield from _outbound(patient)


def _port(patient: Patient) -> Check:
    fixed = patient.site.network.worker_port
    ports = [fixed] if fixed else WORKER_PORTS
    with contextlib.suppress(OSError), _listening(list(ports)) as (_, port):
        return good("ports", f"workers can connect, for instance to port {port}")
    if fixed:
        return failed(
            "ports",
            f"port {fixed} is taken",
            evidence=f"bind to {fixed}: address in use",
            field="network.worker_port",
            change="another port that the firewall leaves open, or end what listens there",
        )
    return failed(
        "ports",
        "no port of 54000-55000 is free",
        evidence="bind: address in use",
        change="end old endpoints and workers of yours on this machine",
    )


@contextlib.contextmanager
def _listening(ports: list[int]) -> Iterator[tuple[socket.socket, int]]:
    last = OSError("no port to try")
    for port in ports:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.bind(("", port))
            listener.listen()
        except OSError as error:
            listener.close()
            last = error
            continue
        with listener:
            yield listener, port
        return
    raise last


def _outbound(patient: Patient) -> Iterator[Check]:
    through = patient.site.network.proxy
    proxy = through.https if through else None
    for host, port in patient.hosts:
        yield _reached(host, port, proxy)
    if patient.messages is not None:
        yield _reached_directly(*patient.messages, proxy)


def _reached(host: str, port: int, proxy: str | None) -> Check:
    started = time.monotonic()
    trouble = _dial(host, port, proxy)
    name = f"{host}:{port}"
    if not trouble:
        return good("internet", f"{name} is reached in {time.monotonic() - started:.1f} s")
    if proxy:
        return failed(
            "internet",
            f"{name} cannot be reached through the proxy",
            evidence=trouble,
            field="network.proxy",
            change="the proxy's address, or none where there is a direct connection",
        )
    return failed(
        "internet",
        f"{name} cannot be reached, and without it there is no cloud service",
        evidence=trouble,
        field="network.proxy",
        change="proxy: {https: 'http://HOST:PORT'} if the site has one, or ask for "
        "outbound port 443; driving the site directly works without",
    )


def _reached_directly(host: str, port: int, proxy: str | None) -> Check:
    """Check the connection for tasks and results, which cannot use the proxy."""
    started = time.monotonic()
    trouble = _dial(host, port, None)
    name = f"{host}:{port}"
    if not trouble:
        return good("internet", f"{name} is reached in {time.monotonic() - started:.1f} s")
    cause = f"{name} cannot be reached, and without it no task arrives"
    if proxy and not _dial(host, port, proxy):
        cause = f"{name} is only reached through the proxy, which its library cannot use"
    return failed(
        "internet",
        cause,
        evidence=f"directly: {trouble}",
        field="endpoint.amqp_port",
        change=f"ask for direct access from here to {host}, port 443 or 5671, and name that port; "
        "driving the site directly works without",
    )


def _dial(host: str, port: int, proxy: str | None) -> str:
    """Return why no connection opens; an empty text if one does."""
    target = urlsplit(proxy) if proxy else None
    try:
        if target is None:
            socket.create_connection((host, port), timeout=_DIAL_SECONDS).close()
            return ""
        place = (target.hostname or "", target.port or 80)
        with socket.create_connection(place, timeout=_DIAL_SECONDS) as connection:
            connection.sendall(f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            status = connection.recv(200).decode(errors="replace").splitlines()
    except OSError as error:
        return str(error)
    answer = status[0] if status else "nothing"
    return "" if " 200 " in f"{answer} " else f"the proxy answers: {answer}"


class Answering:
    """A listener that a node can dial back to, and that answers with what it receives.

    Attributes
    ----------
    port
        Where it listens; None if no port is free.
    heard
        When it last received something, in seconds since 1970.
    """

    def __init__(self, port: int | None) -> None:
        self.port: int | None = None
        self.heard: float | None = None
        self._stop = threading.Event()
        self._ready = threading.Event()
        self._ports = [port] if port else list(WORKER_PORTS)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        """Start to listen; ``port`` stays None if no port is free."""
        self._thread.start()
        self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening."""
        self._stop.set()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            with _listening(self._ports) as (listener, self.port):
                self._ready.set()
                listener.settimeout(0.2)
                while not self._stop.is_set():
                    with contextlib.suppress(OSError):
                        connection, _ = listener.accept()
                        with connection:
                            connection.settimeout(5)
                            message = connection.recv(200)
                            self.heard = time.time()
                            connection.sendall(message)
        except OSError:
            self._ready.set()


def clock(theirs: float, ours: float, who: str) -> Check:
    """Compare two clocks, in seconds since 1970."""
    skew = theirs - ours
    if abs(skew) <= _GOOD_SKEW:
        return good("clock", f"{who} and this machine agree to {abs(skew):.0f} s")
    make = failed if abs(skew) > _BAD_SKEW else warned
    return make(
        "clock",
        f"the clock of {who} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
        evidence=f"Globus drops messages that are off by {_BAD_SKEW} s",
        change="ask the administrators to check the time service (chrony, ntp)",
    )
