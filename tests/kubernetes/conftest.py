"""Fixtures of the tests on Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from kuberig.fixtures import admin, kube
from sitekit.load import load_site

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from sitekit.site import Site

# Here, so that all modules share one cluster.
__all__ = ["admin", "kube"]

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: none
contexts: [{name: none, context: {cluster: none, user: none}}]
clusters: [{name: none, cluster: {server: "https://192.0.2.1"}}]
users: [{name: none, user: {}}]
"""


class Cluster:
    """Pods as the API keeps them, and every call with its verb."""

    def __init__(self) -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.calls: list[str] = []
        self.down = False

    def _answer(self, verb: str, name: str) -> dict[str, Any]:
        from kubernetes.client import ApiException

        self.calls.append(verb)
        if self.down:
            raise ApiException(status=503)
        if name not in self.pods:
            raise ApiException(status=404)
        return self.pods[name]

    def create_namespaced_pod(self, *, namespace: str, body: dict[str, Any]) -> None:
        self.calls.append("create")
        self.pods[body["metadata"]["name"]] = {**body, "status": {"phase": "Pending"}}

    def read_namespaced_pod(self, *, name: str, namespace: str) -> Any:
        pod = self._answer("get", name)
        return type("Pod", (), {"to_dict": lambda _: pod})()

    def delete_namespaced_pod(self, *, name: str, namespace: str) -> None:
        self._answer("delete", name)
        del self.pods[name]


@pytest.fixture
def cluster() -> Cluster:
    """Return a cluster that only remembers."""
    return Cluster()


@pytest.fixture
def kubeconfig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration of no cluster, which Parsl's provider finds."""
    path = tmp_path / "kubeconfig"
    path.write_text(KUBECONFIG)
    from kubernetes.config import kube_config

    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


@pytest.fixture
def make_site(tmp_path: Path) -> Callable[..., Site]:
    """Return a function that loads a shipped site with changes."""

    def make(base: str, /, **changes: Any) -> Site:
        path = tmp_path / "changed.yaml"
        path.write_text(yaml.safe_dump({"extends": base, **changes}))
        return load_site(str(path))[0]

    return make
