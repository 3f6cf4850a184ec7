"""Deploy to the Kubernetes cluster of your kubeconfig's context, as a Helm release."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import yaml

from fitserve import __version__
from fitserve.errors import BackendError, Check, RequestError
from sitekit.context import Rendering
from sitekit.deployment.helm import items, require_helm, run
from sitekit.deployment.release import Release
from sitekit.deployment.targets import CARD, CREDENTIALS, Options, Target, credentials
from sitekit.documents import site_card, text
from sitekit.helm_values import helm_values
from sitekit.pods import labels, run_job
from sitekit.render import write_files

if TYPE_CHECKING:
    from sitekit.deployment.release import Installed
    from sitekit.site import Site

__all__ = ["STATUS_VERSION", "Cluster", "ClusterOptions", "pod_reason"]

STATUS_VERSION = 1
_REFUSED = "refused-function"
_POLL_SECONDS = 1.0
_HYPOTHESIS = "X_200_0"
"""Of the example; one is enough to see that a pod fits."""


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    """Further options of a cluster."""

    function_id: str | None = None
    endpoint_id: str | None = None
    values: Path | None = None
    smoke: bool = True


class Cluster(Target):
    """A Kubernetes cluster.

    Parameters
    ----------
    site, options
        Its site, and the options of the command.

    Raises
    ------
    RequestError
        The site is not one of Kubernetes.
    SiteError
        The site breaks a rule between fields.
    """

    kind = "Kubernetes cluster"
    takes = ClusterOptions
    options: ClusterOptions

    def __init__(self, site: Site, options: ClusterOptions) -> None:
        super().__init__(site, options)
        self._rendering = Rendering(__version__, Path.home())
        helm_values(site, self._rendering)
        self._release = Release(site, self._rendering)

    def install(self, *, upgrade: bool) -> None:
        site, release, options = self.site, self._release, self.options
        overrides = _overrides(options.values)
        if upgrade and not release.revisions():
            raise BackendError(
                f"{site.name} is not deployed in namespace {release.namespace}",
                hint=f"make deploy SITE={site.name}",
            )
        require_helm()
        self._examine()
        if not site.pods.credentials_secret:
            # The credentials of an earlier deployment are in the release's own secret.
            release.log_in()
        function = self._function_id(options.function_id)
        rendering = Rendering(__version__, Path.home(), options.endpoint_id, function)
        done = Release(site, rendering, overrides).install(seconds=options.seconds)
        where = f"in namespace {release.namespace}"
        click.echo(f"{site.name} is up {where}{'' if done.changed else ', nothing was changed'}")
        if options.smoke:
            try:
                self.try_it()
            except BackendError as error:
                self._undo(done, error)
                raise
        if done.endpoint:
            click.echo(f"hand to users: {self._card(function)}")
        else:
            click.echo(
                f"clients in the cluster can use it: fitserve run ... --endpoint "
                f"parsl:{site.name}\nfor use from elsewhere, through Globus Compute: set "
                f"{' and '.join(CREDENTIALS)}, and deploy again"
            )

    def status(self) -> dict[str, Any]:
        release = self._release
        revisions = release.revisions()
        pods = items("pods", release.namespace, release.selector)

        def component(which: str) -> list[dict[str, Any]]:
            selector = labels(release.name, which).items()
            return [_pod(one) for one in pods if selector <= one["metadata"]["labels"].items()]

        return {
            "status_version": STATUS_VERSION,
            "site": self.site.name,
            "namespace": release.namespace,
            "release": revisions[-1] if revisions else None,
            "endpoint": component("endpoint"),
            "workers": component("worker"),
            "clients": component("client"),
        }

    @staticmethod
    def status_text(status: dict[str, Any]) -> str:
        release = status["release"]
        if release is None:
            return f"{status['site']} is not deployed in namespace {status['namespace']}"
        revision = f"revision {release['revision']} ({release['status']})"
        lines = [f"{status['site']}: {revision} in namespace {status['namespace']}"]
        for name in ("endpoint", "workers", "clients"):
            pods = status[name]
            if not pods:
                lines.append(f"{name}: none")
            for pod in pods:
                state = "ready" if pod["ready"] else pod["phase"].lower()
                more = f", {pod['restarts']} restarts" if pod["restarts"] else ""
                where = f" on {pod['node']}" if pod["node"] else ""
                lines.append(f"{name}: {pod['name']} {state}{where}{more}")
                if pod["reason"]:
                    lines.append(f"  {pod['reason']}")
        return "\n".join(lines)

    def smoke(self) -> list[dict[str, Any]]:
        release, directory = self._release, self.directory
        card = release.card()
        if card is None:
            return [self._fit_by_job()]
        write_files({CARD: text(card)}, directory)
        if not release.log_in():
            raise BackendError(
                f"the smoke test of {self.site.name} needs the endpoint's credentials",
                evidence=f"they are in no secret that can be read in namespace {release.namespace}",
                hint=f"set {' and '.join(CREDENTIALS)}",
            )
        from sitekit.target.smoke import Served, through_the_service

        # Otherwise a child of the revision before would answer, as long as there is one.
        serving = f"{__version__}-{release.revisions()[-1]['revision']}"
        served = Served(self.site, card.endpoint_id, serving)
        kept = directory / _REFUSED
        earlier = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        stages, refused = through_the_service(
            served, directory / CARD, self.options.seconds, earlier
        )
        if refused:
            write_files({_REFUSED: f"{refused}\n"}, directory)
        return [one.as_data() for one in stages]

    def rollback(self) -> None:
        revision = self._release.rollback(seconds=self.options.seconds)
        click.echo(f"{self.site.name} is served by what revision {revision} was")
        if self.options.smoke:
            self.try_it()

    def stop(self) -> None:
        self._release.stop()
        click.echo(f"{self._release.name} is stopped")

    def logs(self) -> str:
        return self._release.logs(self.options.lines)

    def destroy(self) -> None:
        release = self._release
        left = release.destroy()
        if left:
            raise BackendError(
                f"something of {release.name} is left in namespace {release.namespace}",
                evidence=", ".join(left),
            )
        click.echo(f"{release.name} is gone")

    def _fit_by_job(self) -> dict[str, Any]:
        """Fit a hypothesis of the bundled example in a worker pod; returns the stage."""
        release, seconds = self._release, self.options.seconds
        name = f"{release.name}-smoke"
        endpoint = f"parsl:{release.site.name}"
        command = ["fitserve", "run", "example", "--patch", _HYPOTHESIS, "--endpoint", endpoint]
        command += ["--output", "/tmp/run"]  # noqa: S108
        job = run_job(release.site, __version__, name, command)
        here = ("--namespace", release.namespace)
        started = time.monotonic()
        delete = ("delete", "job", name, *here, "--ignore-not-found", "--wait=true")
        run("kubectl", *delete)
        run("kubectl", "create", *here, "--filename", "-", stdin=json.dumps(job))
        try:
            ended = _end(name, here, started + seconds)
            output = (
                run("kubectl", "logs", f"job/{name}", *here, "--ignore-errors") if ended else ""
            )
        finally:
            run("kubectl", *delete)
        outcome = "the example was fitted by a worker pod"
        if ended != "Complete":
            reason = ended or f"not within {seconds} s"
            outcome = f"the example was not fitted: {reason}; {output.strip()[-2000:]}"
        took = round(time.monotonic() - started, 1)
        level: Literal["ok", "failure"] = "ok" if ended == "Complete" else "failure"
        return Check("fit", level, outcome, seconds=took).as_data()

    def _examine(self) -> None:
        """Let the doctor examine the cluster before anything is registered or installed."""
        from sitekit.doctor import Patient, kubernetes, report

        site = self.site
        patient = Patient(site=site, rendering=self._rendering, submit=False)
        findings = [one for one in kubernetes.look(patient) if one.level in {"failure", "warning"}]
        if findings:
            click.echo(report(site.origin, findings), err=True)
        bad = [one for one in findings if one.level == "failure"]
        if bad:
            raise BackendError(
                f"{site.name} was not deployed: {len(bad)} findings keep fits from running there",
                evidence="; ".join(f"{one.what}: {one.cause}" for one in bad),
                hint="correct what is marked FAILED above; "
                f"make doctor SITE={site.name} looks again",
            )

    def _undo(self, done: Installed, error: BackendError) -> None:
        """Let the revision before serve again, after a failed smoke test."""
        if not done.changed or done.before is None:
            return
        click.echo(f"the smoke test failed: going back to revision {done.before}", err=True)
        self._release.put_back(done.before, seconds=self.options.seconds)
        error.cause = f"{error.cause}; what served before serves again"

    def _function_id(self, function_id: str | None) -> str | None:
        """Return the id of the function that the endpoint may run, registered if need be."""
        site = self.site
        if function_id or site.access.functions:
            return function_id
        if credentials():
            from fitserve_worker.function import register

            sharing = site.access.function_sharing
            group = None if sharing in {"public", "private"} else sharing
            return register(public=sharing == "public", group=group).function_id
        if site.pods.credentials_secret:
            raise RequestError(
                f"no function is known that the endpoint of {site.name} may run",
                hint="--function-id with what `fitserve-worker function register` prints, or "
                "access.functions in the site file",
            )
        return None

    def _card(self, function_id: str | None) -> Path:
        release = self._release
        ident = release.endpoint_id()
        if ident is None:
            raise BackendError(
                f"{release.name} runs, but is not registered with Globus",
                hint=f"kubectl --namespace {release.namespace} logs deployment/{release.name}",
            )
        rendering = Rendering(__version__, Path.home(), ident, function_id)
        write_files({CARD: text(site_card(self.site, rendering))}, self.directory)
        return self.directory / CARD


def _end(name: str, here: tuple[str, str], deadline: float) -> str | None:
    while time.monotonic() < deadline:
        job = json.loads(run("kubectl", "get", "job", name, *here, "--output", "json"))
        for condition in job["status"].get("conditions", []):
            if condition["type"] in {"Complete", "Failed"} and condition["status"] == "True":
                return str(condition["type"])
        time.sleep(_POLL_SECONDS)
    return None


def _overrides(values: Path | None) -> dict[str, Any]:
    """Return Helm values of a file."""
    overrides = yaml.safe_load(values.read_text(encoding="utf-8")) if values else {}
    if not isinstance(overrides, dict):
        raise RequestError(f"{values} holds no Helm values", hint="NAME: VALUE, as in values.yaml")
    return overrides


def _pod(pod: dict[str, Any]) -> dict[str, Any]:
    status = pod["status"]
    containers = status.get("containerStatuses", [])
    return {
        "name": pod["metadata"]["name"],
        "phase": "Terminating" if pod["metadata"].get("deletionTimestamp") else status["phase"],
        "ready": bool(containers) and all(one["ready"] for one in containers),
        "restarts": sum(one["restartCount"] for one in containers),
        "node": pod["spec"].get("nodeName"),
        "image": pod["spec"]["containers"][0]["image"],
        "since": pod["metadata"]["creationTimestamp"],
        "reason": pod_reason(pod),
    }


def pod_reason(pod: dict[str, Any]) -> str | None:
    """Return why a pod waits, failed or was restarted, or None.

    Examples
    --------
    >>> waits = {"reason": "ImagePullBackOff", "message": "no such image"}
    >>> container = {"name": "worker", "state": {"waiting": waits}}
    >>> pod_reason({"status": {"phase": "Pending", "containerStatuses": [container]}})
    'ImagePullBackOff: no such image'
    """
    status = pod["status"]
    reasons = [_reason(status)] if status["phase"] == "Failed" else []
    reasons += [
        one.get("message")
        for one in status.get("conditions", [])
        if one["type"] == "PodScheduled" and one["status"] == "False"
    ]
    for container in status.get("containerStatuses", []):
        state, last = container.get("state", {}), container.get("lastState", {})
        reasons.append(_reason(state.get("waiting") or {}))
        for ended in (state.get("terminated"), last.get("terminated")):
            if ended and ended.get("exitCode"):
                reasons.append(_reason(ended))
    return "; ".join(filter(None, reasons)) or None


def _reason(state: dict[str, Any]) -> str:
    return ": ".join(filter(None, (state.get("reason"), (state.get("message") or "").strip())))
