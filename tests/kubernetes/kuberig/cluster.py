"""A real Kubernetes of one node: etcd, API server, controllers, scheduler, containerd, kubelet."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import IO, Any

import yaml

from kuberig.images import PAUSE, pause_archive
from kuberig.node import Node
from kuberig.pki import make_pki, write_kubeconfig
from kuberig.tools import cache, command
from waiting import wait_for

__all__ = ["PACKAGES", "Cluster", "missing"]

PACKAGES = (
    *("containerd", "runc", "etcd-server", "containernetworking-plugins", "catatonit"),
    *("socat", "iproute2", "openssl"),
)
"""Debian's packages that the rig runs."""
_COMMANDS = ("containerd", "runc", "etcd", "catatonit", "socat", "ip", "openssl", "unshare")
_PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet")
_NETWORK = "10.79"
_SERVICES = "10.96.0.0/16"
_API = "10.96.0.1"
"""The first address of the services: pods are told to find the API server there."""


def missing() -> str | None:
    """Return what keeps a cluster from being brought up here, or None."""
    if os.geteuid() != 0:
        return "the cluster needs root"
    absent = [name for name in _COMMANDS if shutil.which(name) is None]
    if absent:
        return f"no {', '.join(absent)}: apt-get install {' '.join(PACKAGES)}"
    if not all((cache() / "bin" / name).exists() for name in _PROGRAMS):
        return f"no Kubernetes in {cache()}: tests/kubernetes/kuberig/build.sh builds it once"
    return None


