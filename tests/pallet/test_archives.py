"""Archives are read without trust."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import stat
import tarfile
import zipfile
from typing import TYPE_CHECKING, Any

import pytest

from fitserve.errors import InputError
from fitserve.pallet.archive import Limits, read_archive

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Pack = Callable[[str, dict[str, bytes]], bytes]

KINDS = ["zip", "tar", "targz", "tarbz2", "tarxz"]


@pytest.fixture
def put(tmp_path: Path) -> Callable[[bytes], Path]:
    """Return a function that writes an archive."""

    def write(raw: bytes) -> Path:
        path = tmp_path / "archive"
        path.write_bytes(raw)
        return path

    return write


@pytest.mark.parametrize("kind", KINDS)
def test_json_files_are_kept_and_others_named(
    put: Callable[[bytes], Path], pack: Pack, kind: str
) -> None:
    files = {"a/B.JSON": b"{}", "a/README.md": b"hello", "./c.json": b"[]", ".d.json": b"{"}
    contents = read_archive(put(pack(kind, files)), "archive")
    assert contents.files == {"a/B.JSON": b"{}", "c.json": b"[]"}
    assert sorted(contents.others) == [".d.json", "a/README.md"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../x.json", "/x.json", "a/../../x.json", "C:/x.json", "..\\x.json", "a/../x.md"]
)
def test_a_name_that_leads_out_is_refused(
    put: Callable[[bytes], Path], pack: Pack, kind: str, name: str
) -> None:
    with pytest.raises(InputError, match="could do harm") as caught:
        read_archive(put(pack(kind, {"a.json": b"{}", name: b"{}"})), "archive")
    assert "leads out" in caught.value.evidence


def _tar_with(**attributes: Any) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("folder/member.json")
        for name, value in attributes.items():
            setattr(member, name, value)
        archive.addfile(member)
    return stream.getvalue()


def _zip_with(mode: int, content: bytes = b"") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        member = zipfile.ZipInfo("folder/member.json")
        member.external_attr = mode << 16
        archive.writestr(member, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "raw",
    [
        _tar_with(type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        _tar_with(type=tarfile.SYMTYPE, linkname="../../x"),
        _tar_with(type=tarfile.SYMTYPE, linkname="../../folder/x"),
        _tar_with(type=tarfile.LNKTYPE, linkname="../x"),
        _tar_with(type=tarfile.CHRTYPE),
        _tar_with(type=tarfile.BLKTYPE),
        _tar_with(type=tarfile.FIFOTYPE),
        _zip_with(stat.S_IFLNK | 0o777, b"/etc/passwd"),
        _zip_with(stat.S_IFLNK | 0o777, b"../../x"),
        _zip_with(stat.S_IFCHR | 0o600),
        _zip_with(stat.S_IFIFO | 0o600),
    ],
)
def test_links_out_and_devices_are_refused(put: Callable[[bytes], Path], raw: bytes) -> None:
    with pytest.raises(InputError, match="could do harm"):
        read_archive(put(raw), "archive")


@pytest.mark.parametrize(
    "raw",
    [
        _tar_with(type=tarfile.SYMTYPE, linkname="../other/x.json"),
        _tar_with(type=tarfile.LNKTYPE, linkname="other/x.json"),
        _tar_with(type=tarfile.GNUTYPE_SPARSE),
        _zip_with(stat.S_IFLNK | 0o777, b"../other/x.json"),
    ],
)
def test_links_inside_are_not_followed(put: Callable[[bytes], Path], raw: bytes) -> None:
    assert not read_archive(put(raw), "archive").files


MIB = 1024**2
LIMITS = Limits(members=5, total=4 * MIB, ratio=100, free=MIB)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["bomb.json", "bomb.bin"])
def test_a_bomb_is_cut_short(
    put: Callable[[bytes], Path], pack: Pack, kind: str, name: str
) -> None:
    """Zeros pack by more than a factor of 1000; in a plain tar they are just too many."""
    raw = pack(kind, {name: bytes(8 * MIB)})
    if kind == "zip" and name == "bomb.bin":
        # A member that is not wanted is not even unpacked.
        assert read_archive(put(raw), "archive", LIMITS).others == [name]
        return
    with pytest.raises(InputError, match="decompression bomb"):
        read_archive(put(raw), "archive", LIMITS)


def test_a_bomb_is_cut_short_before_it_fills_the_memory(
    put: Callable[[bytes], Path], pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is taken from the decompressor never exceeds the limit by more than one block."""
    import lzma

    taken = 0
    read = lzma.LZMAFile.read

    def count(self: lzma.LZMAFile, size: int = -1) -> bytes:
        nonlocal taken
        assert 0 < size <= MIB
        data = read(self, size)
        taken += len(data)
        return data

    monkeypatch.setattr(lzma.LZMAFile, "read", count)
    with pytest.raises(InputError, match="decompression bomb"):
        read_archive(put(pack("tarxz", {"bomb.json": bytes(8 * MIB)})), "archive", LIMITS)
    assert taken <= LIMITS.total + MIB


