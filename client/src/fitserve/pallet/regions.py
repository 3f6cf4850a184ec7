"""Find workspaces and patchsets among the files of a pallet, by content, and pair them.

Published archives differ in shape: the two files at the top or in a folder; one folder for
each region (``Region-combined/BkgOnly.json``); one prefix for each region
(``Rpc2L0b_BkgOnly.json``, ``Rpc2L0b_patchset.json``); one file for each patch
(``RegionA/patch.sbottom_600_280_150.json``).
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from itertools import compress
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from fitserve.errors import InputError, RequestError
from fitserve.pallet.archive import is_packed
from fitserve.pallet.schema import decode_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fitserve.pallet.archive import Contents

__all__ = ["Found", "Region", "find_regions", "has_workspace", "kind_of", "select_region"]

_Kind = Literal["workspace", "patchset", "patch", "other"]

# What names of files say besides the region's prefix.
_ROLE = re.compile(
    r"[._-]*(?:(?:bkg|background)[._-]?only|bkg|background|workspace|patch[._-]?set)$",
    re.IGNORECASE,
)
_LOOSE = re.compile(r"patch[._-].+\.json", re.IGNORECASE)
_START = re.compile(rb"\s*(.)", re.DOTALL)
_LISTED = 12


class _Keys(msgspec.Struct):
    """The keys that tell the files apart; their content is skipped, not decoded."""

    channels: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    patches: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Operation(msgspec.Struct):
    op: str
    path: str


_keys = msgspec.json.Decoder(_Keys)
_operations = msgspec.json.Decoder(list[_Operation])


@dataclass(frozen=True)
class Region:
    """A background-only workspace and the patches for it, by the paths of their files.

    ``name`` is made of folder and prefix; the top level has an empty one, which the user
    writes as a dot.
    """

    name: str
    workspace: str
    patchset: str | None
    patches: tuple[str, ...] = ()

    @property
    def has_patches(self) -> bool:
        """Whether there is more than the workspace."""
        return bool(self.patchset or self.patches)


class Found(NamedTuple):
    """The regions of a pallet, and what is wrong with JSON files that are of none of them."""

    regions: list[Region]
    unreadable: list[str]


def kind_of(raw: bytes, path: str) -> _Kind:
    """Return the kind of a JSON file, by its content.

    Raises
    ------
    InputError
        The file is not JSON.

    Examples
    --------
    >>> from fitserve.pallet.regions import kind_of
    >>> kind_of(b'{"channels": []}', "a.json"), kind_of(b'{"patches": []}', "b.json")
    ('workspace', 'patchset')
    """
    start = _START.match(raw)
    try:
        if start and start.group(1) == b"[":
            return _kind_of_list(raw, path)
        if start and start.group(1) == b"{":
            return _kind_of_mapping(raw)
        decode_json(raw, path)
    except msgspec.ValidationError:
        pass
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        decode_json(raw, path)
    return "other"


def _kind_of_mapping(raw: bytes) -> _Kind:
    keys = _keys.decode(raw)
    if keys.patches is not msgspec.UNSET:
        return "patchset"
    return "other" if keys.channels is msgspec.UNSET else "workspace"


def _kind_of_list(raw: bytes, path: str) -> _Kind:
    # What is named as a patch has to be one: if it is not, validation will say why.
    if _LOOSE.fullmatch(PurePosixPath(path).name):
        return "patch"
    return "patch" if _operations.decode(raw) else "other"


def has_workspace(files: Mapping[str, bytes]) -> bool:
    """Return whether any of the files is a workspace."""
    for path, raw in files.items():
        with contextlib.suppress(InputError):
            if kind_of(raw, path) == "workspace":
                return True
    return False


def find_regions(contents: Contents) -> Found:
    """Find the regions of a pallet.

    A workspace alone is a region without patches.

    Parameters
    ----------
    contents
        The files of the pallet.

    Returns
    -------
    Found
        The regions are sorted by name.

    Raises
    ------
    InputError
        There is no workspace, or a patchset has no workspace that it certainly belongs to. A file
        is not JSON that by its name belongs to the pallet, or without which there is none.
    """
    kinds: dict[str, _Kind] = {}
    broken: list[InputError] = []
    for path, raw in sorted(contents.files.items()):
        try:
            kinds[path] = kind_of(raw, path)
        except InputError as error:
            if _named_as_of_a_pallet(path):
                raise
            broken.append(error)
    workspaces = [path for path, kind in kinds.items() if kind == "workspace"]
    patchsets = [path for path, kind in kinds.items() if kind == "patchset"]
    loose: dict[str, list[str]] = {}
    for path, kind in kinds.items():
        if kind == "patch":
            loose.setdefault(_folder(path), []).append(path)
    # A patchset and its patches as single files are sometimes published side by side.
    with_patchset = {_folder(path) for path in patchsets}
    loose = {folder: paths for folder, paths in loose.items() if folder not in with_patchset}
    if broken and not (workspaces and (patchsets or loose)):
        raise broken[0]
    if not workspaces:
        raise InputError(
            "there is no background-only workspace in the pallet",
            evidence=_seen(kinds) or f"no JSON file, but: {', '.join(contents.others[:_LISTED])}",
            hint=_what_to_give(contents, kinds),
        )
    alone = [] if patchsets or loose else workspaces
    regions = [Region(_name(path), path, None) for path in alone]
    regions += [
        Region(_name(path), _workspace_of(path, workspaces), path) for path in patchsets
    ] + [
        Region(folder, _workspace_of(paths[0], workspaces), None, tuple(paths))
        for folder, paths in loose.items()
    ]
    common = _common([region.name for region in regions])
    named = [
        Region(region.name.removeprefix(common), region.workspace, region.patchset, region.patches)
        for region in regions
    ]
    unreadable = [error.cause for error in broken]
    return Found(sorted(named, key=lambda region: region.name), unreadable)


def _named_as_of_a_pallet(path: str) -> bool:
    name = PurePosixPath(path)
    return bool(_ROLE.search(name.stem) or _LOOSE.fullmatch(name.name))


def _what_to_give(contents: Contents, kinds: Mapping[str, str]) -> str:
    """Return the hint where there is no workspace."""
    if packed := [name for name in contents.others if is_packed(name)]:
        return f"give the archive itself: {packed[0]}"
    if "patchset" in kinds.values():
        return "put the workspace beside the patchset and give their directory"
    return "a workspace is a JSON file with channels, observations and measurements"


def select_region(regions: list[Region], wanted: str | None) -> Region:
    """Return the region that is asked for, or the only one.

    Parameters
    ----------
    regions
        Of one pallet.
    wanted
        Name of a region, its last part, or how it begins, as far as that is unique.

    Raises
    ------
    RequestError
        No region has that name, or several fit.
    """
    if wanted is None:
        if len(regions) == 1:
            return regions[0]
        raise RequestError(
            "the pallet has several regions",
            evidence=_listed(regions),
            hint="choose one with --region NAME",
        )
    # A prefix is often written with the separator that follows it: Rpc2L0b_.
    key = wanted.strip("/").rstrip("_.-").casefold() or "."
    names = [_shown(region).casefold() for region in regions]
    for fitting in (
        [name == key for name in names],
        [name.rsplit("/", 1)[-1] == key for name in names],
        [name.startswith(key) or name.rsplit("/", 1)[-1].startswith(key) for name in names],
    ):
        matches = list(compress(regions, fitting))
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise RequestError(
                f"several regions of the pallet fit {wanted!r}",
                evidence=_listed(matches),
                hint="write the name in full",
            )
    raise RequestError(
        f"the pallet has no region {wanted!r}",
        evidence=f"it has: {_listed(regions)}" if len(regions) > 1 else "it has only one",
        hint="choose one of these" if len(regions) > 1 else "leave --region out",
    )


def _workspace_of(patches: str, workspaces: list[str]) -> str:
    """Return the workspace nearest to a patchset: same name, same folder, folder above."""
    if len(workspaces) == 1:
        return workspaces[0]
    same = [path for path in workspaces if _name(path) == _name(patches)]
    if len(same) == 1:
        return same[0]
    folder = PurePosixPath(_folder(patches))
    for above in (folder, *folder.parents):
        near = [path for path in workspaces if PurePosixPath(_folder(path)) == above]
        if len(near) == 1:
            return near[0]
        if near:
            break
    raise InputError(
        f"it is not clear which workspace {patches} is for",
        evidence=f"workspaces: {', '.join(workspaces[:_LISTED])}",
        hint="give a directory or archive with one workspace, or use the same prefix for both",
    )


def _folder(path: str) -> str:
    folder = PurePosixPath(path).parent.as_posix()
    return "" if folder == "." else folder


def _name(path: str) -> str:
    """Return folder and prefix of a file.

    >>> _name("likelihoods/Rpc2L0b_BkgOnly.json"), _name("Region-combined/patchset.json")
    ('likelihoods/Rpc2L0b', 'Region-combined')
    """
    prefix = _ROLE.sub("", PurePosixPath(path).stem).rstrip("._-")
    return "/".join(part for part in (_folder(path), prefix) if part)


def _common(names: list[str]) -> str:
    """Return the folders that several names begin with, with the slash."""
    if len(names) == 1:
        return ""
    split = [name.split("/")[:-1] for name in names]
    common: list[str] = []
    for parts in zip(*split, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return "".join(f"{part}/" for part in common)


def _shown(region: Region) -> str:
    return region.name or "."


def _listed(regions: Iterable[Region]) -> str:
    names = [_shown(region) for region in regions]
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _seen(kinds: Mapping[str, str]) -> str:
    shown = [
        f"{path} ({kind if kind != 'other' else 'neither workspace nor patches'})"
        for path, kind in list(kinds.items())[:_LISTED]
    ]
    more = f" and {len(kinds) - _LISTED} more" if len(kinds) > _LISTED else ""
    return ", ".join(shown) + more
