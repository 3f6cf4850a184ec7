"""Read untrusted JSON files, and archives of them.

Nothing is unpacked to disk: members are read as a stream, only regular files with a name
ending in ``.json`` are kept, in memory, and reading stops as soon as a limit is passed. So a
member cannot write anywhere and a decompression bomb is cut short. Symbolic links are never
followed; a hard link is one more name of a member. Archives in the archive, like those of
HEPData's "download all", and packed JSON files are read alike and count against the same limits.
"""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from functools import partial
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from fitserve.errors import InputError
from fitserve_contract import memory_there

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

__all__ = [
    "DEFAULT_LIMITS",
    "Contents",
    "Limits",
    "as_utf8",
    "is_archive",
    "is_packed",
    "read_archive",
]


def as_utf8(raw: bytes) -> bytes:
    """Return JSON text in UTF-8 without a byte order mark, whichever encoding it is in.

    What cannot be decoded is returned as it is.

    Examples
    --------
    >>> from fitserve.pallet.archive import as_utf8
    >>> as_utf8('{"channels": []}'.encode("utf-16"))
    b'{"channels": []}'
    """
    encoding = json.detect_encoding(raw)
    if encoding == "utf-8":
        return raw
    try:
        return raw.decode(encoding).encode()
    except UnicodeError:
        return raw


_MIB = 1024**2


class Limits(NamedTuple):
    """What an archive may be. The largest published pallets unpack to some 300 MB."""

    members: int = 20_000
    """Number of members of any kind."""
    total: int = 1024 * _MIB
    """Bytes of all members together, unpacked; a quarter of the memory there is, if less."""
    ratio: int = 200
    """Unpacked over packed bytes, once more than ``free`` bytes are unpacked; of published
    pallets it is up to 93."""
    free: int = 64 * _MIB
    depth: int = 3
    """How many archives may be one in another; further ones are not opened."""


DEFAULT_LIMITS = Limits()


class Contents(NamedTuple):
    """JSON files by their path in the archive or directory, and the names of other files."""

    files: dict[str, bytes]
    others: list[str]

    def add(self, name: str, raw: bytes) -> None:
        """Add a JSON file in whichever encoding it is."""
        self.files[name] = as_utf8(raw)

    def take(self, other: Contents, below: str = "") -> None:
        """Add the files of an archive; an unpacked file of the same name stays."""
        for name, raw in other.files.items():
            self.files.setdefault(f"{below}{name}", raw)
        self.others.extend(f"{below}{name}" for name in other.others)


_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"\x1f\x8b": "gz",
    b"BZh": "bz2",
    b"\xfd7zXZ\x00": "xz",
}
_UNPACK: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "tar": lambda stream: stream,
    "gz": lambda stream: cast("IO[bytes]", gzip.GzipFile(fileobj=stream, mode="rb")),
    "bz2": lambda stream: cast("IO[bytes]", bz2.BZ2File(stream)),
    "xz": lambda stream: cast("IO[bytes]", lzma.LZMAFile(stream)),  # noqa: SIM115
}
# Of the bytes of pax headers: 20,000 that name a file and its times, or one of 30 kB.
_MOST_SQUARES = 10**9
_TAR_MAGIC, _TAR_OFFSET = b"ustar", 257
_PACKED = re.compile(
    r"\.(?:zip|tgz|tbz2?|txz|tar(?:\.(?:gz|bz2|xz))?|json\.(?:gz|bz2|xz))$", re.IGNORECASE
)
_PACKED_JSON = re.compile(r"(?<=\.json)\.(?:gz|bz2|xz)$", re.IGNORECASE)
# What the standard library's readers raise for damaged data, found by fuzzing them.
_DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    OverflowError,
    RuntimeError,
    ValueError,
    lzma.LZMAError,
    struct.error,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def is_packed(name: str, *, json: bool = False) -> bool:
    """Return whether a file is, by its name, an archive or a packed JSON file, or only the latter.

    >>> [is_packed(name) for name in ("Likelihoods.tar.gz", "patchset.json.gz", "table.csv.gz")]
    [True, True, False]
    >>> is_packed("Likelihoods.tar.gz", json=True)
    False
    """
    return (_PACKED_JSON if json else _PACKED).search(name) is not None


def is_archive(path: Path) -> bool:
    """Return whether a file is, by its first bytes, an archive of a kind that can be read."""
    with path.open("rb") as stream:
        return _sniff(stream) is not None