def test_a_zip_that_lies_about_its_size_is_cut_short(
    put: Callable[[bytes], Path], pack: Pack
) -> None:
    raw = bytearray(pack("zip", {"bomb.json": bytes(8 * MIB)}))
    # The uncompressed size in the central directory, which a reader could be tempted to trust.
    at = raw.rindex(b"PK\x01\x02") + 24
    raw[at : at + 4] = (10).to_bytes(4, "little")
    with pytest.raises(InputError, match="damaged"):
        read_archive(put(bytes(raw)), "archive", LIMITS)


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_members_are_refused(put: Callable[[bytes], Path], pack: Pack, kind: str) -> None:
    raw = pack(kind, {f"{index}.json": b"{}" for index in range(6)})
    with pytest.raises(InputError, match="larger than any pallet") as caught:
        read_archive(put(raw), "archive", LIMITS)
    assert caught.value.evidence == "more than 5 members"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("left", [0.3, 0.6, 0.9])
def test_a_truncated_archive_is_told(
    put: Callable[[bytes], Path], pack: Pack, kind: str, left: float
) -> None:
    # Random bytes do not pack: the cut is inside the data of a member.
    raw = pack(kind, {"a.json": os.urandom(400_000)})
    with pytest.raises(InputError, match="damaged or cut short") as caught:
        read_archive(put(raw[: int(left * len(raw))]), "archive")
    assert caught.value.hint == "download or copy it again"


