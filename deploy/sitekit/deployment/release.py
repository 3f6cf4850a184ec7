"""A site's Helm release: install it, upgrade it, roll it back, destroy it.

Helm's own history in the cluster says what served, and with which values: whoever deploys next,
from anywhere, finds it there. `helm rollback` alone is not enough: the revision before may have
failed, be the same, or not know the endpoint's id.
"""

from __future__ import annotations

import base64
import json
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from fitserve.endpoints.cards import RenderedCard
from fitserve.errors import BackendError
from sitekit.deployment.helm import ask, differs, items, run
from sitekit.deployment.targets import CREDENTIALS, credentials
from sitekit.derive import derive
from sitekit.helm_values import CHART, helm_values
from sitekit.pods import HOME

if TYPE_CHECKING:
    from sitekit.context import Rendering
    from sitekit.site import Site

__all__ = [
    "Installed",
    "Release",
    "Revision",
    "namespace_manifest",
]

_MADE = "fitserve/made-by-deploying"
_KEPT_REVISIONS = "5"
_MISSED = "pods,jobs,deployments,statefulsets,configmaps,secrets,persistentvolumeclaims"
_EVERYWHERE = {"kube-root-ca.crt", "openshift-service-ca.crt"}
_KINDS = (
    *("deployments", "pods", "jobs", "configmaps", "secrets", "persistentvolumeclaims"),
    *("serviceaccounts", "roles", "rolebindings", "networkpolicies", "poddisruptionbudgets"),
)


class Revision(NamedTuple):
    """A revision, as Helm keeps it.

    Attributes
    ----------
    manifest
        The objects that the chart rendered to.
    values
        The values that the chart was given.
    """

    number: int
    manifest: str
    values: dict[str, Any]

    @property
    def enabled(self) -> bool:
        """Whether it has an endpoint."""
        return bool(self._endpoint.get("enabled", True))

    @property
    def endpoint_id(self) -> str | None:
        """Id under which its endpoint is registered, if the revision itself knows it."""
        ident: str | None = self._endpoint.get("id")
        return ident

    def keeps_endpoint_of(self, other: Revision) -> bool:
        """Return whether users of the other revision's endpoint would find the same one."""
        if not other.enabled:
            return True
        if not self.enabled:
            return False
        # On a volume, the endpoint's state knows the id, whatever the values say.
        on_volume = self.on_volume and other.on_volume
        ids = {self.endpoint_id, other.endpoint_id} - {None}
        return len(ids) <= 1 and (on_volume or self.endpoint_id is not None)

    @property
    def on_volume(self) -> bool:
        """Whether the endpoint's state is on a volume, which outlives its pod."""
        return bool((self._endpoint.get("state") or {}).get("size"))

    @property
    def _endpoint(self) -> dict[str, Any]:
        values: dict[str, Any] = self.values.get("endpoint") or {}
        return values


def namespace_manifest(name: str) -> dict[str, Any]:
    """Return a namespace that admits only pods of the restricted Pod Security profile."""
    profile = "pod-security.kubernetes.io"
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {f"{profile}/{mode}": "restricted" for mode in ("enforce", "warn", "audit")},
            "annotations": {_MADE: "true"},
        },
    }


class Installed(NamedTuple):
    """What installing did.

    Attributes
    ----------
    endpoint
        Whether there is an endpoint: otherwise there were no credentials for one.
    changed
        Whether anything had to be changed.
    before
        The revision that served before, if there was one.
    """

    endpoint: bool
    changed: bool
    before: int | None


