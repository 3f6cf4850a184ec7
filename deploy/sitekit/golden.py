"""Generated files that are kept, so that a change shows as a diff.

Golden files are what blueprints and the study's three sites render to, which covers every template,
and what the real globus-compute-endpoint, in an environment of its own, would submit for them.
Tests render the other sites and check them with the endpoint, and keep no files. The page of all
fields is made from the schema.
"""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fitserve.errors import BackendError
from sitekit.load import CONFIGS, load_site
from sitekit.render import Rendering, render_site, write_files
from sitekit.schedulers import BATCH
from sitekit.schema import resolve, schema

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = [
    "GOLDEN",
    "GOLDEN_RENDERING",
    "GOLDEN_SITES",
    "PAGE",
    "ask_endpoint",
    "build",
    "endpoint_venv",
    "fields_page",
    "golden_differences",
    "submission",
    "write_golden",
    "write_submissions",
]

_ROOT = Path(__file__).resolve().parents[2]
_BUILD = Path(__file__).resolve().parent / "tools" / "endpoint_build.py"

GOLDEN = CONFIGS / "golden"
_BLUEPRINTS = [blueprint for one in BATCH.values() for blueprint in one.blueprints]
GOLDEN_SITES = (
    *("bluewaters", "expanse", "river"),  # of the study
    *sorted(["kubernetes", "kubernetes-gpu", "local", *_BLUEPRINTS]),
)
GOLDEN_RENDERING = Rendering(version="0.0.0", home=Path("/home/fitserve"))
"""A version and a home that no release and no machine changes."""

# Made with the endpoint itself, by `write_submissions`.
_MADE_ELSEWHERE = {"submit.sh", "pod.json"}

PAGE = _ROOT / "docs" / "sites" / "fields.md"

_HEAD = """\
# Fields of a site file

*This page is made from `endpoint_configs/site.schema.json` by `make golden`.*

A site file is YAML, read by the rules of YAML 1.2: `no` is text, and `02:00:00` is a time. There
are no other fields than these. Fields in **bold** must be given, here or in the site that
`extends` names; `null` removes a field of that site.

"""


def golden_differences(site: str) -> str:
    """Return a unified diff from a site's golden files to what it renders to now."""
    files, _ = render_site(load_site(CONFIGS / "sites" / f"{site}.yaml")[0], GOLDEN_RENDERING)
    directory = GOLDEN / site
    kept = {path.name for path in directory.glob("*")} - _MADE_ELSEWHERE
    lines: list[str] = []
    for name in sorted(kept | set(files)):
        path = directory / name
        old = path.read_text(encoding="utf-8") if path.is_file() else ""
        lines += difflib.unified_diff(
            old.splitlines(keepends=True),
            files.get(name, "").splitlines(keepends=True),
            f"golden/{site}/{name}",
            f"rendered/{site}/{name}",
        )
    return "".join(lines)


def write_golden() -> list[str]:
    """Write the golden files; return the sites that changed."""
    changed = []
    for site in GOLDEN_SITES:
        if not golden_differences(site):
            continue
        changed.append(site)
        files, _ = render_site(load_site(CONFIGS / "sites" / f"{site}.yaml")[0], GOLDEN_RENDERING)
        directory = GOLDEN / site
        for path in directory.glob("*"):
            if path.name not in files and path.name not in _MADE_ELSEWHERE:
                path.unlink()
        write_files(files, directory)
    for directory in GOLDEN.iterdir():
        if directory.name not in GOLDEN_SITES:
            for path in directory.iterdir():
                path.unlink()
            directory.rmdir()
            changed.append(directory.name)
    return changed


def write_submissions() -> None:
    """Write what the real endpoint would submit for the sites with golden files.

    Raises
    ------
    BackendError
        globus-compute-endpoint is not installed, or refuses a site.
    """
    directories = [GOLDEN / site for site in GOLDEN_SITES]
    with tempfile.TemporaryDirectory() as scratch:
        results = build([(directory, None) for directory in directories], Path(scratch))
    for directory, built in zip(directories, results, strict=True):
        if "error" in built:
            raise BackendError(
                f"globus-compute-endpoint refuses site {directory.name}", evidence=built["error"]
            )
        write_files(submission(built), directory)


def endpoint_venv() -> Path:
    """Return the environment that holds globus-compute-endpoint.

    Raises
    ------
    BackendError
        It was not made yet.
    """
    place = Path(os.environ.get("FITSERVE_ENDPOINT_VENV", _ROOT / ".cache" / "endpoint-venv"))
    if not (place / "bin" / "globus-compute-endpoint").is_file():
        raise BackendError(
            "globus-compute-endpoint is not installed apart from fitserve",
            evidence=f"looked in {place}",
            hint="make endpoint-venv",
        )
    return place


