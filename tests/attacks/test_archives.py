"""Archives whose headers are made to take for ever are refused at once."""

from __future__ import annotations

import gzip
import io
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from fitserve.errors import InputError
from fitserve.pallet.archive import read_archive

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 5.0


def _block(name: str, kind: bytes, content: bytes) -> bytes:
    """Return a header and its content, padded to whole blocks."""
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, len(content)
    return member.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)


ATTACKS = {
    "one header": _block("x", tarfile.XHDTYPE, b"1" * 200_000),
    "a global one": _block("x", tarfile.XGLTYPE, b"1" * 200_000),
    "many headers": _block("x", tarfile.XHDTYPE, b"1" * 8_000) * 200,
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_headers_take_bounded_time(tmp_path: Path, attack: str) -> None:
    file = tmp_path / "pallet.tar.gz"
    file.write_bytes(gzip.compress(ATTACKS[attack] + _block("b.json", b"0", b"{}") + bytes(1024)))
    begin = time.monotonic()
    with pytest.raises(InputError):
        read_archive(file, "archive")
    assert time.monotonic() - begin < SECONDS


def test_usual_pax_headers_are_read(tmp_path: Path) -> None:
    file = tmp_path / "pallet.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(2000):
            member = tarfile.TarInfo(f"{'folder/' * 20}sig\u00e1l_{number}.json")
            member.pax_headers = {"mtime": "1700000000.123456789", "atime": "1700000000.5"}
            member.size = 2
            archive.addfile(member, io.BytesIO(b"{}"))
    assert len(read_archive(file, "archive").files) == 2000
