"""Download archives into the cache.

The rules are those of `pyhf.contrib.utils.download`: HEPData's and DOI's hosts only unless
the user insists, and an ``Accept`` header that makes HEPData send the archive and not its
landing page. Unlike there, data go to disk as they come, a broken connection is resumed,
each address that a server redirects to is checked before it is followed, and nothing is unpacked.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import socket
import tempfile
import threading
import time
from concurrent.futures import Future
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import msgspec

from fitserve.errors import InputError, StoreError
from fitserve.pallet.archive import is_archive, read_archive
from fitserve.pallet.schema import shorten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

__all__ = [
    "APPROVED_HOSTS",
    "CachedArchive",
    "as_asked",
    "cached_archive",
    "check_address",
    "download",
    "forget",
    "keep",
    "new_part",
]

_RECORD = "record.json"
_PART = ".part-"
# A download that has not written for this long is not running any more.
_STALE = 3600.0


class CachedArchive(msgspec.Struct, frozen=True, kw_only=True):
    """The cache's record of an archive; ``fetched`` is ISO 8601 in UTC."""

    url: str
    sha256: str
    size: int
    fetched: str


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
    """Yield a file to write an archive to; it is removed afterwards, unless it is kept.

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


APPROVED_HOSTS = frozenset({"www.hepdata.net", "doi.org"})
"""Hosts of published pallets; the same as in `pyhf.contrib.utils.download`."""

MAX_BYTES = 1024**3
"""No archive may be larger than this."""

_ACCEPT = "application/x-tar, application/zip"
_PAUSES = (0.0, 0.5, 1.0, 2.0)
_TIMEOUT = (15.0, 60.0)
# What a broken connection loses, at most.
_CHUNK = 64 * 1024
# All tries together: a server may send a byte a minute, and the next before any timeout.
_LONGEST = 3600.0
_MOST_HOPS = 10
# Names without a dot are local as well.
_LOCAL_NAMES = (".localhost", ".local", ".internal", ".lan", ".home.arpa")
# Addresses of IPv6 that stand for any of IPv4.
_TRANSLATED = (ipaddress.ip_network("64:ff9b::/96"), ipaddress.ip_network("2002::/16"))
_LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


def check_address(url: str, *, force: bool) -> None:
    """Refuse addresses that archives are not downloaded from.

    Raises
    ------
    InputError
        It is not an address or not ``https``, or the host is not approved and the user does not
        insist.
    """
    parts = urlsplit(as_asked(url))
    host = parts.hostname or ""
    if not force and (parts.scheme != "https" or host not in APPROVED_HOSTS):
        raise InputError(
            "archives are downloaded from approved hosts only",
            evidence=f"{parts.scheme}://{host}; approved: https at "
            f"{', '.join(sorted(APPROVED_HOSTS))}",
            hint="if you trust the host, go on with --force",
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and host in _LOOPBACK):
        raise InputError(
            "archives are downloaded through https only", evidence=f"{parts.scheme}://{host}"
        )


def as_asked(url: str) -> str:
    r"""Return an address as it is asked for, which `urlsplit` alone may read in another way.

    In ``https://one\@other`` the host is the first, and ``loc%61lhost`` is a name of this machine.

    Raises
    ------
    InputError
        It is not an address.
    """
    import requests

    try:
        return requests.Request("GET", url).prepare().url or ""
    except ValueError as error:
        raise InputError(f"{url!r} is not an address", evidence=str(error)) from error


def download(url: str, cache: Path, *, force: bool = False) -> Path:
    """Download an archive into the cache, in place of a copy that is there.

    Parameters
    ----------
    url
        ``https`` at one of `APPROVED_HOSTS`. With ``force``, any host, and ``http`` on this
        machine.
    cache
        Directory; made if it does not exist.
    force
        Do not insist on approved hosts.

    Returns
    -------
    pathlib.Path
        The archive. It is in the cache only when it is complete and verified to be an archive.

    Raises
    ------
    InputError
        The address is not allowed, the server does not send an archive, or the connection
        breaks and cannot be resumed.
    StoreError
        The cache cannot be written.
    """
    check_address(url, force=force)
    with new_part(url, cache) as part:
        _in_time(lambda: _receive(url, part), url)
        part.flush()
        _check_archive(url, Path(part.name))
        return keep(part, url, cache)


def _in_time(work: Callable[[], None], url: str) -> None:
    """Do what waits for a server in a thread, which is left behind if it takes too long."""
    done: Future[None] = Future()

    def perform() -> None:
        try:
            work()
            done.set_result(None)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            done.set_exception(error)

    threading.Thread(target=perform, name="fitserve-download", daemon=True).start()
    try:
        done.result(_LONGEST)
    except TimeoutError as error:
        raise InputError(
            f"{url} could not be downloaded in time",
            evidence=f"it was not complete after {_LONGEST:g} s",
            hint="try again later, or download it with a browser and give the file",
        ) from error


def _receive(url: str, part: IO[bytes]) -> None:
    """Write the body to ``part``; resume where the connection breaks."""
    import requests

    class Session(requests.Session):
        """A session that neither follows redirects by itself nor reads their bodies."""

        def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
            return iter(())

    problem: Exception | None = None
    version = None
    with Session() as session:
        for pause in _PAUSES:
            time.sleep(pause)
            try:
                with _request(session, url, part.tell(), version) as response:
                    _check_response(response, url)
                    if response.status_code != requests.codes.partial_content:
                        part.seek(0)
                        part.truncate()
                    version = response.headers.get("ETag") or response.headers.get("Last-Modified")
                    for chunk in response.iter_content(_CHUNK):
                        part.write(chunk)
                        if part.tell() > MAX_BYTES:
                            raise InputError(
                                f"{url} sends more than any pallet has",
                                evidence=f"more than {MAX_BYTES} bytes",
                            )
            except requests.RequestException as error:
                problem = error
            else:
                return
    raise InputError(
        f"{url} could not be downloaded",
        evidence=f"{part.tell()} bytes arrived in {len(_PAUSES)} tries, then: {_reason(problem)}",
        hint="try again later, or download it with a browser and give the file",
    ) from problem


def _request(
    session: requests.Session, url: str, start: int, version: str | None
) -> requests.Response:
    headers = {
        "Accept": _ACCEPT,
        # Lengths and ranges shall count the bytes of the archive itself.
        "Accept-Encoding": "identity",
    }
    # A weak validator says nothing about bytes: such an archive is sent from its start again.
    if start and version and not version.startswith("W/"):
        headers |= {"Range": f"bytes={start}-", "If-Range": version}
    hop = url
    for _ in range(_MOST_HOPS):
        response = session.get(
            hop, headers=headers, stream=True, timeout=_TIMEOUT, allow_redirects=False
        )
        target = session.get_redirect_target(response)
        if target is None:
            return response
        response.close()
        hop = _next_hop(hop, target)
    raise InputError(
        f"{url} redirects without end", evidence=f"{_MOST_HOPS} times, at last to {hop}"
    )


def _next_hop(hop: str, location: str) -> str:
    """Return where a server redirects to, unless that is not https, or is this machine or network.

    An approved host may redirect to where it stores its files, and one inside to another.
    """
    try:
        target = urljoin(hop, location)
    except ValueError as error:
        raise InputError(f"{hop} redirects to no valid address", evidence=location) from error
    check_address(target, force=True)
    if _is_inside(target) and not _is_inside(hop):
        raise InputError(
            "a server redirects the download to an address of this machine or network",
            evidence=f"{hop} to {target}",
            hint="download the archive with a browser and give the file",
        )
    return target


def _is_inside(url: str) -> bool:
    host = (urlsplit(as_asked(url)).hostname or "").rstrip(".")
    try:
        # Addresses have more spellings than ipaddress knows: 127.1 and 0x7f000001 are one.
        number = socket.getaddrinfo(host, None, flags=socket.AI_NUMERICHOST)[0][4][0]
    except (OSError, UnicodeError):
        return "." not in host or host.endswith(_LOCAL_NAMES)
    address = ipaddress.ip_address(number)
    translated = any(address in network for network in _TRANSLATED)
    return not address.is_global or address.is_multicast or translated


def _check_response(response: requests.Response, url: str) -> None:
    import requests

    if response.status_code >= requests.codes.internal_server_error:
        response.raise_for_status()
    if response.status_code not in (requests.codes.ok, requests.codes.partial_content):
        raise InputError(
            f"there is nothing to download at {url}",
            evidence=f"the server answers {response.status_code} {response.reason}",
            hint="check the address; a DOI of HEPData names a resource, like "
            "10.17182/hepdata.90607.v3/r3",
        )


def _reason(problem: BaseException | None) -> str:
    """Return the innermost reason: what the outer layers add is their own names."""
    while problem is not None and (inner := problem.__cause__ or problem.__context__) is not None:
        problem = inner
    text = getattr(problem, "strerror", None) or str(problem)
    return shorten(text)


def _check_archive(url: str, path: Path) -> None:
    """Read the archive once, so that nothing that is cut short gets into the cache."""
    if not is_archive(path):
        with path.open("rb") as stream:
            start = stream.read(200).lstrip()
        page = start[:9].lower().startswith((b"<!doctype", b"<html"))
        raise InputError(
            f"{url} does not send an archive",
            evidence="it sends a web page" if page else f"it sends {start[:40]!r}",
            hint="give the address of the archive itself, or download it with a browser "
            "and give the file",
        )
    read_archive(path, url)