def read_archive(
    path: Path, where: str, limits: Limits = DEFAULT_LIMITS, besides: Collection[str] = ()
) -> Contents:
    """Read the JSON files of a zip or tar file, or one file, packed by gzip, bzip2, xz or not.

    Parameters
    ----------
    path
        The archive; its kind is found from its content, not from its name.
    where
        Its name, for errors.
    limits
        Where to stop.
    besides
        Names of other members to be kept, as they are.

    Raises
    ------
    InputError
        It is no archive, is damaged or cut short, passes a limit, or has a member that leads
        out of the archive or is no plain file, link or directory.
    """
    with path.open("rb") as stream:
        kind = _sniff(stream)
        if kind is None:
            raise InputError(
                f"{where} is not an archive",
                evidence=f"its first bytes are {stream.read(16)!r}",
                hint="give a .zip, .tar, .tar.gz, .tar.bz2 or .tar.xz file or a directory",
            )
        meter = _Meter(where, max(path.stat().st_size, 1), limits, frozenset(besides))
        try:
            return _read(stream, kind, PurePosixPath(where).name, meter)
        except MemoryError as error:
            raise InputError(f"{where} asks for more memory than there is to unpack it") from error
        except _DAMAGE as error:
            raise InputError(
                f"{where} is damaged or cut short, or not an archive of pallet files",
                evidence=f"{type(error).__name__}: {error}" if str(error) else type(error).__name__,
                hint="download or copy it again",
            ) from error


class _Header(tarfile.TarInfo):
    """A header of a tar file whose extensions take bounded time.

    Looking for a character set in a pax header takes time that grows with the square of its size
    in some versions of Python (CVE-2024-6232).
    """

    def _proc_pax(self, tar: Any) -> tarfile.TarInfo:
        tar.squares = getattr(tar, "squares", 0) + self.size**2
        if tar.squares > _MOST_SQUARES:
            raise tarfile.ReadError("its extended headers are larger than any pallet's")
        return cast("tarfile.TarInfo", super()._proc_pax(tar))  # type: ignore[misc]