class Release:
    """A site in its cluster.

    Parameters
    ----------
    site
        A Kubernetes site.
    rendering
        Version, and the ids that are known.
    overrides
        Helm values that win over the site's, as Helm merges them.

    Attributes
    ----------
    name
        Of the release, which is the endpoint's.
    namespace
        Of everything that belongs to it.
    """

    def __init__(
        self, site: Site, rendering: Rendering, overrides: dict[str, Any] | None = None
    ) -> None:
        self.site = site
        self._rendering = rendering
        self._overrides = overrides or {}
        self.name = derive(site).endpoint_name
        self.namespace: str = site.pods.namespace
        self.selector = f"app.kubernetes.io/instance={self.name}"

    # -- what is there ----------------------------------------------------------------------

    def revisions(self) -> list[dict[str, Any]]:
        """Return what Helm lists, the oldest first; empty where nothing is installed."""
        text = ask("helm", "history", self.name, *self._here(), "--output", "json")
        history: list[dict[str, Any]] = json.loads(text) if text else []
        return history

    def serving(self) -> Revision | None:
        """Return the revision that serves, or None."""
        numbers = self._numbers("deployed")
        return self._read(numbers[-1]) if numbers else None

    def before(self, serving: Revision) -> Revision | None:
        """Return the last revision that served, differs from this one and keeps its endpoint."""
        for revision in map(self._read, reversed(self._numbers("superseded"))):
            if revision.manifest != serving.manifest and revision.keeps_endpoint_of(serving):
                return revision
        return None

    def card(self) -> RenderedCard | None:
        """Return the card of the endpoint that serves, or None if there is none."""
        serving = self.serving()
        if serving is None or not serving.enabled:
            return None
        kept = serving.values["configuration"]["site-card.json"]
        card = msgspec.json.decode(kept, type=RenderedCard)
        registered = serving.endpoint_id or self.endpoint_id()
        return msgspec.structs.replace(card, endpoint_id=registered)

    def credentials(self) -> tuple[str, str] | None:
        """Return the endpoint's own credentials, from its secret in the cluster."""
        name = self.site.pods.credentials_secret or f"{self.name}-credentials"
        text = ask("kubectl", "get", "secret", name, *self._here(), "--output", "json")
        data = json.loads(text).get("data", {}) if text else {}
        ident, word = (base64.b64decode(data.get(key, "")).decode() for key in CREDENTIALS)
        return (ident, word) if ident and word else None

    def log_in(self) -> bool:
        """Log in as this environment's client, or the endpoint's own; returns whether one exists.

        Call it before any SDK is imported.

        Raises
        ------
        BackendError
            Half of the environment's credentials are missing.
        """
        client = credentials() or self.credentials()
        if client is not None:
            os.environ.update(zip(CREDENTIALS, client, strict=True))
        return client is not None

    def endpoint_id(self) -> str | None:
        """Return the id under which the running endpoint is registered, if it is."""
        path = f"{HOME}/.globus_compute/{self.name}/endpoint.json"
        where = f"deployment/{self.name}"
        words = ("exec", where, *self._here(), "--container", "endpoint", "--", "cat", path)
        try:
            text = run("kubectl", *words)
        except BackendError:
            return None
        ident: str = json.loads(text)["endpoint_id"]
        return ident

    def leftovers(self) -> list[str]:
        """Return what the namespace holds of this release, by kind and name."""
        return [
            f"{kind}/{one['metadata']['name']}"
            for kind in _KINDS
            for one in items(kind, self.namespace, self.selector)
        ]

    # -- what is done -----------------------------------------------------------------------

    def values(self, client: tuple[str, str] | None) -> dict[str, Any]:
        """Return the values to install with; without any credentials there is no endpoint."""
        existing = self.site.pods.credentials_secret
        values = helm_values(self.site, self._rendering, endpoint=bool(existing or client))
        if client and not existing:
            ident, word = client
            values["endpoint"]["credentials"] = {"clientId": ident, "clientSecret": word}
        return _merged(values, self._overrides)

    def install(self, *, seconds: int = 600) -> Installed:
        """Install the site, or upgrade it; a revision that does not come up is undone.

        If all is as it should be already, nothing is done.

        Parameters
        ----------
        seconds
            How long its pods may take to be ready.

        Raises
        ------
        BackendError
            It did not come up; what served before serves again.
        """
        values = self.values(credentials())
        endpoint = values["endpoint"]
        if endpoint["enabled"] and not endpoint["id"]:
            endpoint["id"] = self._earlier_id()
        self._need_namespace()
        serving = self.serving()
        before = serving.number if serving else None
        if serving and self._is_current(serving, values):
            if endpoint["enabled"]:
                self._wait(seconds)
            return Installed(bool(endpoint["enabled"]), changed=False, before=before)
        self._upgrade(values, seconds)
        if endpoint["enabled"] and not endpoint["id"] and not endpoint["state"]["size"]:
            # The pod's state goes with the pod, so the release keeps the id that it got.
            endpoint["id"] = self.endpoint_id()
            self._upgrade(values, seconds)
        return Installed(bool(endpoint["enabled"]), changed=True, before=before)

    def rollback(self, *, seconds: int = 600) -> int:
        """Let the last revision that differs serve again; returns its number.

        It must have the present endpoint's id: with another, users' cards would break.

        Raises
        ------
        BackendError
            There is none, or it does not come up.
        """
        serving = self.serving()
        earlier = self.before(serving) if serving else None
        if earlier is None:
            listed = [f"{one['revision']} {one['status']}" for one in self.revisions()]
            raise BackendError(
                f"there is nothing to go back to: no earlier revision of {self.name} that served "
                "differs from the present one and has the same endpoint",
                evidence=f"revisions: {', '.join(listed) or 'none'}",
                hint=f"helm history {self.name} --namespace {self.namespace}",
            )
        self.put_back(earlier.number, seconds=seconds)
        return earlier.number

    def put_back(self, revision: int, *, seconds: int = 600) -> None:
        """Let a revision serve again.

        Raises
        ------
        BackendError
            It does not come up.
        """
        words = ("--wait", "--timeout", f"{seconds}s", "--history-max", _KEPT_REVISIONS)
        run("helm", "rollback", self.name, str(revision), *self._here(), *words)

    def stop(self) -> None:
        """End the endpoint and its workers; installing again starts them."""
        run("kubectl", "scale", f"deployment/{self.name}", *self._here(), "--replicas=0")
        self._delete_pods()

    def destroy(self) -> list[str]:
        """Remove everything of the release; returns what is left, which should be nothing.

        The namespace goes too, if deploying made it and nothing else is in it.
        """
        run(
            "helm", "uninstall", self.name, *self._here(), "--ignore-not-found", "--wait",
            "--cascade", "foreground",
        )  # fmt: skip
        run("kubectl", "delete", "jobs", *self._here(), "--selector", self.selector)
        self._delete_pods()
        left = self.leftovers()
        if not left and self._made_namespace() and not self._others():
            run("kubectl", "delete", "namespace", self.namespace)
        return left

    def logs(self, lines: int) -> str:
        """Return the last lines of the endpoint's log and of its workers'."""
        words = (f"--tail={lines}", "--all-containers", "--prefix", "--ignore-errors")
        return run("kubectl", "logs", "--selector", self.selector, *self._here(), *words)

    # -- parts ------------------------------------------------------------------------------

    def _numbers(self, status: str) -> list[int]:
        return [int(one["revision"]) for one in self.revisions() if one["status"] == status]

    def _read(self, number: int) -> Revision:
        revision = (self.name, *self._here(), "--revision", str(number))
        values = json.loads(run("helm", "get", "values", *revision, "--output", "json")) or {}
        return Revision(number, run("helm", "get", "manifest", *revision).strip(), values)

    def _is_current(self, serving: Revision, values: dict[str, Any]) -> bool:
        """Return whether a revision is what would be installed, and the cluster still has it."""
        words = ("upgrade", "--dry-run=server", self.name, str(CHART), *self._here())
        options = ("--values", "-", "--output", "json")
        manifest = json.loads(run("helm", *words, *options, stdin=json.dumps(values)))["manifest"]
        if manifest.strip() != serving.manifest:
            return False
        # Somebody may have changed or removed an object since, or `stop` has stopped the endpoint.
        return not differs(manifest, *self._here())

    def _wait(self, seconds: int) -> None:
        words = ("rollout", "status", f"deployment/{self.name}", f"--timeout={seconds}s")
        run("kubectl", *words, *self._here())

    def _upgrade(self, values: dict[str, Any], seconds: int) -> None:
        words = ["upgrade", "--install", self.name, str(CHART), *self._here()]
        words += ["--values", "-", "--rollback-on-failure", "--timeout", f"{seconds}s"]
        words += ["--history-max", _KEPT_REVISIONS]
        try:
            run("helm", *words, stdin=json.dumps(values))
        except BackendError as error:
            undone = "what served before serves again"
            if "rolling back the release" in error.evidence:
                undone = "what served before was put back, and is not ready yet"
            raise BackendError(
                f"{self.name} did not come up; {undone}",
                evidence=error.evidence,
                hint=f"kubectl --namespace {self.namespace} get events",
            ) from error

    def _earlier_id(self) -> str | None:
        """Return the id that an earlier revision registered, kept in its values."""
        text = ask("helm", "get", "values", self.name, *self._here(), "--output", "json")
        values = (json.loads(text) if text else None) or {}
        ident: str | None = values.get("endpoint", {}).get("id")
        return ident or (self.endpoint_id() if values else None)

    def _here(self) -> tuple[str, str]:
        return ("--namespace", self.namespace)

    def _delete_pods(self) -> None:
        workers = f"{self.selector},app.kubernetes.io/component in (worker,client)"
        run("kubectl", "delete", "pods", *self._here(), "--selector", workers, "--wait=true")

    def _need_namespace(self) -> None:
        if ask("kubectl", "get", "namespace", self.namespace, "--output", "name") is None:
            manifest = json.dumps(namespace_manifest(self.namespace))
            run("kubectl", "create", "--filename", "-", stdin=manifest)

    def _made_namespace(self) -> bool:
        text = ask("kubectl", "get", "namespace", self.namespace, "--output", "json")
        annotations = json.loads(text)["metadata"].get("annotations", {}) if text else {}
        return _MADE in annotations

    def _others(self) -> list[str]:
        """Return what else the namespace holds that somebody would miss."""
        words = ("get", _MISSED, *self._here(), "--output", "json")
        objects = json.loads(run("kubectl", *words))["items"]
        return [
            one["metadata"]["name"]
            for one in objects
            if one["metadata"]["name"] not in _EVERYWHERE
            and one.get("type") != "kubernetes.io/service-account-token"
        ]


def _merged(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    both = dict(under)
    for key, value in over.items():
        below = both.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            both[key] = _merged(below, value)
        else:
            both[key] = value
    return both
