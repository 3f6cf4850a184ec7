"""Certificates, tokens and configurations of a cluster that lives for an hour."""

from __future__ import annotations

import secrets
import subprocess
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["USERS", "make_pki", "write_kubeconfig"]

USERS = {
    "admin": ("admin", "system:masters"),
    "controllers": ("system:kube-controller-manager", ""),
    "scheduler": ("system:kube-scheduler", ""),
    "node": ("system:node:node", "system:nodes"),
}
"""Name and group of each user that has a token."""


def _openssl(place: Path, *words: str) -> None:
    subprocess.run(["openssl", *words], cwd=place, check=True, capture_output=True)


def _certificate(place: Path, name: str, subject: str, extension: str) -> None:
    _openssl(
        place,
        *("req", "-newkey", "rsa:2048", "-nodes", "-subj", subject),
        *("-keyout", f"{name}.key", "-out", f"{name}.csr"),
    )
    (place / f"{name}.ext").write_text(extension)
    _openssl(
        place,
        *("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key"),
        *("-CAcreateserial", "-days", "2", "-out", f"{name}.crt", "-extfile", f"{name}.ext"),
    )


def make_pki(place: Path, addresses: list[str]) -> None:
    """Write an authority, what it signed, and the tokens of `USERS`, into a new directory."""
    place.mkdir(mode=0o700)
    _openssl(
        place,
        *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=rig"),
        *("-keyout", "ca.key", "-out", "ca.crt"),
    )
    names = ",".join([*(f"IP:{one}" for one in addresses), "DNS:kubernetes.default.svc"])
    _certificate(place, "server", "/CN=kube-apiserver", f"subjectAltName={names}\n")
    # By it the API server is known to kubelet, which must let it in.
    client = "extendedKeyUsage=clientAuth\n"
    _certificate(place, "kubelet-client", "/O=system:masters/CN=kube-apiserver", client)
    _openssl(place, "genrsa", "-out", "accounts.key", "2048")
    _openssl(place, "rsa", "-in", "accounts.key", "-pubout", "-out", "accounts.pub")
    lines = []
    for user, (name, group) in USERS.items():
        token = secrets.token_hex(16)
        (place / f"{user}.token").write_text(token)
        lines.append(f'{token},{name},{user},"{group}"\n')
    (place / "tokens.csv").write_text("".join(lines))


def write_kubeconfig(place: Path, user: str, server: str, token: str | None = None) -> Path:
    """Write how a user, or the bearer of a token, reaches a server; returns the file."""
    token = token or (place / f"{user}.token").read_text()
    ca = str(place / "ca.crt")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "rig", "cluster": {"server": server, "certificate-authority": ca}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "rig", "context": {"cluster": "rig", "user": user}}],
        "current-context": "rig",
    }
    path = place / f"{user}.kubeconfig"
    path.write_text(yaml.safe_dump(config))
    return path