class Cluster:
    """One node, its control plane on it, and what a test does to them."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="fitserve-kube-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        self.node = Node(self.directory / "node", _NETWORK)
        self.pki = self.directory / "pki"
        self._programs = cache() / "bin"
        self._turn: IO[str] | None = None

    @property
    def server(self) -> str:
        """Address of the API server outside."""
        return f"https://{self.node.address}:6443"

    # -- up and down ------------------------------------------------------------------------

    def up(self) -> None:
        """Bring everything up; takes about half a minute, and waits for another's end."""
        self._turn = (cache() / "cluster.lock").open("w")
        fcntl.flock(self._turn, fcntl.LOCK_EX)
        Node.forget()
        make_pki(self.pki, ["127.0.0.1", self.node.address, _API])
        self.node.up(_API)
        self.kubeconfig = write_kubeconfig(self.pki, "admin", self.server)
        self._start_etcd()
        self._start_containerd()
        self._start_control_plane()
        self.start_kubelet()
        self.load(pause_archive(self.directory))
        wait_for("a node that is ready", self._ready, 120)

    def down(self) -> None:
        """End everything; nothing of it is left but what its programs said, in the cache."""
        logs = self.node.directory / "log"
        if logs.exists():
            shutil.copytree(logs, cache() / "log", dirs_exist_ok=True)
        self.node.down()
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._turn is not None:
            self._turn.close()

    def _start_etcd(self) -> None:
        url = "http://127.0.0.1:2379"
        self.node.start(
            "etcd",
            *("etcd", "--data-dir", self.directory / "etcd", "--listen-peer-urls"),
            *("http://127.0.0.1:2380", "--listen-client-urls", url, "--advertise-client-urls", url),
        )

    def _start_containerd(self) -> None:
        place = self.directory / "containerd"
        networks = place / "net.d"
        networks.mkdir(parents=True)
        network = {
            "cniVersion": "0.4.0",
            "name": "pods",
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "pods0",
                    "isGateway": True,
                    "hairpinMode": True,
                    "ipam": {
                        "type": "host-local",
                        "dataDir": str(place / "addresses"),
                        "ranges": [[{"subnet": self.node.pods}]],
                        "routes": [{"dst": "0.0.0.0/0"}],
                    },
                }
            ],
        }
        (networks / "10-pods.conflist").write_text(json.dumps(network))
        (place / "config.toml").write_text(
            f"""version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = "{place}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Only a machine's own root may make a process harder to kill.
  restrict_oom_score_adj = true
  disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "/usr/lib/cni"
  conf_dir = "{networks}"
"""
        )
        self.node.start("containerd", "containerd", "--config", place / "config.toml")
        wait_for("containerd", (place / "containerd.sock").exists, 30)

    def _start_control_plane(self) -> None:
        pki = self.pki
        self.node.start(
            "apiserver",
            self._programs / "kube-apiserver",
            "--etcd-servers=http://127.0.0.1:2379",
            f"--advertise-address={self.node.address}",
            *("--secure-port=6443", "--insecure-port=0", "--allow-privileged=false"),
            *(f"--tls-cert-file={pki}/server.crt", f"--tls-private-key-file={pki}/server.key"),
            *(f"--client-ca-file={pki}/ca.crt", f"--token-auth-file={pki}/tokens.csv"),
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction,ServiceAccount,Priority",
            f"--service-cluster-ip-range={_SERVICES}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={pki}/accounts.pub",
            f"--service-account-signing-key-file={pki}/accounts.key",
            f"--kubelet-client-certificate={pki}/kubelet-client.crt",
            f"--kubelet-client-key={pki}/kubelet-client.key",
            "--kubelet-preferred-address-types=InternalIP",
        )
        wait_for("the API server", lambda: self.answers("get", "--raw=/readyz"), 120)
        # What kube-proxy would do for the one service that there is.
        self.node.start(
            "service",
            *("socat", f"TCP-LISTEN:443,bind={_API},fork,reuseaddr", "TCP:127.0.0.1:6443"),
        )
        local = "https://127.0.0.1:6443"
        self.node.start(
            "controllers",
            self._programs / "kube-controller-manager",
            f"--kubeconfig={write_kubeconfig(pki, 'controllers', local)}",
            f"--service-account-private-key-file={pki}/accounts.key",
            f"--root-ca-file={pki}/ca.crt",
            *("--leader-elect=false", "--port=0", "--use-service-account-credentials=true"),
            # A node that is silent is given up sooner than after five minutes.
            *("--node-monitor-grace-period=20s", "--pod-eviction-timeout=20s"),
        )
        self.node.start(
            "scheduler",
            self._programs / "kube-scheduler",
            f"--kubeconfig={write_kubeconfig(pki, 'scheduler', local)}",
            *("--leader-elect=false", "--port=0"),
        )

    def start_kubelet(self) -> None:
        """Start kubelet, as after a crash."""
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "cgroupDriver": "cgroupfs",
            "failSwapOn": False,
            "resolvConf": "",
            "authentication": {
                "anonymous": {"enabled": False},
                "webhook": {"enabled": True},
                "x509": {"clientCAFile": str(self.pki / "ca.crt")},
            },
            "authorization": {"mode": "Webhook"},
            "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
            "oomScoreAdj": 0,
        }
        path = self.directory / "kubelet.yaml"
        path.write_text(yaml.safe_dump(config))
        local = "https://127.0.0.1:6443"
        self.node.start(
            "kubelet",
            self._programs / "kubelet",
            f"--kubeconfig={write_kubeconfig(self.pki, 'node', local)}",
            f"--config={path}",
            *("--hostname-override=node", f"--node-ip={self.node.address}"),
            *(f"--root-dir={self.directory}/kubelet", f"--cert-dir={self.directory}/kubelet-pki"),
            "--container-runtime=remote",
            f"--container-runtime-endpoint=unix://{self.directory}/containerd/containerd.sock",
        )

    # -- what tests do ----------------------------------------------------------------------

    def load(self, archive: Path, *names: str) -> None:
        """Load an image's archive into the node, under further names."""
        ctr = ("ctr", "--address", self.directory / "containerd" / "containerd.sock")
        told = self.node.run(*ctr, "--namespace", "k8s.io", "images", "import", archive)
        own = told.split()[1] if told.startswith("unpacking") else ""
        for name in names:
            self.node.run(*ctr, "--namespace", "k8s.io", "images", "tag", "--force", own, name)

    def kubectl(self, *words: object, stdin: str | None = None) -> str:
        """Run kubectl as the cluster's administrator."""
        done = self._kubectl(*words, stdin=stdin)
        assert done.returncode == 0, f"kubectl {' '.join(map(str, words))}: {done.stderr}"
        return done.stdout

    def answers(self, *words: object) -> str | None:
        """Return what kubectl says, or None if it fails."""
        done = self._kubectl(*words)
        return done.stdout if done.returncode == 0 else None

    def get(self, kind: str, namespace: str | None = None, selector: str = "") -> list[Any]:
        """Return the objects of a kind."""
        where = ["--namespace", namespace] if namespace else []
        found = self.kubectl("get", kind, *where, "--selector", selector, "--output", "json")
        return list(json.loads(found)["items"])

    def environment(self) -> dict[str, str]:
        """Return the environment in which helm and kubectl reach this cluster."""
        tools = str(cache() / "tools")
        home = self.directory / "home"
        home.mkdir(exist_ok=True)
        path = f"{tools}:{os.environ['PATH']}"
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig), "PATH": path, "HOME": str(home)}

    def _kubectl(
        self, *words: object, stdin: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [command("kubectl"), *map(str, words)],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )

    def _ready(self) -> bool:
        return any(
            one["type"] == "Ready" and one["status"] == "True"
            for node in self.get("nodes")
            for one in node["status"]["conditions"]
        )
