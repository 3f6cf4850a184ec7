"""Images, built from a base that needs no registry, and ordinary users."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containerrig import images
from containerrig.images import run
from containerrig.sif import SIF, load, make_sif
from containerrig.users import User, made_user
from imagekit.engine import Engine
from imagekit.names import image_name
from imagescan import scan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from imagescan import Finding

ENDPOINT_IMAGE = f"localhost/{image_name('endpoint')}"
# It is run by an endpoint's Python, which has what it imports.
collect_ignore = ["globus_engine.py"]


@pytest.fixture(scope="session")
def machine() -> Iterator[None]:
    """Require root and the programs; let users mount image files, as sites do."""
    message = images.absent((*images.PROGRAMS, "ch-run"))
    if message:
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    with images.ready():
        yield


@pytest.fixture(scope="session")
def base(machine: None) -> dict[str, str]:
    """Return the environment of a build on Debian's packages alone."""
    return images.base()


@pytest.fixture(scope="session")
def build(machine: None, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Return a function that builds a target as `make images` does.

    FITSERVE_KEEP_IMAGE takes the image that is there, while tests are written.
    """

    def make(target: str, *options: str, **environment: str) -> None:
        if images.kept() and not options:
            return
        base: dict[str, str] = request.getfixturevalue("base")
        images.build(target, base | environment, *options)

    return make


@pytest.fixture(scope="session")
def image(build: Callable[..., None]) -> str:
    """Return the name of the worker's image."""
    build("worker")
    return images.IMAGE


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
def archive(image: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the image as one file that every user can read."""
    return images.save(image, tmp_path_factory.mktemp("archive") / "worker.tar")


@pytest.fixture(scope="session")
def found_of_here() -> Callable[[Path], list[Finding]]:
    """Return a function that finds in an archive what is of this machine alone, and secrets."""
    needles = {"the checkout": f"{images.ROOT}/client".encode()}
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


@pytest.fixture(scope="session")
def apptainer(machine: None) -> str:
    """Return the directory of Apptainer's commands."""
    return images.find_apptainer()


@pytest.fixture(scope="session")
def user(apptainer: str) -> Iterator[User]:
    """Return an ordinary user, with subordinate ids and Apptainer, removed afterwards."""
    with made_user("fitrig", apptainer, "--shell", "/bin/bash") as made:
        yield made


@pytest.fixture(scope="session")
def system_user(apptainer: str) -> Iterator[User]:
    """Return a user without subordinate ids."""
    with made_user("fitrigsys", apptainer, "--system") as made:
        yield made


@pytest.fixture(scope="session")
def loaded(user: User, archive: Path) -> str:
    """Return the image's name in the user's own storage."""
    return load(user, archive)


@pytest.fixture(scope="session")
def sif(user: User, loaded: str) -> Path:
    """Return the image file, made by the user from the image and moved where sites look."""
    made = make_sif(user)
    user.must("mkdir", user.home / "fitserve")
    user.must("mv", made, user.home / "fitserve")
    return user.home / "fitserve" / SIF
