"""Downloads, from a server on this machine that behaves and misbehaves."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from fitserve.errors import InputError, StoreError
from fitserve.pallet import download as cache
from fitserve.pallet import download as module
from fitserve.pallet.download import APPROVED_HOSTS, cached_archive, check_address, download, forget
from fitserve.pallet.load import load_pallet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Pack = Callable[[str, dict[str, bytes]], bytes]


class Site(ThreadingHTTPServer):
    """A server of one archive; each request may be answered by another behaviour."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.body = b""
        self.behaviours: list[str] = []
        self.requests: list[dict[str, str]] = []
        self.version = '"1"'
        self.ended = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/record/resource/1408476?view=true"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def do_GET(self) -> None:
        site = self.server
        site.requests.append(dict(self.headers))
        behaviour = site.behaviours.pop(0) if site.behaviours else "send"
        if behaviour.isdigit():
            self.send_error(int(behaviour))
            return
        if behaviour.startswith("to "):
            self.send_response(302)
            self.send_header("Location", behaviour.removeprefix("to "))
            self.end_headers()
            # It may come with a page, which is nobody's business: this one has no end.
            with contextlib.suppress(OSError):
                while not site.ended.wait(0.01):
                    self.wfile.write(bytes(1024**2))
            return
        start = 0
        asked = self.headers.get("Range")
        if asked and self.headers.get("If-Range") == site.version:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-/{len(site.body)}")
        else:
            self.send_response(200)
        body = site.body[start:]
        self.send_header("Content-Length", str(len(body)))
        if site.version:
            self.send_header("ETag", site.version)
        self.end_headers()
        while behaviour == "drip" and not site.ended.wait(0.1):
            self.wfile.write(body[:1])
        # A broken connection: half of what was promised.
        self.wfile.write(body[: len(body) // 2] if behaviour == "half" else body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def site(pack: Pack, sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(module, "_PAUSES", (0.0,) * 4)
    with Site() as server:
        # Random bytes do not pack: the archive is of many chunks.
        server.body = pack("targz", sound | {"plot.png": os.urandom(600_000)})
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def _left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_archive_is_kept_and_verified(site: Site, tmp_path: Path) -> None:
    path = download(site.url, tmp_path, force=True)
    assert path.read_bytes() == site.body
    assert cached_archive(site.url, tmp_path) == path
    sha256 = hashlib.sha256(site.body).hexdigest()
    assert _left_in(tmp_path) == sorted([sha256, "record.json"])
    record = json.loads((path.parent / "record.json").read_text())
    assert (record["url"], record["sha256"], record["size"]) == (site.url, sha256, len(site.body))
    assert site.requests[0]["Accept"] == "application/x-tar, application/zip"
    forget(site.url, tmp_path)
    assert list((tmp_path / "archives").iterdir()) == []
    assert cached_archive(site.url, tmp_path) is None


def test_a_url_is_a_pallet_and_is_asked_for_once(site: Site, tmp_path: Path) -> None:
    for _ in range(2):
        pallet = load_pallet(site.url, cache_dir=tmp_path, force=True)
        assert len(pallet.hypotheses) == 5
        assert pallet.source == site.url
        assert pallet.name == "1408476"
        assert pallet.forced == ("127.0.0.1 is not an approved host",)
    assert len(site.requests) == 1
    with pytest.raises(InputError, match="approved hosts only"):
        load_pallet(site.url, cache_dir=tmp_path)


def test_a_broken_connection_is_resumed(site: Site, tmp_path: Path) -> None:
    site.behaviours = ["half", "half", "send"]
    assert download(site.url, tmp_path, force=True).read_bytes() == site.body
    starts = [request.get("Range", "bytes=0-")[6:-1] for request in site.requests]
    assert 0 < len(site.body) // 2 - int(starts[1]) < 100_000
    assert int(starts[2]) > int(starts[1])


@pytest.mark.parametrize("version", ["", 'W/"1"'])
def test_what_cannot_be_resumed_is_begun_again(site: Site, tmp_path: Path, version: str) -> None:
    site.version = version
    site.behaviours = ["half", "send"]
    assert download(site.url, tmp_path, force=True).read_bytes() == site.body
    assert "Range" not in site.requests[1]


def test_an_archive_that_changed_meanwhile_is_begun_again(
    site: Site, tmp_path: Path, pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.behaviours = ["half", "send"]
    new = pack("zip", {"a.json": b"{}"})
    original = Handler.do_GET

    def change(self: Handler) -> None:
        original(self)
        site.version, site.body = '"2"', new

    monkeypatch.setattr(Handler, "do_GET", change)
    assert download(site.url, tmp_path, force=True).read_bytes() == new
    assert site.requests[1]["If-Range"] == '"1"'


@pytest.mark.parametrize(
    ("behaviours", "told"),
    [
        (["half"] * 4, r"could not be downloaded.*bytes arrived in 4 tries"),
        (["500"] * 4, r"could not be downloaded.*500 Server Error"),
        (["404"], r"nothing to download at .*404 Not Found"),
        (["403"], r"nothing to download at .*403 Forbidden"),
        (["to ftp://127.0.0.1/x"], r"through https only"),
        (["to http://192.0.2.1/x"], r"through https only"),
        (["to //[x/"], r"redirects to no valid address"),
        (["to /again"] * 11, r"redirects without end"),
    ],
)
def test_a_download_that_fails_leaves_what_was_there(
    site: Site, tmp_path: Path, behaviours: list[str], told: str
) -> None:
    site.behaviours = list(behaviours)
    with pytest.raises(InputError, match=f"(?s){told}"):
        download(site.url, tmp_path, force=True)
    assert _left_in(tmp_path) == []
    before = download(site.url, tmp_path, force=True)
    site.behaviours = list(behaviours)
    with pytest.raises(InputError):
        download(site.url, tmp_path, force=True)
    assert cached_archive(site.url, tmp_path) == before
    assert len(_left_in(tmp_path)) == 2


@pytest.mark.parametrize(
    ("hop", "target"),
    [
        ("https://www.hepdata.net/x", "http://127.0.0.1:1/x"),
        ("https://www.hepdata.net/x", "https://localhost/x"),
        ("https://www.hepdata.net/x", "https://10.0.0.1/x"),
        ("https://www.hepdata.net/x", "https://[::1]/x"),
        ("https://www.hepdata.net/x", "https://169.254.169.254/latest"),
        ("https://www.hepdata.net/x", "http://www.hepdata.net/y"),
        ("http://127.0.0.1/x", "file:///etc/passwd"),
        *(
            ("https://www.hepdata.net/x", f"https://{inside}/x")
            for inside in (
                "127.1",
                "0x7f000001",
                "2130706433",
                "0177.0.0.1",
                "0",
                "127%2e0.0.1",
                "[::ffff:10.0.0.1]",
                "[64:ff9b::7f00:1]",
                "[2002:7f00:1::1]",
                "[fe80::1%25lo]",
                "224.0.0.1",
                "LOCALHOST.",
                "loc%61lhost",
                "intranet",
                "nas.lan",
                r"127.0.0.1\@www.hepdata.net",
                "www.hepdata.net@127.0.0.1",
                "\u2460.0.0.1",
            )
        ),
    ],
)
def test_where_a_server_may_not_send_on_to_nobody_is_asked(hop: str, target: str) -> None:
    asked: list[str] = []

    class Session:
        def get(self, url: str, **_: Any) -> Any:
            asked.append(url)
            return SimpleNamespace(close=lambda: None)

        def get_redirect_target(self, _: Any) -> str:
            return target

    with pytest.raises(InputError):
        module._request(Session(), hop, 0, None)
    assert asked == [hop]


def test_a_server_may_send_on(site: Site, tmp_path: Path) -> None:
    site.behaviours = ["to /elsewhere", f"to {site.url}", "send"]
    assert download(site.url, tmp_path, force=True).read_bytes() == site.body
    module._next_hop("https://doi.org/10.17182/x", "https://www.hepdata.net/record/1")
    module._next_hop("https://www.hepdata.net/x", "https://storage.example.org/x")


def test_a_server_that_drips_is_not_waited_for(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 0.5)
    site.behaviours = ["drip"]
    with pytest.raises(InputError, match="could not be downloaded in time"):
        download(site.url, tmp_path, force=True)
    assert _left_in(tmp_path) == []
    site.ended.set()


def test_a_server_that_recovers_is_waited_for(site: Site, tmp_path: Path) -> None:
    site.behaviours = ["503", "502", "send"]
    assert download(site.url, tmp_path, force=True).read_bytes() == site.body


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\n<!DOCTYPE html><html>", "does not send an archive.*it sends a web page"),
        (b'{"message": "no"}', "does not send an archive.*no"),
        (b"", "does not send an archive"),
        (b"\x1f\x8b\x08\x00", "damaged or cut short"),
    ],
)
def test_what_is_no_archive_is_not_kept(site: Site, tmp_path: Path, body: bytes, told: str) -> None:
    site.body = body
    with pytest.raises(InputError, match=f"(?s){told}"):
        download(site.url, tmp_path, force=True)
    assert _left_in(tmp_path) == []


def test_an_endless_body_is_stopped(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_BYTES", 100)
    with pytest.raises(InputError, match="sends more than any pallet has"):
        download(site.url, tmp_path, force=True)
    assert _left_in(tmp_path) == []


def test_nobody_there_is_told(site: Site, tmp_path: Path) -> None:
    url = site.url
    site.shutdown()
    site.server_close()
    with pytest.raises(InputError, match="could not be downloaded") as caught:
        download(url, tmp_path, force=True)
    assert caught.value.evidence.endswith("0 bytes arrived in 4 tries, then: Connection refused")


def test_a_damaged_copy_is_not_used(site: Site, tmp_path: Path) -> None:
    path = download(site.url, tmp_path, force=True)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="in the cache is damaged"):
        cached_archive(site.url, tmp_path)
    # As a pallet it is downloaded anew.
    assert load_pallet(site.url, cache_dir=tmp_path, force=True).digest_verified
    (path.parent / "record.json").write_text("{")
    with pytest.raises(InputError, match="in the cache is damaged"):
        cached_archive(site.url, tmp_path)


def test_a_new_version_replaces_the_old(site: Site, tmp_path: Path, pack: Pack) -> None:
    old = download(site.url, tmp_path, force=True)
    site.body = pack("zip", {"a.json": b"{}"})
    new = download(site.url, tmp_path, force=True)
    assert cached_archive(site.url, tmp_path) == new
    assert not old.exists()


def test_what_a_killed_download_left_is_removed_later(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = download(site.url, tmp_path, force=True)
    part = path.parent / ".part-killed"
    part.write_bytes(b"half")
    download(site.url, tmp_path, force=True)
    assert part.exists()
    monkeypatch.setattr(cache, "_STALE", -1.0)
    download(site.url, tmp_path, force=True)
    assert not part.exists()
    assert cached_archive(site.url, tmp_path) is not None


def test_a_cache_that_cannot_be_written_is_told(site: Site, tmp_path: Path) -> None:
    (tmp_path / "archives").write_text("a file where a directory should be")
    with pytest.raises(StoreError, match="cache of downloads cannot be used") as caught:
        download(site.url, tmp_path, force=True)
    assert caught.value.exit_code == 6
    assert "FITSERVE_CACHE" in caught.value.hint


def test_a_full_disk_is_told(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StoreError) as caught:
        download(site.url, tmp_path, force=True)
    assert "No space left on device" in caught.value.evidence
    assert _left_in(tmp_path) == []


@pytest.mark.parametrize("url", [f"https://{host}/10.17182/x" for host in sorted(APPROVED_HOSTS)])
def test_hosts_of_published_pallets_are_approved(url: str) -> None:
    check_address(url, force=False)


@pytest.mark.parametrize(
    ("url", "force"),
    [
        ("https://example.org/x.zip", False),
        ("http://www.hepdata.net/x.zip", False),
        ("http://127.0.0.1/x.zip", False),
        ("https://www.hepdata.net@example.org/x.zip", False),
        (r"https://example.org\@www.hepdata.net/x.zip", False),
        ("http://example.org/x.zip", True),
        ("file:///etc/passwd", True),
    ],
)
def test_other_addresses_are_refused(url: str, *, force: bool) -> None:
    with pytest.raises(InputError, match="archives are downloaded"):
        check_address(url, force=force)
    if not force:
        return
    with pytest.raises(InputError, match="through https only"):
        check_address(url, force=True)


def test_an_archive_of_another_host_is_not_taken_for_one_of_hepdata(
    tmp_path: Path, pack: Pack, sound: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "archive"
    path.write_bytes(pack("zip", sound))
    monkeypatch.setattr("fitserve.pallet.source.download", lambda *_, **__: path)
    url = r"https://example.org\@www.hepdata.net/x"
    assert load_pallet(url, cache_dir=tmp_path, force=True).forced == (
        "example.org is not an approved host",
    )


@pytest.mark.parametrize("url", ["https://", "https://example.org:port/x", "https://[x/"])
def test_what_is_no_address_is_told(url: str) -> None:
    with pytest.raises(InputError, match="is not an address"):
        check_address(url, force=True)


def test_approved_hosts_are_those_of_pyhf(tmp_path: Path) -> None:
    """`pyhf.contrib.utils.download` names them in its refusal."""
    from pyhf.contrib.utils import download as pyhf_download
    from pyhf.exceptions import InvalidArchiveHost

    with pytest.raises(InvalidArchiveHost) as caught:
        pyhf_download("https://example.org/x.zip", tmp_path)
    assert all(host in str(caught.value) for host in APPROVED_HOSTS)
    assert str(caught.value).splitlines()[0].count(",") == len(APPROVED_HOSTS) - 1


@pytest.mark.parametrize(
    "source", ["10.17182/hepdata.90607.v3/r3", "doi:10.17182/hepdata.90607.v3/r3"]
)
def test_a_doi_is_an_address(
    source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, pack: Pack, sound: Any
) -> None:
    asked: list[str] = []
    path = tmp_path / "archive"
    path.write_bytes(pack("zip", sound))

    def get(url: str, *_: Any, **__: Any) -> Path:
        asked.append(url)
        return path

    monkeypatch.setattr("fitserve.pallet.source.download", get)
    pallet = load_pallet(source, cache_dir=tmp_path)
    assert asked == ["https://doi.org/10.17182/hepdata.90607.v3/r3"]
    assert pallet.name == "10.17182-hepdata.90607.v3-r3"
    assert pallet.forced == ()