class _Meter:
    """Counts what comes out of an archive and stops it at a limit."""

    def __init__(
        self, where: str, packed: int, limits: Limits, besides: frozenset[str] = frozenset()
    ) -> None:
        self.where = where
        self.besides = besides
        self.packed = packed
        self.limits = limits
        self.total = min(limits.total, memory_there() // 4)
        self.depth = 1
        self.members = 0
        self.bytes = 0

    def member(self) -> None:
        """Count a member."""
        self.members += 1
        if self.members > self.limits.members:
            self._refuse(f"more than {self.limits.members} members")

    def unpacked(self, data: bytes) -> bytes:
        """Count unpacked bytes and return them."""
        self.bytes += len(data)
        if self.bytes > self.total:
            self._refuse(f"more than {self.total // _MIB} MiB unpacked")
        if self.bytes > max(self.limits.free, self.limits.ratio * self.packed):
            self._refuse(f"more than {self.limits.ratio} times its size unpacked")
        return data

    def bad(self, name: str, reason: str) -> InputError:
        """Return the error for a member that must not be there."""
        return InputError(
            f"{self.where} has a member that no pallet needs and that could do harm",
            evidence=f"{name!r}: {reason}",
            hint="do not unpack it by other means either, unless you trust where it comes from",
        )

    def _refuse(self, evidence: str) -> None:
        raise InputError(
            f"{self.where} is larger than any pallet, like a decompression bomb",
            evidence=evidence,
            hint="if it is a pallet, unpack it yourself and give the directory",
        )


class _Metered:
    """The part of a binary file that `tarfile` reads in stream mode."""

    def __init__(self, stream: IO[bytes], meter: _Meter) -> None:
        self._stream = stream
        self._meter = meter
        self.start = stream.read(_TAR_OFFSET + len(_TAR_MAGIC))
        self._pending = self.start

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes."""
        if self._pending:
            data, self._pending = self._pending[:size], self._pending[size:]
        else:
            data = self._stream.read(size)
        return self._meter.unpacked(data)


def _sniff(stream: IO[bytes]) -> str | None:
    start = stream.read(_TAR_OFFSET + len(_TAR_MAGIC))
    stream.seek(0)
    if start[_TAR_OFFSET:] == _TAR_MAGIC:
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _read(stream: IO[bytes], kind: str, name: str, meter: _Meter) -> Contents:
    """Read an archive or a packed JSON file of that name."""
    if kind == "zip":
        return _read_zip(stream, meter)
    source = _Metered(_UNPACK[kind](stream), meter)
    # A whole number of characters in every encoding.
    text = as_utf8(source.start[: _TAR_OFFSET // 4 * 4]).lstrip()
    if kind != "tar" and text[:1] in (b"{", b"[") and not source.start.endswith(_TAR_MAGIC):
        contents = Contents({}, [])
        contents.add(_PACKED_JSON.sub("", name), b"".join(iter(lambda: source.read(_MIB), b"")))
        return contents
    contents, links = Contents({}, []), dict[str, list[str]]()
    for member, read in _members(source, meter, links):
        if read is None:
            contents.others.append(member)
        else:
            _keep(member, read, contents, meter)
    targets = {target: contents.files[target] for target in links if target in contents.files}
    if len(targets) < len(links):
        # Members that are not JSON by their own name were passed over.
        stream.seek(0)
        again = _Meter(meter.where, meter.packed, meter.limits)
        for member, read in _members(_Metered(_UNPACK[kind](stream), again), again, {}):
            if read is not None and _plain(member) in links:
                targets[_plain(member)] = read()
    for target, raw in targets.items():
        for other in links[target]:
            contents.add(other, meter.unpacked(raw))
    return contents


def _members(
    source: _Metered, meter: _Meter, links: dict[str, list[str]]
) -> Iterator[tuple[str, Callable[[], bytes] | None]]:
    """Yield the files of a tar file and how to read them, None if they are not to be.

    ``links`` takes the names of hard links to be JSON files by that of the member.
    """
    with tarfile.open(fileobj=source, mode="r|", bufsize=_MIB, tarinfo=_Header) as tar:  # type: ignore[call-overload]
        for member in tar:
            meter.member()
            _check_name(member.name, meter)
            if member.issym():
                base = PurePosixPath(member.name).parent
                _check_link(member.name, base, member.linkname, meter)
            elif member.islnk():
                _check_link(member.name, PurePosixPath(), member.linkname, meter)
                if _wanted(member.name):
                    links.setdefault(_plain(member.linkname), []).append(_plain(member.name))
            elif member.ischr() or member.isblk() or member.isfifo():
                raise meter.bad(member.name, "a device or pipe")
            elif not member.isdir():
                data = None if member.issparse() else tar.extractfile(member)
                yield member.name, data.read if data else None
    # The checksum of what was read stands at the end of the packed data.
    while source.read(_MIB):
        pass


def _read_zip(stream: IO[bytes], meter: _Meter) -> Contents:
    contents = Contents({}, [])
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            meter.member()
            _check_name(member.filename, meter)
            mode = stat.S_IFMT(member.external_attr >> 16)
            read = partial(_content, archive, member, meter)
            if stat.S_ISLNK(mode):
                base = PurePosixPath(member.filename).parent
                _check_link(member.filename, base, read().decode("utf-8", "replace"), meter)
            elif mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise meter.bad(member.filename, "a device or pipe")
            elif not member.is_dir():
                _keep(member.filename, read, contents, meter)
    return contents


def _keep(name: str, read: Callable[[], bytes], contents: Contents, meter: _Meter) -> None:
    """Keep a member if it is JSON, and open it if it is packed; it is read only for that."""
    plain = _plain(name)
    if _wanted(name):
        contents.add(plain, read())
        return
    if plain in meter.besides:
        contents.files[plain] = read()
        return
    label = name
    if is_packed(plain) and not _hidden(plain) and meter.depth < meter.limits.depth:
        inner = io.BytesIO(read())
        kind = _sniff(inner)
        meter.depth += 1
        try:
            if kind is not None:
                folder = "" if is_packed(plain, json=True) else f"{plain}/"
                contents.take(_read(inner, kind, plain, meter), folder)
                return
        except _DAMAGE as error:
            # It may not belong to the pallet; if it does, the error of what is missing names it.
            label = f"{name} (damaged: {str(error) or type(error).__name__})"
        finally:
            meter.depth -= 1
    contents.others.append(label)


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo, meter: _Meter) -> bytes:
    return b"".join(_chunks(archive, member, meter))


def _chunks(archive: zipfile.ZipFile, member: zipfile.ZipInfo, meter: _Meter) -> Iterator[bytes]:
    with archive.open(member) as data:
        while chunk := data.read(_MIB):
            yield meter.unpacked(chunk)


def _check_name(name: str, meter: _Meter) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    drive = path.parts[0] if path.parts else ""
    if path.is_absolute() or ".." in path.parts or drive.endswith(":") or "\0" in name:
        raise meter.bad(name, "a path that leads out of the archive")


def _check_link(name: str, base: PurePosixPath, target: str, meter: _Meter) -> None:
    path = PurePosixPath(target.replace("\\", "/"))
    depth = len(base.parts)
    for part in path.parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            break
    if path.is_absolute() or depth < 0:
        raise meter.bad(name, f"a link to {target!r}, out of the archive")


def _wanted(name: str) -> bool:
    """Return whether a file may be part of a pallet: JSON, and not a hidden or resource file."""
    return name.lower().endswith(".json") and not _hidden(_plain(name))


def _hidden(plain: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in plain.split("/"))


def _plain(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).as_posix()
