"""Find out what the user means by a pallet, of the published ones too, and get its files."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import msgspec

from fitserve.errors import FitserveError, InputError, RequestError
from fitserve.files import read_regular
from fitserve.pallet.archive import DEFAULT_LIMITS, Contents, is_packed, read_archive
from fitserve.pallet.download import (
    APPROVED_HOSTS,
    as_asked,
    cached_archive,
    check_address,
    download,
)
from fitserve_contract import memory_there

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

__all__ = [
    "Analysis",
    "Archive",
    "Files",
    "Source",
    "analysis_of",
    "catalogue",
    "default_cache",
    "find_analysis",
    "given_source",
    "open_analysis",
    "open_source",
    "short_name",
]


class Archive(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the pallet is published and what is in it.

    ``region`` is the folder or prefix of the region that the original study fitted;
    ``digest`` pyhf's SHA-256 of its background-only workspace, None where only the digest
    inside the patchset is known; ``hypotheses`` the number of patches, None where that is not
    known either.
    """

    doi: str | None = None
    url: str | None = None
    region: str | None = None
    digest: str | None
    hypotheses: int | None = None

    @property
    def address(self) -> str | None:
        """The address to download from; None for what comes with fitserve, or is not known."""
        return self.url or (f"https://doi.org/{self.doi}" if self.doi else None)


