"""A notebook's pod as a JupyterHub makes it, and the notebook that is run in it."""

from __future__ import annotations

import base64
import io
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from waiting import wait_for

if TYPE_CHECKING:
    from kuberig.cluster import Cluster

__all__ = ["NOTEBOOK", "Notebook", "code_cells", "notebook_pod"]

NOTEBOOK = Path(__file__).parents[3] / "deploy" / "kubernetes" / "jupyterhub" / "exclusion.ipynb"
_HOME = "/home/jovyan"
_SEND = """
import base64, io, sys, tarfile
told = io.BytesIO()
with tarfile.open(fileobj=told, mode="w:gz") as tar:
    tar.add(sys.argv[1], "run")
print(base64.b64encode(told.getvalue()).decode())
"""


def code_cells(path: Path = NOTEBOOK) -> list[str]:
    """Return the code of a notebook, cell by cell."""
    cells = json.loads(path.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def notebook_pod(values: dict[str, Any], name: str, image: str) -> dict[str, Any]:
    """Return the pod that KubeSpawner 7.1 makes of a hub's values, as far as they concern it.

    Its command waits, where a hub's would serve Jupyter; the user's home goes with the pod.

    Parameters
    ----------
    values
        Of *Zero to JupyterHub*'s chart, whose defaults for user and group are used.
    """
    user = values["singleuser"]
    spawner = values["hub"]["config"]["KubeSpawner"]
    home = {"name": "home", "emptyDir": {"sizeLimit": "1Gi"}}
    container = {
        "name": "notebook",
        "image": image,
        "command": ["sleep", "3600"],
        "workingDir": _HOME,
        "env": [{"name": "HOME", "value": _HOME}, *user["extraEnv"].values()],
        "securityContext": {"runAsUser": 1000, **spawner["container_security_context"]},
        "volumeMounts": [
            {"name": "home", "mountPath": _HOME},
            *user["storage"]["extraVolumeMounts"],
        ],
    }
    spec = {
        "restartPolicy": "OnFailure",
        "serviceAccountName": user["serviceAccountName"],
        "automountServiceAccountToken": spawner["automount_service_account_token"],
        "securityContext": {"fsGroup": 100, **spawner["pod_security_context"]},
        "containers": [container],
        "volumes": [home, *user["storage"]["extraVolumes"]],
        "terminationGracePeriodSeconds": 1,
    }
    metadata = {"name": name, "labels": dict(user["extraLabels"])}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


class Notebook:
    """A notebook's pod that runs.

    Parameters
    ----------
    namespace
        Where it is made.
    pod
        From `notebook_pod`.
    """

    def __init__(self, kube: Cluster, namespace: str, pod: dict[str, Any]) -> None:
        self._kube = kube
        self._here = ("--namespace", namespace)
        self._name = pod["metadata"]["name"]
        kube.kubectl("create", *self._here, "-f", "-", stdin=json.dumps(pod))
        wait_for("the notebook", self._runs, 120)

    def _runs(self) -> bool:
        words = ("get", "pod", self._name, *self._here, "--output", "jsonpath={.status.phase}")
        return self._kube.kubectl(*words) == "Running"

    def __call__(self, code: str) -> str:
        """Run code in it, as one cell after another; returns what is printed."""
        words = ("exec", "--stdin", self._name, *self._here, "--", "python", "-")
        return self._kube.kubectl(*words, stdin=code)

    def fetch(self, path: str, place: Path) -> Path:
        """Bring a directory from the pod into one here."""
        words = ("exec", self._name, *self._here, "--", "python", "-c", _SEND, path)
        told = io.BytesIO(base64.b64decode(self._kube.kubectl(*words)))
        with tarfile.open(fileobj=told) as tar:
            tar.extractall(place, filter="data")
        return place / "run"

    def close(self) -> None:
        """Delete it."""
        self._kube.kubectl("delete", "pod", self._name, *self._here)
