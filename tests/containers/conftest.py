"""Images, built from a base that needs no registry, and an ordinary user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from imagekit.engine import Engine
from imagekit.names import image_name
from imagekit.scan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagekit.scan import Finding

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
IMAGE = f"localhost/{image_name('worker')}"
ENDPOINT_IMAGE = f"localhost/{image_name('endpoint')}"
PROGRAMS = (
    *("podman", "buildah", "runc", "debootstrap", "newuidmap", "ch-run", "patchelf"),
    *("mksquashfs", "squashfuse"),
)
# It is run by an endpoint's Python, which has what it imports.
collect_ignore = ["globus_engine.py"]
CACHE = Path(os.environ.get("FITSERVE_CACHE", "~/.cache/fitserve-rigs")).expanduser()


def run(*words: object, **options: object) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it said."""
    given = {"check": True, "timeout": 900, **options}
    command = [str(word) for word in words]
    try:
        return subprocess.run(  # noqa: PLW1510 - it is among the options
            command, capture_output=True, text=True, **given
        )
    except subprocess.CalledProcessError as error:
        pytest.fail(f"{' '.join(command)}\n{error.stdout[-3000:]}\n{error.stderr[-3000:]}")


@pytest.fixture(scope="session")
def machine() -> Iterator[None]:
    """Require root and the programs; let users mount image files, as sites do."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_path()) is None]
    if os.getuid() != 0:
        missing.append("root")
    if missing:
        message = f"these tests need {', '.join(missing)}: see docs/containers.md"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    fuse = Path("/dev/fuse")
    mode = fuse.stat().st_mode & 0o777 if fuse.exists() else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", _path())
        patch.setenv("CONTAINERS_CONF", str(HERE / "containers.conf"))
        if mode is not None:
            fuse.chmod(0o666)
        yield
        if mode is not None:
            fuse.chmod(mode)


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/sbin:/sbin"


@pytest.fixture(scope="session")
def base(machine: None) -> dict[str, str]:
    """Return the environment of a build on Debian's packages alone."""
    run("bash", ROOT / "containers/tools/base.sh")
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT}/containers:{ROOT}/client/src",
        "BASE_IMAGE": "localhost/fitserve/base:bookworm",
        "BUILD_IMAGE": "localhost/fitserve/base-build:bookworm",
    }


@pytest.fixture(scope="session")
def build(machine: None, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that builds a target as `make images` does.

    FITSERVE_KEEP_IMAGE takes the image that is there, while tests are written.
    """

    def make(target: str, *options: str, **environment: str) -> None:
        kept = os.environ.get("FITSERVE_KEEP_IMAGE") and not os.environ.get("CI")
        if kept and not options:
            return
        base: dict[str, str] = request.getfixturevalue("base")
        words = ("python3", "-m", "imagekit", "build", target, "--engine", "podman")
        run(*words, "--network", "host", *options, env=base | environment, timeout=3000)

    return make


@pytest.fixture(scope="session")
def image(build: Callable[..., None]) -> str:
    """Return the name of the worker's image."""
    build("worker")
    return IMAGE


@pytest.fixture(scope="session")
def endpoint_image(build: Callable[..., None]) -> str:
    """Return the name of the endpoint's image."""
    build("endpoint")
    return ENDPOINT_IMAGE


@pytest.fixture(scope="session")
def engine(machine: None) -> Engine:
    """Return Podman."""
    return Engine("podman", shutil.which("podman") or "podman")


@pytest.fixture(scope="session")
def podman(engine: Engine, image: str) -> Engine:
    """Return the engine that has the image."""
    return engine


@pytest.fixture(scope="session")
def archive(image: str, podman: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the image as one file that every user can read."""
    file = tmp_path_factory.mktemp("archive") / "worker.tar"
    run("podman", "save", "--format", "oci-archive", "--output", file, image)
    return file


@pytest.fixture(scope="session")
def found_of_here() -> Callable[[Path], list[Finding]]:
    """Return a function that finds in an archive what is of this machine alone, and secrets."""
    needles = {"the checkout": f"{ROOT}/client".encode()}
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy") and "://" in value:
            needles[name] = value.split("://")[1].encode()
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        bundle = Path(os.environ.get(name, "/missing"))
        if bundle.is_file():
            needles |= _certificates(name, bundle.read_text())
    host = socket.gethostname().split(".")[0]
    # Every program names this one.
    named = "" if host == "localhost" else host
    return lambda archive: list(scan(archive, needles, named))


def _certificates(name: str, bundle: str) -> dict[str, bytes]:
    """Return of each certificate that Debian does not ship a line from its middle."""
    known = Path("/usr/share/ca-certificates/mozilla")
    public = "".join(one.read_text() for one in known.glob("*.crt"))
    found = {}
    for number, block in enumerate(bundle.split("-----BEGIN CERTIFICATE-----")):
        lines = block.strip().splitlines()
        if len(lines) > 4 and lines[3] not in public:
            found[f"{name} {number}"] = lines[3].encode()
    return found


@pytest.fixture(scope="session")
def unpacked(image: str) -> Iterator[Path]:
    """Return the worker's image as a directory that every user can read."""
    with _unpack(image) as directory:
        yield directory


@pytest.fixture(scope="session")
def endpoint(endpoint_image: str) -> Iterator[Path]:
    """Return the Python of an endpoint and client, which every user of this machine can run.

    It is the environment of the endpoint's image; this machine's Python is that image's.
    """
    with _unpack(endpoint_image) as directory:
        yield directory / "opt/fitserve/bin/python"


@contextmanager
def _unpack(image: str) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="fitserve-image-", dir="/var/tmp"))
    directory.chmod(0o755)
    made = run("podman", "create", image).stdout.strip()
    run("sh", "-c", f"podman export {made} | tar -C {directory} -x")
    run("podman", "rm", made)
    yield directory
    shutil.rmtree(directory)


