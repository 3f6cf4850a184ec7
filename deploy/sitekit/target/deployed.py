"""An endpoint as it is deployed on this machine: site, paths, credentials, configuration.

Its manifest says what deploying made, so that all of it, and nothing else, can be removed.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fitserve import __version__
from fitserve.errors import BackendError, StoreError
from fitserve.files import replace_file
from sitekit.context import endpoint_path
from sitekit.derive import derive
from sitekit.render import Rendering, render_site
from sitekit.target.places import places_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sitekit.site import Site
    from sitekit.target.places import Places

__all__ = ["Deployed", "Manifest", "read_manifest", "render", "write_manifest"]


class Manifest(msgspec.Struct, kw_only=True):
    """The record of an endpoint's deployment.

    Attributes
    ----------
    endpoint, site
        Names.
    made
        Paths that deploying made, each directory before what is in it.
    links
        Environments that are links to the release that serves.
    releases
        Releases that were installed for this endpoint, the newest last.
    current, previous
        The release that serves, and the one to go back to.
    examined
        Release and site digest that the doctor last found in order.
    function_id, refused_id
        Ids of fitserve's function, and of one that the endpoint must refuse.
    """

    endpoint: str
    site: str
    made: list[str] = []
    links: list[str] = []
    releases: list[str] = []
    current: str | None = None
    previous: str | None = None
    examined: str | None = None
    function_id: str | None = None
    refused_id: str | None = None


def read_manifest(path: Path) -> Manifest:
    """Read the manifest.

    Raises
    ------
    StoreError
        Nothing was deployed, or the file is damaged.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError as error:
        raise StoreError(
            "nothing was deployed here", evidence=f"no {path}", hint="make deploy SITE=..."
        ) from error
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} is damaged", evidence=str(error)) from error


def write_manifest(path: Path, manifest: Manifest, **changes: object) -> bool:
    """Write the manifest with some fields changed; returns whether anything was.

    Raises
    ------
    StoreError
        It cannot be written.
    """
    present: Mapping[str, object] = msgspec.structs.asdict(manifest)
    if all(present[name] == value for name, value in changes.items()):
        return False
    for name, value in changes.items():
        setattr(manifest, name, value)
    try:
        replace_file(path, msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
    except OSError as error:
        raise StoreError(f"{path} cannot be written", evidence=str(error)) from error
    return True


_PASSED = ("HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TZ")
_DIRECT = ("engine.json", "site-card.json")
_ENDPOINT = (
    *("config.yaml", "user_config_template.yaml.j2", "user_config_schema.json"),
    *("user_environment.yaml", "identity_mapping.json"),
)


@dataclass(frozen=True)
class Deployed:
    """An endpoint on this machine.

    Attributes
    ----------
    site
        The site.
    places
        Where its files are; `path` expands them.
    """

    site: Site
    places: Places = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "places", places_of(self.site))

    def path(self, place: str) -> Path:
        """Return one of `places` as it is on this machine."""
        return Path(os.path.expandvars(os.path.expanduser(place)))  # noqa: PTH111

    @property
    def multi_user(self) -> bool:
        """Whether the endpoint is root's, with children under its users' accounts."""
        return bool(self.site.access.mode == "multi-user")

    @property
    def name(self) -> str:
        """Name of the endpoint."""
        return derive(self.site).endpoint_name

    @property
    def link(self) -> Path:
        """The environment of the endpoint, a link to the release that serves."""
        return self.path(self.places.links[0])

    @property
    def state(self) -> Path:
        """Directory of the deployment's own files."""
        return self.path(self.places.state)

    @property
    def configuration(self) -> Path:
        """Directory of the Globus Compute endpoint."""
        return self.path(self.places.configuration)

    @property
    def manifest(self) -> Manifest:
        """The record of this deployment."""
        return read_manifest(self.path(self.places.manifest))

    @property
    def endpoint_id(self) -> str | None:
        """Id of the endpoint, once it is registered."""
        registered = self.configuration / "endpoint.json"
        if not registered.is_file():
            return None
        return str(json.loads(registered.read_text(encoding="utf-8"))["endpoint_id"])

    @property
    def in_the_cloud(self) -> bool:
        """Whether there is a Globus Compute endpoint; otherwise the site is for direct use only."""
        return (self.configuration / "config.yaml").is_file()

    def credentials(self) -> dict[str, str]:
        """Return the variables of the credentials file, none if there is no such file.

        Raises
        ------
        BackendError
            Others can read the file.
        """
        path = self.path(self.places.credentials)
        if not path.is_file():
            return {}
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise BackendError(
                "others can read the endpoint's credentials",
                evidence=f"{path} has mode {stat.S_IMODE(path.stat().st_mode):o}",
                hint=f"chmod 600 {path}, and replace the secret: it may be known",
            )
        pairs = (line.partition("=") for line in path.read_text(encoding="utf-8").splitlines())
        return {name: value for name, equals, value in pairs if equals and name[:1] != "#"}

    def variables(self) -> dict[str, str]:
        """Return the environment variables of every program here that uses the service.

        They are the credentials, and the site's proxy unless the credentials file names one (with
        its password).
        """
        proxy, variables = self.site.network.proxy, {}
        if proxy is not None:
            variables = {"HTTPS_PROXY": proxy.https, "NO_PROXY": ",".join(proxy.none_for)}
            if proxy.http:
                variables["HTTP_PROXY"] = proxy.http
        return {**variables, **self.credentials()}

    def environment(self) -> dict[str, str]:
        """Return the environment of the endpoint, as a systemd unit would have it."""
        passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
        return {**passed, "PATH": endpoint_path(self.link), **self.variables()}


def render(deployed: Deployed) -> bool:
    """Write every file that deploying writes; returns whether one changed."""
    manifest = deployed.manifest
    release = str(deployed.path(deployed.places.releases) / str(manifest.current))
    ids = (deployed.endpoint_id, manifest.function_id)
    rendering = Rendering(__version__, Path.home(), *ids, release)
    files, _ = render_site(deployed.site, rendering)
    direct = deployed.path(deployed.places.direct)
    texts = {direct / name: files[name] for name in _DIRECT}
    if deployed.in_the_cloud:
        texts |= {deployed.configuration / name: files[name] for name in _ENDPOINT if name in files}
        unit = deployed.path(deployed.places.unit)
        if unit.is_file():
            texts[unit] = files[unit.name]
    written = [path for path, text in texts.items() if _write(path, text)]
    return bool(written)


def _write(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    mode = path.stat().st_mode & 0o777 if path.is_file() else 0o600
    replace_file(path, text.encode(), mode)
    return True
