"""The scan of an image finds each thing that it is for, in a small archive made here."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING

import pytest

from imagescan import Finding, layers, scan

if TYPE_CHECKING:
    from pathlib import Path

BASE64 = "MIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKcwggSjAgEAAoIB"
# In parts, for scanners that read this file.
KEY = f"-----BEGIN {{}}PRIVATE{' '}KEY-----\n{BASE64}\n"
HOST = "vm"


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode=mode) as made:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            made.addfile(member, io.BytesIO(content))
    return written.getvalue()


def _archive(
    directory: Path,
    *contents: dict[str, bytes],
    configuration: dict | None = None,
    annotations: dict | None = None,
    mode: str = "w",
) -> Path:
    """Write an image as podman does; the layers are given by their files."""
    blobs: dict[str, bytes] = {}

    def blob(content: bytes) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        blobs[f"blobs/sha256/{digest}"] = content
        return {"digest": f"sha256:{digest}", "size": len(content)}

    manifest = {
        "schemaVersion": 2,
        "config": blob(json.dumps(configuration or {"config": {}}).encode()),
        "layers": [blob(_tar(files, mode)) for files in contents],
        "annotations": annotations or {},
    }
    index = {"manifests": [blob(json.dumps(manifest).encode())]}
    archive = directory / "image.tar"
    archive.write_bytes(_tar({**blobs, "index.json": json.dumps(index).encode()}))
    return archive


@pytest.mark.parametrize(
    "path",
    [
        *("home/fitserve/.netrc", "root/.pypirc", "etc/pip.conf", "root/.config/pip/pip.conf"),
        *("root/.docker/config.json", "root/.aws/credentials", "home/fitserve/.ssh/known_hosts"),
        *("root/id_rsa", "etc/id_ed25519", "id_ecdsa", "root/.bash_history", "src/.git/config"),
        *("etc/apt/sources.list", "etc/apt/sources.list.d/mirror.list", "etc/apt/auth.conf"),
        *("run/secrets/pip_conf", "build/requirements/worker.lock", "opt/tools/bin/pip"),
        "root/.cache/pip/http/0",
    ],
)
def test_a_file_of_the_build_machine(tmp_path: Path, path: str) -> None:
    archive = _archive(tmp_path, {"etc/passwd": b"root"}, {f"./{path}": b"", "opt/x": b""})
    assert list(scan(archive, {})) == [Finding(1, path, "a file of the build machine")]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        *((KEY.format(kind), "a private key") for kind in ("", "RSA ", "OPENSSH ")),
        ("index-url = https://ada:s3cret@mirror.invalid/simple", "an address with a password"),
        ("http://oauth2:hunter2@10.0.0.7:8080/", "an address with a password"),
        ("password: pypi-AgEIcHlwaS5vcmcCJDAwMDAwMDAwLTAwMDA", "a token of PyPI"),
        *((f"token gh{kind}_" + 18 * "aZ", "a token of GitHub") for kind in "pousr"),
        ("aws_access_key_id = AKIA" + 8 * "Q7", "a token of AWS"),
    ],
)
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_secret_in_a_file(tmp_path: Path, content: str, what: str, mode: str) -> None:
    # Between other bytes, as in a compiled module.
    files = {"opt/module.pyc": b"\x00\xff " + content.encode() + b"\x00"}
    [found] = scan(_archive(tmp_path, files, mode=mode), {})
    assert (found.layer, found.path) == (0, "opt/module.pyc")
    assert found.what.startswith(f"{what}: ")


def test_a_file_that_a_later_layer_takes_away_is_still_there(tmp_path: Path) -> None:
    archive = _archive(tmp_path, {"etc/pip.conf": b""}, {"etc/.wh.pip.conf": b""})
    assert [found.layer for found in scan(archive, {})] == [0]
    assert [layer.getnames() for layer in layers(archive)] == [
        ["etc/pip.conf"],
        ["etc/.wh.pip.conf"],
    ]


@pytest.mark.parametrize(
    "content",
    [
        *("https://user:password@pypi.invalid/", "http://u:pw1@host/", "https://pypi.org/simple"),
        *("https://ada:s3cret@example.com/", "-----BEGIN PUBLIC KEY-----\n" + BASE64),
        *(
            "-----BEGIN PRIVATE KEY-----\n...",
            "ghp_short",
            "xghp_" + 36 * "a",
            "xAKIA" + 16 * "Q",
            "AKIA",
            "pypi-AgEIcHlwaS",
        ),
    ],
)
def test_what_documentation_has_is_no_finding(tmp_path: Path, content: str) -> None:
    files = {"usr/share/doc/x": content.encode(), "opt/builds/x": b"", "opt/pip.conf.md/x": b""}
    assert [
        one for one in scan(_archive(tmp_path, files), {}) if one.path != "opt/pip.conf.md/x"
    ] == []


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (
            {"Env": ["PATH=/bin", "HTTPS_PROXY=http://10.0.0.1:3128"]},
            "a setting of the build: HTTPS_",
        ),
        ({"Env": ["no_proxy=.invalid"]}, "a setting of the build: no_proxy"),
        ({"Env": ["PIP_INDEX_URL=/simple"]}, "a setting of the build: PIP_INDEX_URL"),
        ({"Env": ["REQUESTS_CA_BUNDLE=/x.pem"]}, "a setting of the build: REQUESTS_CA_BUNDLE"),
        ({"Env": ["SSL_CERT_FILE=/x.pem"]}, "a setting of the build: SSL_CERT_FILE"),
        ({"Labels": {"twine_password": "x"}}, "a setting of the build: twine_password"),
        ({"Env": ["INDEX=https://ada:s3cret@mirror.invalid/"]}, "an address with a password"),
        ({"Env": [KEY.format("RSA ")]}, "a private key"),
        ({"Labels": {"from": "/srv/build/tree"}}, "the checkout"),
        ({"Labels": {"builder": f"root@{HOST}"}}, "the host's name"),
        ({"Env": [f"HOSTNAME={HOST}"]}, "the host's name"),
        ({"Hostname": HOST}, "the host's name"),
    ],
)
def test_what_an_image_says_of_itself(tmp_path: Path, config: dict, what: str) -> None:
    archive = _archive(tmp_path, {"opt/x": b""}, configuration={"config": config})
    [found] = scan(archive, {"the checkout": b"/srv/build/tree"}, HOST)
    assert (found.layer, found.path) == (None, "configuration")
    assert found.what.startswith(what)


def test_the_history_and_the_annotations_are_looked_through(tmp_path: Path) -> None:
    history = {"history": [{"created_by": "/bin/sh -c PIP_CERT=/srv/ca.pem pip install x"}]}
    made = _archive(tmp_path, configuration=history, annotations={"base": "/srv/build/tree/base"})
    found = [one.what for one in scan(made, {"the checkout": b"/srv/build/tree"})]
    assert found == ["the checkout", "a setting of the build: PIP_CERT"]


def test_an_image_that_says_what_it_should_has_no_finding(tmp_path: Path) -> None:
    config = {
        "Env": ["PATH=/opt/fitserve/bin:/bin", "HOME=/home/fitserve", "JAX_PLATFORMS=cpu"],
        "Labels": {"org.opencontainers.image.title": "fitserve worker"},
        "User": "1000:1000",
    }
    history = [{"created_by": "/bin/sh -c #(nop) ENV PATH=/opt", "empty_layer": True}]
    archive = _archive(
        tmp_path, {"opt/x": b"x"}, configuration={"config": config, "history": history}
    )
    assert list(scan(archive, {"the checkout": b"/srv/build/tree"}, HOST)) == []


@pytest.mark.parametrize(
    "content",
    [
        *(f"{HOST}\n", f"localhost\n{HOST}\n", f"ssh-ed25519 AAAA root@{HOST}"),
        *(f"127.0.1.1\t{HOST}.invalid {HOST}\n", f"\n::1 localhost {HOST}", f"HOSTNAME={HOST}"),
        *(f'{{"hostname": "{HOST}"}}', f"index-url = http://{HOST}:8080/simple"),
    ],
)
def test_a_short_name_of_the_host_is_found_where_hosts_are_named(
    tmp_path: Path, content: str
) -> None:
    archive = _archive(tmp_path, {"etc/x": content.encode()})
    assert list(scan(archive, {}, HOST)) == [Finding(0, "etc/x", "the host's name")]


@pytest.mark.parametrize(
    "content",
    [
        *("vm = client.get()", "/proc/sys/vm/overcommit", "llvm", "*.vm", "\x01vm\x03"),
        *("F@Vm", "version 1.2 of vm", "root@vmware", "see vm\n", "java.vm.name"),
    ],
)
def test_a_short_name_of_the_host_in_a_program_is_no_finding(tmp_path: Path, content: str) -> None:
    assert list(scan(_archive(tmp_path, {"opt/x": content.encode()}), {}, HOST)) == []


def test_a_name_that_no_program_has_is_found_anywhere(tmp_path: Path) -> None:
    archive = _archive(tmp_path, {"opt/x": b"\x00zbuild-07\x1e", "opt/y": b"build"})
    assert [one.path for one in scan(archive, {}, "build-07")] == ["opt/x"]
    # A word is looked for as a short name is.
    assert list(scan(archive, {}, "build")) == [Finding(0, "opt/y", "the host's name")]
