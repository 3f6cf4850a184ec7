"""The rig as a whole: broker, stand-in service, accounts, and endpoints from site files."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import yaml

import waiting
from fitserve import __version__
from globusrig.processes import AMQP_PORT, Child, RabbitMQ, listens
from sitekit.load import load_site
from sitekit.render import Rendering, render_site, write_files

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[3]
SERVICE = "http://localhost:5000"
"""Fixed by the SDK for its environment ``local``."""
NOBODY = 65534
HEARTBEAT = 5


class Account:
    """A Globus identity with client credentials, and a home directory."""

    def __init__(self, username: str, home: Path, groups: tuple[str, ...] = ()) -> None:
        self.id = str(uuid.uuid4())
        self.secret = uuid.uuid4().hex
        self.username = username
        self.groups = groups
        self.home = home
        home.mkdir(mode=0o755, exist_ok=True)

    def environment(self) -> dict[str, str]:
        """Return the environment of this account's processes."""
        base = {name: os.environ[name] for name in ("PATH", "LANG", "CI") if name in os.environ}
        xdg = {
            name: str(self.home / name.lower())
            for name in ("XDG_STATE_HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME")
        }
        return {
            **base,
            **xdg,
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "GLOBUS_SDK_ENVIRONMENT": "local",
            "GLOBUS_SDK_SERVICE_URL_AUTH": f"{SERVICE}/",
            "GLOBUS_COMPUTE_CLIENT_ID": self.id,
            "GLOBUS_COMPUTE_CLIENT_SECRET": self.secret,
            "PYTHONWARNINGS": "default",
            "JAX_PLATFORMS": "cpu",
        }


class Rig:
    """Broker and service in a directory that other local users can enter."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fitserve-rig-"))
        self.directory.chmod(0o755)
        self.group = str(uuid.uuid4())
        self.policy = str(uuid.uuid4())
        self.admin = Account("admin@site.example", self.directory / "admin")
        self.user = Account("nobody@site.example", self.directory / "user", (self.group,))
        self.member = Account("ada@site.example", self.directory / "member")
        self.barred = Account("ben@site.example", self.directory / "barred")
        self.stranger = Account("eve@elsewhere.example", self.directory / "stranger")
        self.broker = RabbitMQ(self.directory / "broker")
        self._service: Child | None = None
        self.settings: dict[str, Any] = {}

    def start(self) -> None:
        assert not listens(AMQP_PORT), f"port {AMQP_PORT} is in use"
        assert not listens(5000), "port 5000 is in use"
        self.broker.start()
        self.start_service()

    def stop(self) -> None:
        self.stop_service()
        self.broker.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    # -- the service ----------------------------------------------------------------------

    def start_service(self, **settings: Any) -> None:
        """Start the stand-in on what it remembers; settings hold until changed."""
        self.settings |= settings
        accounts = (self.admin, self.user, self.member, self.barred, self.stranger)
        config = {
            "state": str(self.directory / "service.db"),
            "port": 5000,
            "amqp": RabbitMQ.url,
            "clients": {
                one.id: {
                    "secret": one.secret,
                    "username": one.username,
                    "groups": list(one.groups),
                }
                for one in accounts
            },
            "policies": {self.policy: ["site.example"]},
            **self.settings,
        }
        path = self.directory / "service.json"
        path.write_text(json.dumps(config))
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests" / "globus")}
        command = [sys.executable, "-m", "globusrig.standin", str(path)]
        self._service = Child(command, self.directory / "service.log", environment)
        self._service.wait_until(lambda: listens(5000), 20, "the stand-in service")

    def stop_service(self) -> None:
        if self._service is not None:
            self._service.kill()
            self._service = None

    def ask(self, route: str, doc: dict[str, Any] | None = None) -> Any:
        """Call one of the stand-in's own routes."""
        body = None if doc is None else json.dumps(doc).encode()
        request = urllib.request.Request(f"{SERVICE}/_rig/{route}", data=body)  # noqa: S310
        with urllib.request.urlopen(request) as answer:  # noqa: S310
            return json.load(answer)

    @contextlib.contextmanager
    def fault(self, name: str, **doc: Any) -> Iterator[None]:
        """Switch a fault on: ``status``, ``slow``, ``drop`` or ``mute`` (see `standin`)."""
        self.ask("fault", {"name": name, "fault": doc})
        try:
            yield
        finally:
            self.ask("fault", {"name": name, "fault": None})

    def submissions(self, since: float = 0.0) -> list[dict[str, Any]]:
        """Return the submissions that the service has seen, with bytes and status."""
        return [
            one
            for one in self.ask("requests")
            if one["route"].endswith("/submit") and one["at"] >= since
        ]


