"""The cache of downloaded archives: it never holds half of one, nor gives a damaged one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING

import msgspec

from fitserve.errors import InputError, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["CachedArchive", "cached_archive", "default_cache", "forget", "keep", "new_part"]

_RECORD = "record.json"
_PART = ".part-"
# A download that has not written for so long is not running any more.
_STALE = 3600.0


class CachedArchive(msgspec.Struct, frozen=True, kw_only=True):
    """What the cache knows of an archive; ``fetched`` is ISO 8601 in UTC."""

    url: str
    sha256: str
    size: int
    fetched: str


def default_cache() -> Path:
    """Return the cache directory: ``$FITSERVE_CACHE`` or the platform's place for caches."""
    import platformdirs

    chosen = os.environ.get("FITSERVE_CACHE")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("fitserve"))


def cached_archive(url: str, cache: Path) -> Path | None:
    """Return the cached archive of a URL after verifying its content, or None.

    Raises
    ------
    InputError
        The file in the cache is not what was downloaded.
    StoreError
        The cache cannot be read.
    """
    folder = _folder(url, cache)
    try:
        record = msgspec.json.decode((folder / _RECORD).read_bytes(), type=CachedArchive)
        archive = folder / record.sha256
        sound = _sha256(archive) == record.sha256
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        sound = False
    except OSError as error:
        raise _unusable(folder, error) from error
    if not sound:
        raise InputError(
            "the copy of an archive in the cache is damaged",
            evidence=f"in {folder}, the archive does not have the SHA-256 of the download",
            hint="download it again: fitserve analyses fetch NAME --refresh, "
            "or delete that directory",
        )
    return archive


@contextlib.contextmanager
def new_part(url: str, cache: Path) -> Iterator[IO[bytes]]:
    """Give a file to write an archive to; it is gone afterwards, unless it is kept.

    Raises
    ------
    StoreError
        The cache cannot be written.
    """
    folder = _folder(url, cache)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=_PART, delete=False) as part:
            try:
                yield part
            finally:
                Path(part.name).unlink(missing_ok=True)
                _remove_if_empty(folder)
    except OSError as error:
        raise _unusable(folder, error) from error


def keep(part: IO[bytes], url: str, cache: Path) -> Path:
    """Make a part the archive of its URL, in place of an older one, and return its path.

    The record names the archive by its content: whenever this is interrupted, the cache has
    the old entry, the new one or none.
    """
    folder, path = _folder(url, cache), Path(part.name)
    part.flush()
    os.fsync(part.fileno())
    record = CachedArchive(
        url=url,
        sha256=_sha256(path),
        size=path.stat().st_size,
        fetched=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    archive = path.replace(folder / record.sha256)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=_PART, delete=False) as stream:
        stream.write(msgspec.json.format(msgspec.json.encode(record)))
        stream.flush()
        os.fsync(stream.fileno())
    Path(stream.name).replace(folder / _RECORD)
    _clean(folder, keep=record.sha256)
    return archive


def forget(url: str, cache: Path) -> None:
    """Remove a URL's archive from the cache."""
    folder = _folder(url, cache)
    _clean(folder, keep=None)
    _remove_if_empty(folder)


def _clean(folder: Path, keep: str | None) -> None:
    """Remove archives but one, and what downloads that were killed have left."""
    for path in folder.glob("*"):
        if path.name.startswith(_PART):
            unwanted = time.time() - path.stat().st_mtime > _STALE
        else:
            unwanted = keep is None or path.name not in (keep, _RECORD)
        if unwanted:
            path.unlink(missing_ok=True)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):
        folder.rmdir()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder(url: str, cache: Path) -> Path:
    return cache / "archives" / hashlib.sha256(url.encode()).hexdigest()[:32]


def _unusable(folder: Path, error: OSError) -> StoreError:
    return StoreError(
        "the cache of downloads cannot be used",
        evidence=f"{folder}: {error.strerror or error}",
        hint="make room or choose another place with the environment variable FITSERVE_CACHE",
    )
