"""Write an endpoint's configuration on the machine itself, as the release that runs this does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fitserve._version import __version__
from sitekit.render import Rendering, render_site

if TYPE_CHECKING:
    from sitekit.target.deployed import Deployed

__all__ = ["render"]

_DIRECT = ("engine.json", "site-card.json")
_ENDPOINT = (
    *("config.yaml", "user_config_template.yaml.j2", "user_config_schema.json"),
    *("user_environment.yaml", "identity_mapping.json"),
)


def render(deployed: Deployed) -> bool:
    """Write every file that deploying writes; returns whether one changed."""
    manifest = deployed.manifest
    release = str(deployed.path(deployed.places.releases) / str(manifest.current))
    ids = (deployed.endpoint_id, manifest.function_id)
    rendering = Rendering(__version__, Path.home(), *ids, release)
    files, _ = render_site(deployed.site, rendering)
    direct = deployed.path(deployed.places.direct)
    wanted = {direct / name: files[name] for name in _DIRECT}
    if deployed.in_the_cloud:
        wanted |= {
            deployed.configuration / name: files[name] for name in _ENDPOINT if name in files
        }
        unit = deployed.path(deployed.places.unit)
        if unit.is_file():
            wanted[unit] = files[unit.name]
    written = [path for path, text in wanted.items() if _write(path, text)]
    return bool(written)


def _write(path: Path, text: str) -> bool:
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    mode = path.stat().st_mode & 0o777 if path.is_file() else 0o600
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    part.chmod(mode)
    part.replace(path)
    return True
