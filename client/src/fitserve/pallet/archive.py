"""Read the JSON files of an archive that nobody vouches for.

Nothing is unpacked to disk: members are read as a stream, only regular files with a name
ending in ``.json`` are kept, in memory, and reading stops as soon as a limit is passed. So a
member cannot write anywhere, links are never followed, and a decompression bomb is cut short.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from fitserve.contract import memory_there
from fitserve.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["DEFAULT_LIMITS", "Contents", "Limits", "is_archive", "read_archive"]

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


DEFAULT_LIMITS = Limits()


class Contents(NamedTuple):
    """JSON files by their path in the archive or directory, and the names of other files."""

    files: dict[str, bytes]
    others: list[str]


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


def is_archive(path: Path) -> bool:
    """Tell from its first bytes whether a file is an archive of a kind that can be read."""
    with path.open("rb") as stream:
        return _sniff(stream) is not None


def read_archive(path: Path, where: str, limits: Limits = DEFAULT_LIMITS) -> Contents:
    """Read the JSON files of a zip or of a tar file, plain or packed by gzip, bzip2 or xz.

    Parameters
    ----------
    path
        The archive; its kind is found from its content, not from its name.
    where
        Its name, for errors.
    limits
        Where to stop.

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
        meter = _Meter(where, max(path.stat().st_size, 1), limits)
        try:
            if kind == "zip":
                return _read_zip(stream, meter)
            return _read_tar(stream, kind, meter)
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

    def __init__(self, where: str, packed: int, limits: Limits) -> None:
        self.where = where
        self.packed = packed
        self.limits = limits
        self.total = min(limits.total, memory_there() // 4)
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

    def read(self, size: int) -> bytes:
        """Read at most ``size`` bytes."""
        return self._meter.unpacked(self._stream.read(size))


def _sniff(stream: IO[bytes]) -> str | None:
    start = stream.read(_TAR_OFFSET + len(_TAR_MAGIC))
    stream.seek(0)
    if start[_TAR_OFFSET:] == _TAR_MAGIC:
        return "tar"
    return next((kind for magic, kind in _MAGIC.items() if start.startswith(magic)), None)


def _read_tar(stream: IO[bytes], kind: str, meter: _Meter) -> Contents:
    source = _Metered(_UNPACK[kind](stream), meter)
    contents = Contents({}, [])
    with tarfile.open(fileobj=source, mode="r|", bufsize=_MIB, tarinfo=_Header) as tar:  # type: ignore[call-overload]
        for member in tar:
            meter.member()
            _check_name(member.name, meter)
            if member.issym() or member.islnk():
                base = PurePosixPath(member.name).parent if member.issym() else PurePosixPath()
                _check_link(member.name, base, member.linkname, meter)
            elif member.ischr() or member.isblk() or member.isfifo():
                raise meter.bad(member.name, "a device or pipe")
            elif member.isreg() and not member.issparse() and _wanted(member.name):
                data = tar.extractfile(member)
                contents.files[_plain(member.name)] = data.read() if data else b""
            elif not member.isdir():
                contents.others.append(member.name)
    # The checksum of what was read stands at the end of the packed data.
    while source.read(_MIB):
        pass
    return contents


def _read_zip(stream: IO[bytes], meter: _Meter) -> Contents:
    contents = Contents({}, [])
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            meter.member()
            _check_name(member.filename, meter)
            mode = stat.S_IFMT(member.external_attr >> 16)
            if stat.S_ISLNK(mode):
                target = b"".join(_chunks(archive, member, meter)).decode("utf-8", "replace")
                base = PurePosixPath(member.filename).parent
                _check_link(member.filename, base, target, meter)
            elif mode and not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
                raise meter.bad(member.filename, "a device or pipe")
            elif not member.is_dir() and _wanted(member.filename):
                data = b"".join(_chunks(archive, member, meter))
                contents.files[_plain(member.filename)] = data
            elif not member.is_dir():
                contents.others.append(member.filename)
    return contents


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
    """Tell whether a file may be part of a pallet: JSON, and not a hidden or resource file."""
    parts = _plain(name).split("/")
    return parts[-1].lower().endswith(".json") and not any(
        part.startswith(".") or part == "__MACOSX" for part in parts
    )


def _plain(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).as_posix()
