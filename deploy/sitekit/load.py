"""Find a site file, read it with the line of every field, and follow `extends`.

`flat_site` writes what was read as one file, for a machine that has none of the others.
"""

from __future__ import annotations

import copy
import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from sitekit.problems import Problem, SiteError
from sitekit.schema import fill_defaults, schema_problems, secret_problems
from sitekit.site import Location, Origin, Site

if TYPE_CHECKING:
    import click

__all__ = [
    "CONFIGS",
    "Loaded",
    "find_site",
    "flat_site",
    "load_site",
    "open_site",
    "shipped_sites",
]

CONFIGS = Path(__file__).resolve().parents[2] / "endpoint_configs"
"""The directory of the schema, the templates and the shipped sites."""

_MAX_BYTES = 256 * 1024
_INTEGER = re.compile(r"[-+]?[0-9]+\Z")
_FLOAT = re.compile(r"[-+]?([0-9]*\.[0-9]+|[0-9]+\.)([eE][-+]?[0-9]+)?\Z")
_SCALARS = {
    f"tag:yaml.org,2002:{kind}"
    for kind in ("str", "int", "float", "bool", "null", "timestamp", "value")
}
_CONSTANTS = {"": None, "~": None, "null": None, "true": True, "false": False}
# Both renderings of a template read these: ours and the endpoint's.
_DELIMITERS = re.compile(r"\{\{|\{%|\{#|\}\}|%\}|#\}|\[\[|\]\]|\[%|%\]|\[#|#\]")


class Loaded(NamedTuple):
    """A site, and warnings for whoever named it."""

    site: Site
    warnings: list[str]


def open_site(_: click.Context, __: click.Parameter, name: str) -> Loaded:
    """Load the site that a command is given: click's callback."""
    return load_site(name)


def shipped_sites() -> list[str]:
    """Return the names of the shipped sites.

    Examples
    --------
    >>> {"local", "expanse", "bluewaters", "river"} <= set(shipped_sites())
    True
    """
    return sorted(path.stem for path in (CONFIGS / "sites").glob("*.yaml"))


def _search_path() -> list[Path]:
    own = os.environ.get("FITSERVE_SITE_PATH", "")
    return [Path(part).expanduser() for part in own.split(os.pathsep) if part]


def find_site(site: str) -> tuple[Path, list[str]]:
    """Find a site by name, or by the path of its file.

    Parameters
    ----------
    site
        A path (with a ``/`` or ending in ``.yaml``), or a name that is looked for in the
        directories of ``FITSERVE_SITE_PATH`` and then among the shipped sites.

    Returns
    -------
    Path, list of str
        The file, and warnings: a site of one's own that hides another of that name.

    Raises
    ------
    SiteError
        There is no such site.
    """
    if "/" in site or site.endswith((".yaml", ".yml")):
        path = Path(site).expanduser()
        if not path.is_file():
            raise SiteError(
                f"there is no site file {site}",
                hint="give the path of a site file, or a name that `sitekit list` shows",
            )
        return path, []
    paths = [
        path
        for directory in [*_search_path(), CONFIGS / "sites"]
        if (path := directory / f"{site}.yaml").is_file()
    ]
    if not paths:
        names = sorted(
            {*shipped_sites(), *(p.stem for d in _search_path() for p in d.glob("*.yaml"))}
        )
        close = difflib.get_close_matches(site, names, n=3)
        raise SiteError(
            f"there is no site {site!r}",
            hint=f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(names)}",
        )
    hidden = [f"site {site!r} is taken from {paths[0]}, which hides {other}" for other in paths[1:]]
    return paths[0], hidden


def load_site(site: str | Path) -> Loaded:
    """Read a site and check it against the schema.

    Parameters
    ----------
    site
        As for `find_site`.

    Returns
    -------
    Loaded
        The site with defaults filled in, and warnings.

    Raises
    ------
    SiteError
        The file cannot be found or read, is not YAML, holds a secret, or does not fit the
        schema. Every problem is listed, with its line.
    """
    path, warnings = find_site(str(site))
    fields, locations = _read_with_bases(path, ())
    shown = _shown(path)
    origin = Origin(shown, fields, locations)
    problems = schema_problems(origin)
    if problems:
        raise SiteError(f"{shown} does not describe a site", problems)
    return Loaded(Site.of(path.stem, fill_defaults(fields), origin), warnings)


def _shown(path: Path) -> str:
    """Return a path as a user would write it from here."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _read_with_bases(
    path: Path, seen: tuple[Path, ...]
) -> tuple[dict[str, Any], dict[str, Location]]:
    fields, locations = _read(path)
    base = fields.pop("extends", None)
    if base is None:
        return fields, locations
    where = locations.pop("extends")
    if not isinstance(base, str):
        problem = Problem(*where, "extends", "expected the name or path of a site", "extends: NAME")
        raise SiteError(f"{where.file} does not describe a site", [problem])
    if "/" in base or base.endswith(".yaml"):
        base_path = path.parent / Path(base).expanduser()
        if not base_path.is_file():
            raise SiteError(f"{where.file}:{where.line}: extends: there is no site file {base}")
    else:
        base_path = _base_by_name(base, path)
    trail = (*seen, path.resolve())
    if base_path.resolve() in trail:
        problem = Problem(
            *where, "extends", f"{base} extends this file itself", "the name of another site"
        )
        raise SiteError(f"{where.file} extends itself", [problem])
    under, under_locations = _read_with_bases(base_path, trail)
    return _merge(under, fields), {**under_locations, **locations}


def _base_by_name(base: str, path: Path) -> Path:
    """Return the base's file; a site that extends its own name means the one it hides."""
    own = path.resolve()
    for directory in [*_search_path(), CONFIGS / "sites"]:
        candidate = directory / f"{base}.yaml"
        if candidate.is_file() and candidate.resolve() != own:
            return candidate
    return find_site(base)[0]