def build(jobs: Sequence[tuple[Path, dict[str, Any] | None]], home: Path) -> list[dict[str, Any]]:
    """Return what the endpoint builds for users of rendered sites, and would submit.

    Parameters
    ----------
    jobs
        Rendered sites, each with what a user sets.
    home
        A writable directory.

    Returns
    -------
    list of dict
        For each job what was built, or ``{"error": ...}`` where the endpoint refuses it.

    Raises
    ------
    BackendError
        globus-compute-endpoint is not installed or broken.
    """
    requests = [
        {"directory": str(directory.resolve()), "options": options} for directory, options in jobs
    ]
    text = ask_endpoint("python", str(_BUILD), text=json.dumps(requests), home=home)
    built: list[dict[str, Any]] = json.loads(text)
    return built


def submission(built: dict[str, Any]) -> dict[str, str]:
    """Return the submit script or pod of what was built, by the name of its golden file."""
    if "pod" in built:
        return {"pod.json": json.dumps(built["pod"], indent=2) + "\n"}
    return {"submit.sh": built["script"].strip() + "\n"}


def ask_endpoint(program: str, *words: str, text: str | None, home: Path) -> str:
    """Run a program of the endpoint's environment, on a text if one is given; returns its output.

    Raises
    ------
    BackendError
        It is not installed, or it fails; its output is the evidence.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(  # noqa: S603 -- fixed programs, arguments that we made
        [str(endpoint_venv() / "bin" / program), *words],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env={**environment, "HOME": str(home)},
        stdin=subprocess.DEVNULL if text is None else None,
    )
    if done.returncode:
        raise BackendError(
            "globus-compute-endpoint refuses what was rendered",
            evidence=(done.stderr or done.stdout).strip()[-2000:],
        )
    return done.stdout


def fields_page() -> str:
    """Return the page, in Markdown.

    Examples
    --------
    >>> "## scheduler" in fields_page()
    True
    """
    root = schema()
    simple = {name: node for name, node in root["properties"].items() if not _fields(resolve(node))}
    lines = [_HEAD, "## At the top\n", *_table(simple, root.get("required", []), "")]
    for name, node in root["properties"].items():
        resolved = resolve(node)
        if _fields(resolved):
            lines += ["", f"## {name}\n", resolved["description"], ""]
            lines += _table(resolved["properties"], resolved.get("required", []), "")
    return "\n".join(lines).rstrip() + "\n"


def _fields(node: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = node.get("properties", {})
    return properties


def _table(fields: dict[str, Any], required: list[str], prefix: str) -> list[str]:
    return [
        "| field | what it takes | default | what it is |",
        "|---|---|---|---|",
        *_rows(fields, required, prefix),
    ]


def _rows(fields: dict[str, Any], required: list[str], prefix: str) -> Iterator[str]:
    for name, node in fields.items():
        resolved = resolve(node)
        shown = f"`{prefix}{name}`"
        if name in required:
            shown = f"**{shown}**"
        default = "" if "default" not in resolved else f"`{json.dumps(resolved['default'])}`"
        about = str(resolved.get("description", "")).replace("|", "\\|")
        example = resolved.get("examples")
        if example:
            about += f" Example: `{json.dumps(example[0])}`."
        yield f"| {shown} | {_takes(resolved)} | {default} | {about} |"
        below = resolved
        dotted = f"{prefix}{name}."
        if resolved.get("type") == "array":
            below = resolve(resolved.get("items", {}))
            dotted = f"{prefix}{name}[]."
        if _fields(below):
            yield from _rows(_fields(below), below.get("required", []), dotted)


def _takes(node: dict[str, Any]) -> str:
    if "const" in node:
        return f"`{json.dumps(node['const'])}`"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    kind = node.get("type")
    if kind == "array":
        return f"list of: {_takes(resolve(node.get('items', {})))}"
    if kind == "object":
        return "fields below" if _fields(node) else "names and values"
    if kind in {"integer", "number"}:
        return _range("whole number" if kind == "integer" else "number", node)
    words = "`true`, `false`" if kind == "boolean" else str(node.get("title", "text"))
    return words.replace("|", "\\|")


def _range(word: str, node: dict[str, Any]) -> str:
    words = (("minimum", "from {}"), ("exclusiveMinimum", "above {}"), ("maximum", "to {}"))
    return " ".join([word, *(text.format(node[key]) for key, text in words if key in node)])