@pytest.mark.parametrize("kind", ["zip", "targz", "tarbz2", "tarxz"])
def test_a_flipped_bit_is_found(put: Callable[[bytes], Path], pack: Pack, kind: str) -> None:
    raw = bytearray(pack(kind, {"a.json": os.urandom(400_000)}))
    raw[len(raw) // 2] ^= 1
    with pytest.raises(InputError, match="damaged"):
        read_archive(put(bytes(raw)), "archive")


def test_an_encrypted_zip_is_told(put: Callable[[bytes], Path], pack: Pack) -> None:
    raw = bytearray(pack("zip", {"a.json": b"{}"}))
    raw[6] |= 1
    raw[raw.rindex(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(InputError, match="damaged") as caught:
        read_archive(put(bytes(raw)), "archive")
    assert "encrypted" in caught.value.evidence


@pytest.mark.parametrize("raw", [b"", b"hello", b"<!DOCTYPE html>", b"\x7fELF" + bytes(600)])
def test_what_is_no_archive_is_told(put: Callable[[bytes], Path], raw: bytes) -> None:
    with pytest.raises(InputError, match="is not an archive") as caught:
        read_archive(put(raw), "archive")
    assert repr(raw[:16]) in caught.value.evidence


def test_a_lack_of_memory_is_told(
    put: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MemoryError

    path = put(_tar_with())
    monkeypatch.setattr(tarfile, "open", refuse)
    with pytest.raises(InputError, match="more memory than there is"):
        read_archive(path, "archive")


def _linked(*members: tuple[str, bytes | str]) -> bytes:
    """Return a tar file of files, and of hard links where there is a name for content."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.LNKTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


@pytest.mark.parametrize("target", ["a/BkgOnly.json", "a/shared.dat"])
def test_a_hard_link_is_the_file_under_another_name(
    put: Callable[[bytes], Path], target: str
) -> None:
    raw = _linked((target, b"{}"), ("b/BkgOnly.json", f"./{target}"), ("b/x.dat", target))
    files = read_archive(put(raw), "archive").files
    assert files.pop("b/BkgOnly.json") == b"{}"
    assert files == ({target: b"{}"} if target.endswith("json") else {})


@pytest.mark.parametrize("target", ["a.json", "a.dat"])
def test_hard_links_count_against_the_limits(put: Callable[[bytes], Path], target: str) -> None:
    content = b"[" + os.urandom(MIB) + b"]"
    raw = _linked((target, content), *((f"{index}.json", target) for index in range(4)))
    with pytest.raises(InputError, match="decompression bomb"):
        read_archive(put(raw), "archive", LIMITS)


def _nested(pack: Pack, kind: str, depth: int, content: bytes = b"{}") -> bytes:
    files = {"x.json": content}
    for _ in range(depth - 1):
        files = {"inner.zip": pack(kind, files)}
    return pack(kind, files)


def test_archives_in_archives_are_opened_to_a_depth(
    put: Callable[[bytes], Path], pack: Pack
) -> None:
    depth = Limits().depth
    deepest = read_archive(put(_nested(pack, "zip", depth)), "archive")
    assert list(deepest.files) == ["inner.zip/" * (depth - 1) + "x.json"]
    deeper = read_archive(put(_nested(pack, "zip", depth + 1)), "archive")
    assert (deeper.files, deeper.others) == ({}, ["inner.zip/" * (depth - 1) + "inner.zip"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_in_an_archive_in_an_archive_is_cut_short(
    put: Callable[[bytes], Path], pack: Pack, kind: str
) -> None:
    raw = _nested(pack, kind, 2, bytes(8 * MIB))
    with pytest.raises(InputError, match="decompression bomb"):
        read_archive(put(raw), "archive", LIMITS)


def test_many_archives_in_an_archive_share_its_limits(
    put: Callable[[bytes], Path], pack: Pack
) -> None:
    one = pack("zip", {"x.json": os.urandom(MIB // 2)})
    raw = pack("zip", {f"{index}.zip": one for index in range(5)})
    with pytest.raises(InputError, match="larger than any pallet"):
        read_archive(put(raw), "archive", LIMITS)


def test_what_could_do_harm_is_refused_in_an_inner_archive_too(
    put: Callable[[bytes], Path], pack: Pack
) -> None:
    raw = pack("zip", {"inner.tar": _tar_with(type=tarfile.SYMTYPE, linkname="/etc/passwd")})
    with pytest.raises(InputError, match="could do harm"):
        read_archive(put(raw), "archive")


def test_a_damaged_inner_archive_is_named(put: Callable[[bytes], Path], pack: Pack) -> None:
    inner = pack("targz", {"a.json": os.urandom(400_000)})
    contents = read_archive(put(pack("zip", {"x.tar.gz": inner[:200_000], "b.json": b"{}"})), "all")
    assert contents.files == {"b.json": b"{}"}
    assert contents.others[0].startswith("x.tar.gz (damaged: ")


@pytest.mark.parametrize("module", [gzip, bz2, lzma])
def test_a_packed_json_bomb_is_cut_short(put: Callable[[bytes], Path], module: Any) -> None:
    with pytest.raises(InputError, match="decompression bomb"):
        read_archive(put(module.compress(b"[" + b" " * (8 * MIB))), "a.json.gz", LIMITS)
