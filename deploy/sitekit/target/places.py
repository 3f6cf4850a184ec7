"""Where a deployment puts its files: all paths in one place, for controller and target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from fitserve import __version__
from sitekit.containers import image_file
from sitekit.derive import derive

if TYPE_CHECKING:
    from sitekit.site import Site

__all__ = ["Places", "places_of"]


@dataclass(frozen=True)
class Places:
    """Paths of a deployment; ``~`` is the home of the endpoint's user, variables are the target's.

    Attributes
    ----------
    root
        Directory of the releases and of the deployments' own files.
    links
        Environments that the site file names: links to the release that serves.
    releases
        One directory for each release, never changed once it is complete.
    state
        This deployment's own files and logs.
    manifest
        The record of what deploying made, so that it can be removed.
    configuration
        Directory of the Globus Compute endpoint.
    credentials
        Client credentials, mode 0600.
    direct
        Engine and card for driving the site directly.
    unit
        The systemd unit.
    command
        A link to ``fitserve`` on the user's PATH; empty for multi-user endpoints.
    run, cache
        Directories of the site file.
    image
        The workers' image, if it is a file; like all that deploying made, it is removed unless it
        was there before.
    functions
        Where `fitserve-worker function register` keeps ids.
    tokens
        Where Globus' SDK keeps the user's login, for all their endpoints.
    """

    root: str
    links: tuple[str, ...]
    releases: str
    state: str
    manifest: str
    configuration: str
    credentials: str
    direct: str
    unit: str
    command: str
    run: str
    cache: str
    image: str
    functions: str
    tokens: str

    @property
    def made(self) -> tuple[str, ...]:
        """All paths that deploying may make, each directory before what is in it."""
        own = [self.root, self.releases, self.state, *self.links, self.configuration]
        own += [self.credentials, self.direct, self.unit, self.run, self.cache]
        own += [self.functions, self.tokens]
        own += [path for path in (self.command, self.image) if path]
        parents = {
            str(parent)
            for path in own
            for parent in PurePosixPath(path).parents
            if len(parent.parts) > 1  # not ~, / or a variable alone
        }
        ordered = sorted({*parents, *own}, key=lambda path: (path.count("/"), path))
        return tuple(ordered)

    def as_data(self) -> dict[str, Any]:
        """Return the paths as plain data, with `made`."""
        return {**self.__dict__, "links": list(self.links), "made": list(self.made)}


def places_of(site: Site) -> Places:
    """Return the paths of a site's deployment.

    Examples
    --------
    >>> from sitekit.load import load_site
    >>> places = places_of(load_site("local")[0])
    >>> places.links, places.releases
    (('~/.local/share/fitserve/venv',), '~/.local/share/fitserve/releases')
    >>> places.credentials
    '~/.config/fitserve/fitserve-local.env'
    """
    name = derive(site).endpoint_name
    multi = site.access.mode == "multi-user"
    venv = site.endpoint.venv
    workers = site.environment.venv
    links = (venv,) if workers in {None, venv} else (venv, workers)
    root = str(PurePosixPath(venv).parent)
    settings = "/etc/fitserve" if multi else "~/.config/fitserve"
    units = "/etc/systemd/system" if multi else "~/.config/systemd/user"
    return Places(
        root=root,
        links=links,
        releases=f"{root}/releases",
        state=f"{root}/{name}",
        manifest=f"{root}/{name}/manifest.json",
        configuration=f"~/.globus_compute/{name}",
        credentials=f"{settings}/{name}.env",
        # Where `fitserve` looks for a site by its name.
        direct=f"/etc/xdg/fitserve/sites/{site.name}" if multi else f"{settings}/sites/{site.name}",
        unit=f"{units}/{name}.service",
        command="" if multi else "~/.local/bin/fitserve",
        run=site.directories.run,
        cache=site.directories.cache,
        image=image_file(site.pinned(__version__)) or "",
        functions="~/.config/fitserve/functions.json",
        tokens="~/.globus_compute/storage.db",
    )