class Analysis(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A published search; ``process``, ``labels`` and ``axes`` are for tables and plots.

    ``luminosity`` is in 1/fb, ``energy``, of the colliding protons together, in TeV.
    ``labels`` are the patchset's names of the mass values (empty where they are not known
    before the archive is fetched), ``axes`` their titles in LaTeX in the same order. ``record``
    is the DOI of its record in HEPData, where the archive's own address is not known.
    """

    name: str
    title: str
    process: str = ""
    axes: list[str] = []
    archive: Archive
    labels: list[str] = []
    inspire: str | None = None
    arxiv: str | None = None
    journal: str | None = None
    luminosity: float | None = None
    energy: float | None = None
    record: str | None = None
    note: str | None = None

    @property
    def bundled(self) -> bool:
        """Whether its pallet comes with fitserve."""
        return self.archive.address is None and self.record is None


@cache
def catalogue() -> tuple[Analysis, ...]:
    """Return all analyses, in the order of the file.

    Examples
    --------
    >>> from fitserve.pallet.source import catalogue
    >>> [analysis.name for analysis in catalogue()][:5]
    ['example', '1Lbb', '3L-RJ', 'staus', 'SS3L']
    """
    text = package_files("fitserve.pallet").joinpath("catalogue.yaml").read_bytes()
    return msgspec.yaml.decode(text, type=tuple[Analysis, ...])


def find_analysis(name: str) -> Analysis:
    """Return the analysis with this name or INSPIRE identifier, in any case.

    Raises
    ------
    RequestError
        The catalogue has no such analysis.

    Examples
    --------
    >>> from fitserve.pallet.source import find_analysis
    >>> find_analysis("ins1755298").name
    '1Lbb'
    """
    for analysis in catalogue():
        names = (analysis.name, analysis.inspire or analysis.name)
        if name.casefold() in map(str.casefold, names):
            return analysis
    raise RequestError(
        f"the catalogue has no analysis {name!r}",
        evidence=f"it has: {', '.join(analysis.name for analysis in catalogue())}",
        hint="fitserve analyses list",
    )


def analysis_of(digest: str) -> Analysis | None:
    """Return the analysis whose background-only workspace has this digest.

    Parameters
    ----------
    digest
        `pyhf.utils.digest` of a workspace, with SHA-256.
    """
    analyses = {each.archive.digest: each for each in catalogue() if each.archive.digest}
    return analyses.get(digest)


def default_cache() -> Path:
    """Return the cache directory: ``$FITSERVE_CACHE`` or the platform's place for caches."""
    import platformdirs

    chosen = os.environ.get("FITSERVE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("fitserve"))


_DOI = re.compile(r"(?:doi:)?(10\.\d{4,9}/\S+)", re.IGNORECASE)
_SUFFIXES = re.compile(r"(?:\.(?:zip|tar|tgz|gz|tbz2?|bz2|txz|xz|json|xml))+$", re.IGNORECASE)
_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")
_LONGEST_NAME = 64


class Files(NamedTuple):
    """The files of a pallet that are no JSON: their names, and how to look for and read them."""

    names: Collection[str] = ()
    has: Callable[[str], bool] = lambda _: False
    read: Callable[[Iterable[str]], dict[str, bytes]] = lambda _: {}


class Source(NamedTuple):
    """Where a pallet is from, and its files.

    ``analysis`` is the entry of the catalogue that the user named, if any; ``forced`` lists
    what the user chose to ignore on the way here.
    """

    label: str
    name: str
    contents: Contents
    analysis: Analysis | None = None
    forced: tuple[str, ...] = ()
    files: Files = Files()


def open_source(source: str | Path, *, cache: Path, force: bool = False) -> Source:
    """Get the files of a pallet.

    Parameters
    ----------
    source
        A directory or archive; else the name of an analysis in the catalogue; else an
        ``https`` URL or a DOI.
    cache
        Where downloads are kept.
    force
        Download from hosts that are not approved, too.

    Raises
    ------
    InputError
        There is no such file, it is no pallet, or it cannot be downloaded.
    StoreError
        The cache cannot be used.
    """
    if isinstance(source, str):
        if not source:
            raise InputError("the name of the pallet is empty", hint="fitserve analyses list")
        if source.lower().startswith(("http://", "https://")):
            return _from_url(source, cache, force=force)
        if not _exists(Path(source)):
            if analysis := _in_catalogue(source):
                return open_analysis(analysis, cache=cache)
            if doi := _DOI.fullmatch(source):
                return _from_url(f"https://doi.org/{doi.group(1)}", cache, force=force)
    return _from_path(Path(source))


def given_source(given: object) -> Source:
    """Return a workspace of this program, or that and its patchset, as the files they would be.

    Parameters
    ----------
    given
        A workspace (``dict`` or `pyhf.Workspace`), or a tuple of it and a patchset (``dict`` or
        `pyhf.PatchSet`).

    Raises
    ------
    InputError
        It is something else, or has values that JSON does not have.
    """
    match given:
        case Mapping():
            parts = {"workspace.json": given}
        case (Mapping() as workspace, patchset):
            parts = {"workspace.json": workspace, "patchset.json": _patchset(patchset)}
        case _:
            raise InputError(
                "this is no pallet",
                evidence=f"its type is {type(given).__name__}",
                hint="give a path, an address, the name of an analysis, a workspace (dict or "
                "pyhf.Workspace), or a workspace and its patchset in a tuple",
            )
    try:
        files = {name: msgspec.json.encode(part, enc_hook=_listed) for name, part in parts.items()}
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError("this is no workspace", evidence=str(error)) from error
    return Source("a workspace of the program that asks", "workspace", Contents(files, []))


def _patchset(given: Any) -> Any:
    """Return the content of a `pyhf.PatchSet`; anything else is left to the schema."""
    if not all(hasattr(given, name) for name in ("metadata", "patches", "version")):
        return given
    patches = [{"metadata": one.metadata, "patch": one.patch} for one in given.patches]
    return {"metadata": given.metadata, "patches": patches, "version": given.version}


def _listed(value: Any) -> Any:
    """Return the numbers of an array, or of anything else that has them."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"JSON has no {type(value).__name__}")


def _from_path(path: Path) -> Source:
    label = str(path)
    try:
        resolved = path.resolve()
        if resolved.is_dir():
            contents = _read_directory(resolved)
            files = _in_directory(resolved, contents.others)
        elif resolved.is_file() and resolved.suffix.lower() == ".xml":
            # HistFactory's paths begin at the file, or in the directory above.
            folder = resolved.parent.parent
            contents = Contents({}, [resolved.relative_to(folder).as_posix()])
            files = _in_directory(folder, contents.others)
        elif resolved.is_file():
            contents = _read_file(resolved, label)
            files = _in_archive(resolved, label, contents.others)
        else:
            raise InputError(
                f"there is no pallet {label!r}",
                evidence="it is not a file or directory, an analysis of the catalogue "
                f"({', '.join(each.name for each in catalogue())}), an https URL or a DOI",
                hint="fitserve analyses list",
            )
    except (OSError, ValueError) as error:
        raise InputError(f"{label} cannot be read", evidence=_reason(error)) from error
    return Source(str(resolved), short_name(resolved.name), contents, files=files)


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def _from_url(url: str, cache: Path, *, force: bool) -> Source:
    check_address(url, force=force)
    try:
        archive = cached_archive(url, cache)
    except InputError:
        # Damaged since it was downloaded.
        archive = None
    if archive is None:
        archive = download(url, cache, force=force)
    parts = urlsplit(as_asked(url))
    last = unquote(parts.path.rstrip("/"))
    # A resource of HEPData differs from its siblings by a number only.
    name = short_name(last.lstrip("/") if parts.hostname == "doi.org" else last.rsplit("/", 1)[-1])
    contents = read_archive(archive, url)
    files = _in_archive(archive, url, contents.others)
    if parts.hostname in APPROVED_HOSTS:
        return Source(url, name, contents, files=files)
    return Source(
        url, name, contents, files=files, forced=(f"{parts.hostname} is not an approved host",)
    )


def open_analysis(analysis: Analysis, *, cache: Path) -> Source:
    """Get the files of an analysis of the catalogue, without a network.

    Raises
    ------
    InputError
        It has not been downloaded, or the copy in the cache is damaged.
    StoreError
        The cache cannot be used.
    """
    address = analysis.archive.address
    if analysis.bundled:
        folder = package_files("fitserve") / "data" / analysis.name
        bundled = {each.name: each.read_bytes() for each in folder.iterdir()}
        return Source(analysis.name, analysis.name, Contents(bundled, []), analysis)
    if address is None:
        raise InputError(
            f"the address of {analysis.name}'s likelihood is not in the catalogue",
            evidence=f"its record is https://doi.org/{analysis.record}",
            hint="find the archive among the resources there, and give its address, DOI or file",
        )
    archive = cached_archive(address, cache)
    if archive is None:
        raise InputError(
            f"the pallet of {analysis.name} has not been downloaded yet",
            evidence=f"it is published at {address}",
            hint=f"fitserve analyses fetch {analysis.name}",
        )
    contents = read_archive(archive, analysis.name)
    return Source(analysis.name, analysis.name, contents, analysis)


def _read_file(path: Path, label: str) -> Contents:
    # A workspace without its patches is not garbage: the error says what is missing.
    if path.suffix.lower() == ".json":
        contents = Contents({}, [])
        contents.add(path.name, read_regular(path))
        return contents
    return read_archive(path, label)


def _read_directory(folder: Path) -> Contents:
    contents = Contents({}, [])
    total, allowed = 0, min(DEFAULT_LIMITS.total, memory_there() // 4)
    for count, path in enumerate(_walk(folder), 1):
        if count > DEFAULT_LIMITS.members:
            raise _too_large(folder, f"more than {DEFAULT_LIMITS.members} files")
        name = path.relative_to(folder).as_posix()
        # A link may lead anywhere: within the directory it is followed.
        file = path.resolve()
        if not file.is_relative_to(folder):
            part = Contents({}, [path.name])
        elif path.suffix.lower() == ".json":
            _check_total(folder, total + file.stat().st_size, allowed)
            part = Contents({}, [])
            part.add(path.name, read_regular(file))
        elif is_packed(name, json=True):
            part = _read_packed(file)
        else:
            part = Contents({}, [path.name])
        total += sum(map(len, part.files.values()))
        _check_total(folder, total, allowed)
        contents.take(part, name.removesuffix(path.name))
    return contents


def _in_directory(folder: Path, names: Collection[str]) -> Files:
    """Return the files of a directory; a link that leads out of it is not there."""

    def inside(name: str) -> Path | None:
        path = (folder / name).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None

    def read(wanted: Iterable[str]) -> dict[str, bytes]:
        paths = {name: path for name in wanted if (path := inside(name))}
        allowed = min(DEFAULT_LIMITS.total, memory_there() // 4)
        total = sum(path.stat().st_size for path in paths.values())
        _check_total(folder, total, allowed, "XML and ROOT files")
        return {name: read_regular(path) for name, path in paths.items()}

    return Files(names, lambda name: inside(name) is not None, read)


def _in_archive(path: Path, where: str, names: Collection[str]) -> Files:
    """Return the files of an archive, which is read again for them."""
    plain = frozenset(PurePosixPath(name).as_posix() for name in names)

    def read(wanted: Iterable[str]) -> dict[str, bytes]:
        asked = plain.intersection(wanted)
        files = read_archive(path, where, besides=asked).files if asked else {}
        return {name: files[name] for name in asked if name in files}

    return Files(plain, plain.__contains__, read)


def _check_total(folder: Path, total: int, allowed: int, what: str = "JSON") -> None:
    if total > allowed:
        raise _too_large(folder, f"more than {allowed} bytes of {what}")


def _read_packed(path: Path) -> Contents:
    try:
        return read_archive(path, path.name)
    except InputError as error:
        # It may not belong to the pallet; if it does, the error of what is missing names it.
        return Contents({}, [f"{path.name} ({error.evidence})"])


def _walk(folder: Path) -> Iterator[Path]:
    left = [folder]
    while left:
        path = left.pop()
        if path.is_dir() and not path.is_symlink():
            inside = (one for one in path.iterdir() if one.name != "__MACOSX")
            left += sorted((one for one in inside if not one.name.startswith(".")), reverse=True)
        elif path.is_file():
            yield path


def _too_large(folder: Path, evidence: str) -> InputError:
    return InputError(
        f"{folder} has far more in it than a pallet",
        evidence=evidence,
        hint="give the directory of the pallet itself",
    )


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _in_catalogue(name: str) -> Analysis | None:
    try:
        return find_analysis(name)
    except FitserveError:
        return None


def short_name(text: str) -> str:
    """Return a name that is fit for a directory.

    Examples
    --------
    >>> from fitserve.pallet.source import short_name
    >>> short_name("1Lbb.tar.xz"), short_name("10.17182/hepdata.90607.v3/r3")
    ('1Lbb', '10.17182-hepdata.90607.v3-r3')
    """
    name = _NO_NAME.sub("-", _SUFFIXES.sub("", text)).strip("-._")
    return name[:_LONGEST_NAME].strip("-._") or "pallet"