class User:
    """An ordinary user of this machine."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.home = Path(pwd.getpwnam(name).pw_dir)
        self.uid = pwd.getpwnam(name).pw_uid
        self.gid = pwd.getpwnam(name).pw_gid
        # Short: Parsl's sockets are below it.
        self.runtime = Path(f"/run/fitserve-{self.uid}")
        self.runtime.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.runtime, self.uid, self.gid)

    def run(self, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command as this user, in its home, with a clean environment."""
        given = {
            "HOME": str(self.home),
            "USER": self.name,
            "LOGNAME": self.name,
            "PATH": f"{os.environ['FITSERVE_APPTAINER_BIN']}:/usr/bin:/bin:/usr/sbin:/sbin",
            "XDG_RUNTIME_DIR": str(self.runtime),
            "CONTAINERS_CONF": str(self.home / "containers.conf"),
            "LANG": "C.UTF-8",
            **environment,
        }
        pairs = [f"{key}={value}" for key, value in given.items()]
        command = ["setpriv", f"--reuid={self.uid}", f"--regid={self.gid}", "--init-groups"]
        return run(*command, "env", "-i", *pairs, *words, cwd=self.home, check=False)

    def must(self, *words: object, **environment: str) -> str:
        """Run a command that is to succeed, and return its standard output."""
        done = self.run(*words, **environment)
        assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout


@pytest.fixture(scope="session")
def apptainer(machine: None) -> Iterator[None]:
    """Let users have Apptainer."""
    found = run("bash", ROOT / "containers/tools/apptainer.sh").stdout.strip()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FITSERVE_APPTAINER_BIN", found)
        yield


@pytest.fixture(scope="session")
def user(apptainer: None) -> Iterator[User]:
    """Return an ordinary user, with subordinate ids and Apptainer, removed afterwards."""
    with _made("fitrig", "--shell", "/bin/bash") as made:
        yield made


@pytest.fixture(scope="session")
def system_user(apptainer: None) -> Iterator[User]:
    """Return a user without subordinate ids."""
    with _made("fitrigsys", "--system") as made:
        yield made


@contextmanager
def _made(name: str, *options: str) -> Iterator[User]:
    run("userdel", "--remove", "--force", name, check=False)
    run("useradd", "--create-home", *options, name)
    made = User(name)
    shutil.copy(HERE / "containers.conf", made.home / "containers.conf")
    (made.home / "containers.conf").chmod(0o644)
    yield made
    made.run("podman", "system", "migrate")
    # Its files of subordinate ids are only its own to remove.
    made.run("podman", "unshare", "rm", "-rf", made.home / ".local")
    run("userdel", "--remove", "--force", name, check=False)
    shutil.rmtree(made.runtime, ignore_errors=True)


@pytest.fixture(scope="session")
def checkout() -> Callable[[User], Path]:
    """Return a function that gives a user the part of this checkout that handles images."""

    def copy(user: User) -> Path:
        place = user.home / "checkout"
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("containers", "client/src"):
            shutil.copytree(ROOT / part, place / part, ignore=ignore)
        shutil.copy(ROOT / "Makefile", place)
        run("chown", "-R", f"{user.uid}:{user.gid}", place)
        return place

    return copy