class Endpoint:
    """A real endpoint, rendered from a site file and started by its own command."""

    def __init__(
        self,
        rig: Rig,
        venv: Path,
        name: str,
        *,
        owner: Account | None = None,
        fields: dict[str, Any] | None = None,
        functions: list[str] | None = None,
        as_root: bool = False,
        path: str | None = None,
    ) -> None:
        self.rig = rig
        self.venv = venv
        self.name = f"fitserve-{name}"
        self.owner = owner or rig.admin
        self.home = rig.directory / name
        self.home.mkdir(mode=0o755)
        self._as_root = as_root
        self._path = path
        self._site = self._write_site(name, fields or {})
        self._functions = functions or []
        self._child: Child | None = None
        self.id: str | None = None
        self.configuration = self.home / ".globus_compute" / self.name

    def _write_site(self, name: str, fields: dict[str, Any]) -> Path:
        site = {
            "extends": "local",
            "description": f"the test rig's {name}",
            "blocks": {"init": 1, "min": 0, "max": 1, "strategy_seconds": 1},
            "node": {"cores": 2},
            "workers": {"device": "cpu", "per_node": 2},
            "endpoint": {
                "venv": str(self.venv),
                "heartbeat_seconds": HEARTBEAT,
                "amqp_port": AMQP_PORT,
            },
            **fields,
        }
        path = self.home / f"{name}.yaml"
        path.write_text(yaml.safe_dump(site))
        return path

    def render(self) -> None:
        """Write the endpoint's directory, as `make render` does."""
        site, _ = load_site(str(self._site))
        rendering = Rendering(
            __version__, self.home, self.id, self._functions[0] if self._functions else None
        )
        files, _ = render_site(site, rendering)
        write_files(files, self.configuration)
        if self._as_root:
            # Its user has no home directory on a test machine.
            extra = f"HOME: {self.home}\n"
            with (self.configuration / "user_environment.yaml").open("a") as stream:
                stream.write(extra)

    @property
    def card(self) -> Path:
        return self.configuration / "site-card.json"

    def environment(self) -> dict[str, str]:
        path = self._path or f"{self.venv}/bin:{os.environ['PATH']}"
        home = str(self.home)
        return {**self.owner.environment(), "PATH": path, "HOME": home, "TMPDIR": home}

    def command(self, program: str, *arguments: str) -> list[str]:
        """Return a command of the endpoint's environment, as its unprivileged user."""
        command = [str(self.venv / "bin" / program), *arguments]
        if os.getuid() or self._as_root:
            return command
        drop = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return [*drop, "--inh-caps=-all", *command]

    def worker(self, *arguments: str) -> str:
        """Run `fitserve-worker` on the site, and return what it prints."""
        done = subprocess.run(
            self.command("python", "-m", "fitserve_worker", *arguments),
            env=self.environment(),
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def start(self) -> None:
        self.render()
        if os.getuid() == 0:
            for place in (self.home, *self.home.rglob("*")):
                os.chown(place, NOBODY, NOBODY)
        self._child = Child(
            self.command("globus-compute-endpoint", "start", self.name),
            self.rig.directory / f"{self.name}.log",
            self.environment(),
        )
        registered = self.configuration / "endpoint.json"
        self._child.wait_until(registered.exists, 60, self.name)
        self.id = json.loads(registered.read_text())["endpoint_id"]
        self.render()  # now the card has the id

    def kill(self) -> None:
        """End the endpoint's main process alone, without a chance to tidy up."""
        assert self._child is not None
        self._child.kill()

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.kill()

    def processes(self, what: str = "") -> list[psutil.Process]:
        """Return the processes of this endpoint, known by the home in their environment.

        Those that write a title over it, as Parsl's interchange does, are known by their log.
        """
        found = []
        for process in psutil.process_iter(["cmdline"]):
            with contextlib.suppress(psutil.Error, OSError):
                command = " ".join(process.info["cmdline"] or [])
                output = Path(f"/proc/{process.pid}/fd/2").readlink()
                ours = process.environ().get("HOME") == str(self.home)
                if (ours or output.is_relative_to(self.home)) and what in command:
                    found.append(process)
        return [one for one in found if one.is_running() and one.status() != "zombie"]


def make_environment(place: Path, endpoint_venv: Path) -> Path:
    """Return an environment with the endpoint and this tree's worker, which any user can run.

    It borrows the packages of the two environments that exist already: the endpoint's own
    come first, as they are pinned.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    # A Python below some user's home cannot be run by another user.
    system = Path("/usr/bin") / version
    python = str(system) if os.getuid() == 0 and system.exists() else sys.executable
    subprocess.run([python, "-m", "venv", "--without-pip", str(place)], check=True)
    packages = place / "lib" / version / "site-packages"
    borrowed = [
        endpoint_venv / "lib" / version / "site-packages",
        Path(sys.prefix) / "lib" / version / "site-packages",
    ]
    (packages / "borrowed.pth").write_text(
        "".join(f"import site; site.addsitedir({str(one)!r})\n" for one in borrowed)
    )
    script = place / "bin" / "globus-compute-endpoint"
    script.write_text(
        f"#!{place}/bin/python\nfrom globus_compute_endpoint.cli import cli_run\ncli_run()\n"
    )
    script.chmod(0o755)
    return place


def wait_for(condition: Any, seconds: float, what: str) -> Any:
    """Return the first true value of a condition."""
    return waiting.wait_for(what, condition, seconds, every=0.2)