def _merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = (
            _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
        )
        if value is None:
            # An explicit null removes a field of the base.
            del merged[key]
    return merged


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Location]]:
    shown = _shown(path)
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise SiteError(f"{shown} is not a site file", hint=f"it has {size} bytes")
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SiteError(f"{shown} is not a text file in UTF-8", hint=str(error)) from error
    except OSError as error:
        raise SiteError(f"{shown} cannot be read", hint=str(error)) from error
    secrets = secret_problems(shown, text)
    if secrets:
        raise SiteError(
            f"{shown} holds what looks like a secret",
            secrets,
            hint="secrets come from the environment, Ansible vault or the site's secret store; "
            "a secret that was in a file must be replaced by a new one",
        )
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise _yaml_error(shown, error) from error
    if not isinstance(node, yaml.MappingNode):
        raise SiteError(f"{shown} is not a mapping of fields", hint="see docs/sites/add.md")
    locations: dict[str, Location] = {}
    fields = _Plain(shown, locations).mapping(node, "", 0)
    return fields, locations


def _yaml_error(shown: str, error: Exception) -> SiteError:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark is not None else 1
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    problem = Problem(shown, line, "(YAML)", f"expected YAML, found: {what}", "")
    return SiteError(f"{shown} is not YAML", [problem])


class _Plain:
    """Turn YAML nodes into plain values by the YAML 1.2 core rules, keeping each line.

    YAML 1.1, which PyYAML resolves by, reads 01:00:00 as a number and `no` as false.
    """

    _MAX_DEPTH = 12

    def __init__(self, shown: str, locations: dict[str, Location]) -> None:
        self._shown = shown
        self._locations = locations
        self._seen: set[int] = set()

    def _refuse(self, node: yaml.Node, field: str, expected: str, write: str) -> SiteError:
        problem = Problem(self._shown, node.start_mark.line + 1, field or "(top)", expected, write)
        return SiteError(f"{self._shown} does not describe a site", [problem])

    def value(self, node: yaml.Node, field: str, depth: int) -> Any:
        if id(node) in self._seen:
            raise self._refuse(
                node, field, "expected no YAML aliases (*name)", "the value itself in each place"
            )
        self._seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, field)
        if depth > self._MAX_DEPTH:
            raise self._refuse(node, field, "expected fewer levels", "")
        if isinstance(node, yaml.SequenceNode):
            for index, item in enumerate(node.value):
                line = Location(self._shown, item.start_mark.line + 1)
                self._locations[f"{field}.{index}"] = line
            return [
                self.value(item, f"{field}.{index}", depth + 1)
                for index, item in enumerate(node.value)
            ]
        return self.mapping(node, field, depth + 1)

    def mapping(self, node: Any, field: str, depth: int) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._refuse(key_node, field, "expected a field's name", "")
            key = key_node.value
            dotted = f"{field}.{key}" if field else key
            if key in fields:
                raise self._refuse(key_node, dotted, "expected each field once, found it again", "")
            self._locations[dotted] = Location(self._shown, key_node.start_mark.line + 1)
            fields[key] = self.value(value_node, dotted, depth)
        return fields

    def _scalar(self, node: yaml.ScalarNode, field: str) -> Any:
        text: str = node.value
        if node.tag not in _SCALARS:
            raise self._refuse(node, field, f"expected no YAML tag, found {node.tag}", "")
        if _DELIMITERS.search(text):
            raise self._refuse(
                node,
                field,
                "expected plain text, found the delimiters of a template",
                "the text without {{ }}, {% %}, [[ ]] and the like",
            )
        if node.style is not None:
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _INTEGER.match(text):
            return int(text)
        if _FLOAT.match(text):
            return float(text)
        return text


def flat_site(site: Site, venv: str | None = None) -> str:
    """Return the text of a site file with all that it extends.

    Parameters
    ----------
    site
        The site.
    venv
        The environment to use instead of those that it names, for trying a release before it
        serves.
    """
    fields: dict[str, Any] = copy.deepcopy(dict(site.origin.given))
    fields.pop("extends", None)
    if venv is not None:
        fields["endpoint"] = {**fields["endpoint"], "venv": venv}
        if site.environment.venv is not None:
            fields["environment"] = {**fields["environment"], "venv": venv}
    text: str = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100)
    return (
        f"# Site {site.name} with all that it extends: change the site file, not this one.\n{text}"
    )
