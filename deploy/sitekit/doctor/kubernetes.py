"""Examine a Kubernetes cluster: the namespace, the user's rights there, quotas, GPUs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sitekit.derive import derive, quantity_gb
from sitekit.doctor.findings import failed, good, skipped, warned
from sitekit.shell import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fitserve.errors import Check
    from sitekit.doctor.findings import Patient
    from sitekit.shell import Result

__all__ = ["look", "no_namespace"]

_VERBS = ("create", "get", "delete")


def _ask(patient: Patient, *words: str) -> Result:
    return run("kubectl", *words, timeout=patient.timeout)


def look(patient: Patient) -> Iterator[Check]:
    """Examine a cluster as far as the site uses it."""
    site = patient.site
    namespace = site.pods.namespace
    ready = _ask(patient, "get", "--raw=/readyz")
    if ready.missing:
        yield failed(
            "commands",
            "kubectl is not on the PATH",
            evidence=ready.words,
            field="scheduler.type",
            change="install kubectl, or run this where it is",
        )
        return
    if not ready.ok:
        yield failed(
            "cluster",
            "the cluster does not answer",
            evidence=ready.words,
            change="the context of your kubeconfig (kubectl config get-contexts)",
        )
        return
    yield good("cluster", f"the cluster answers in {ready.seconds:.1f} s")
    absent = no_namespace(patient)
    if absent is not None:
        yield _namespace(patient, namespace, absent)
    yield from _rights(patient, namespace)
    for field, kind, name in (
        ("service_account", "serviceaccount", site.pods.service_account),
        ("pull_secret", "secret", site.pods.pull_secret),
    ):
        if name:
            yield _object(patient, namespace, kind, name, f"kubernetes.{field}")
    yield from _quota(patient, namespace)
    if derive(site).gpus:
        yield _gpus(patient)


def no_namespace(patient: Patient) -> Result | None:
    """Return the answer of a cluster that lacks the site's namespace, or None if it has it."""
    namespace = patient.site.pods.namespace
    answer = _ask(patient, "get", "namespace", namespace, "--output=name")
    return answer if not answer.ok and "NotFound" in answer.err else None


def _namespace(patient: Patient, namespace: str, absent: Result) -> Check:
    """Report a missing namespace, which deploying creates for a user who may."""
    cause = f"there is no namespace {namespace}"
    may = _ask(patient, "auth", "can-i", "create", "namespaces")
    if may.out.strip() == "yes":
        return warned(
            "namespace",
            f"{cause} yet",
            evidence=absent.words,
            field="kubernetes.namespace",
            change="nothing, if the name is right: deploying creates it",
        )
    return failed(
        "namespace",
        f"{cause}, and you may not create one",
        evidence=absent.words,
        field="kubernetes.namespace",
        change="an existing one, or ask the cluster's administrators for it",
    )


def _rights(patient: Patient, namespace: str) -> Iterator[Check]:
    denied = []
    for verb in _VERBS:
        done = _ask(patient, "auth", "can-i", verb, "pods", f"--namespace={namespace}")
        if done.out.strip() != "yes":
            denied.append(verb)
    if denied:
        yield failed(
            "rights",
            f"you may not {', '.join(denied)} pods in {namespace}",
            evidence=f"kubectl auth can-i {denied[0]} pods: no",
            field="kubernetes.namespace",
            change="a namespace of yours, or a Role that may create, get and delete pods",
        )
    else:
        yield good("rights", f"pods can be created, read and deleted in {namespace}")


def _object(patient: Patient, namespace: str, kind: str, name: str, field: str) -> Check:
    done = _ask(patient, "get", kind, name, f"--namespace={namespace}", "--output=name")
    if done.ok:
        return good(kind, f"{name} is there")
    if "NotFound" not in done.err:
        return skipped(kind, f"you may not see whether {name} is there", done.words)
    return failed(
        kind,
        f"there is no {kind} {name} in {namespace}",
        evidence=done.words,
        field=field,
        change=f"create it, or the name of an existing one (kubectl get {kind})",
    )


def _items(result: Result) -> list[dict[str, Any]]:
    try:
        items = json.loads(result.out).get("items", [])
    except ValueError:
        return []
    return [item for item in items if isinstance(item, dict)]


def _quota(patient: Patient, namespace: str) -> Iterator[Check]:
    site = patient.site
    most = site.blocks.max
    done = _ask(patient, "get", "resourcequota", f"--namespace={namespace}", "--output=json")
    if not done.ok:
        yield skipped("quota", "it cannot be read", done.words)
        return
    needs = {
        "pods": float(most),
        "requests.cpu": most * site.pods.cpu.request,
        "limits.cpu": most * site.pods.cpu.limit,
        "requests.memory": most * quantity_gb(site.pods.memory.request),
        "limits.memory": most * quantity_gb(site.pods.memory.limit),
        "requests.nvidia.com/gpu": float(most * derive(site).gpus),
    }
    short = []
    for item in _items(done):
        for name, hard in item.get("status", {}).get("hard", {}).items():
            if name in needs and needs[name] > quantity_gb(str(hard)):
                short.append(f"{name}: {needs[name]:g} of {hard}")
    if short:
        yield warned(
            "quota",
            f"{most} pods are more than the namespace's quota allows: some will never start",
            evidence="; ".join(short),
            field="blocks.max",
            change="max: fewer, or a larger quota",
        )
    else:
        yield good("quota", f"{most} pods fit the namespace's quota")


def _gpus(patient: Patient) -> Check:
    done = _ask(patient, "get", "nodes", "--output=json")
    if not done.ok:
        return skipped("GPUs", "nodes cannot be listed; a pod would show them", done.words)
    needed = derive(patient.site).gpus
    counts = [
        int(item.get("status", {}).get("allocatable", {}).get("nvidia.com/gpu", 0))
        for item in _items(done)
    ]
    if max(counts, default=0) < needed:
        return failed(
            "GPUs",
            f"no node has {needed} allocatable GPUs",
            evidence=f"nvidia.com/gpu of the nodes: {', '.join(map(str, counts)) or 'no nodes'}",
            field="node.gpus.count",
            change="count: fewer, or NVIDIA's device plugin on the GPU nodes",
        )
    return good("GPUs", f"{sum(counts)} allocatable GPUs on {len(counts)} nodes")
