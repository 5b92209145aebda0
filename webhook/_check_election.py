"""The election's part of `check`: the pods, their rights on the lock, and who holds it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from webhook._annotations import NAME
from webhook._cluster import Cluster
from webhook._containers import containers, is_injected
from webhook._findings import Finding, fine, note, part, unknown, wrong
from webhook._marks import LOCK
from webhook._sidecar import CONTAINER

__all__ = ["RESOURCES", "Candidates", "candidates_of", "check_leader", "check_pods", "check_rights", "record_of"]

_RECORD = "control-plane.alpha.kubernetes.io/leader"
RESOURCES = {"endpoints": ("", "/api/v1"), "leases": ("coordination.k8s.io", "/apis/coordination.k8s.io/v1")}
"""The group of each kind of lock, and its path."""


@dataclass(frozen=True, slots=True)
class Candidates:
    """What is to be asked about an election."""

    namespace: str
    election: str
    lock: str
    account: str

    @property
    def resources(self) -> list[str]:
        """The kinds of objects that hold the lock."""
        return ["endpoints", "leases"] if self.lock == "endpointsleases" else [self.lock]

    def path(self, resource: str) -> str:
        """Where the lock object of that kind is."""
        return f"{RESOURCES[resource][1]}/namespaces/{self.namespace}/{resource}/{quote(self.election)}"


def candidates_of(pod: dict[str, Any], namespace: str, election: str, lock: str) -> Candidates:
    """The election that a pod takes part in: by its elector's arguments when it has one, else as annotated."""
    for _, _, container in containers(pod):
        if container.get("name") == CONTAINER:
            arguments = dict(str(one).partition("=")[::2] for one in container.get("args") or [])
            election, lock = arguments.get("--election", election), arguments.get("--lock", "endpoints")
    return Candidates(namespace, election, lock, str(part(pod, "spec").get("serviceAccountName") or "default"))


def check_pods(pods: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whether the pods that there are have the elector, of which version, and whether it runs."""
    if not pods:
        yield note("there is no pod yet")
    for pod in pods:
        name = part(pod, "metadata").get("name")
        if not is_injected(pod):
            yield wrong(f"the pod {name} has no elector: it was created without one, and has to be created anew")
            continue
        image, state = _state(pod)
        yield (fine if state.startswith("running") else note)(f"the pod {name} has the elector {image}, {state}")


def _state(pod: dict[str, Any]) -> tuple[str, str]:
    image = next(str(c.get("image")) for _, _, c in containers(pod) if c.get("name") == CONTAINER)
    status = part(pod, "status")
    for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
        if one.get("name") != CONTAINER:
            continue
        image = str(one.get("imageID") or image)
        restarts = f" after {one['restartCount']} restarts" if one.get("restartCount") else ""
        if part(one, "state", "running"):
            return image, f"running{restarts}"
        for state in ("waiting", "terminated"):
            found = part(one, "state", state)
            if found:
                return image, f"{state}{restarts}: {found.get('reason') or 'no reason given'}"
    return image, "not started yet"


def check_rights(cluster: Cluster, of: Candidates) -> Iterator[Finding]:
    """Whether the pods' service account may do with the lock what candidates have to."""
    for resource in of.resources:
        verbs = ["get", "update"]
        if cluster.get(of.path(resource)).status == 404:
            verbs.append("create")
        missing = []
        for verb in [*verbs, "list", "watch"]:
            allowed = _may(cluster, of, resource, verb)
            if isinstance(allowed, str):
                yield unknown(f"whether the service account {of.account} may {verb} {resource}: {allowed}")
                return
            if not allowed:
                missing.append(verb)
        what = f"{resource} {of.election}"
        needed = [verb for verb in missing if verb in verbs]
        if needed:
            yield wrong(f"the service account {of.account} may not {', '.join(needed)} {what} in {of.namespace}")
            yield _advice(cluster, of, resource)
            continue
        yield fine(f"the service account {of.account} may {', '.join(verbs)} {what}")
        if missing:
            yield note(f"it may not {' and '.join(missing)} it: the electors will poll instead")


def _advice(cluster: Cluster, of: Candidates, resource: str) -> Finding:
    """What to do about rights that are missing."""
    kubectl = f"kubectl -n {of.namespace}"
    if not _is_managed(cluster):
        # One for each kind: a pair takes two.
        role, group = f"leader-election-candidate{'' if resource == 'endpoints' else f'-{resource}'}", RESOURCES[resource][0]
        verbs = f"--verb=get,list,watch,create,update --resource={f'{resource}.{group}' if group else resource}"
        account = f"--serviceaccount={of.namespace}:{of.account}"
        return note(
            "nobody gives rights here (rbac.mode is not managed). Give them yourself: "
            f"{kubectl} create role {role} {verbs}; {kubectl} create rolebinding {role} --role={role} {account}"
        )
    lock = cluster.get(of.path(resource))
    if lock.ok and part(lock.content, "metadata", "labels").get(LOCK) != "true":
        return wrong(
            f"the name is taken: {resource} {of.election} has no label {LOCK}=true, so the controller gives no rights on it. "
            f"If it is to be the lock: {kubectl} label {resource} {of.election} {LOCK}=true; else choose another {NAME}"
        )
    return note("the controller gives them a moment after there is a pod with the elector; see its log when it does not")


def _is_managed(cluster: Cluster) -> bool:
    """Whether a controller is installed that gives rights, as far as one may see."""
    answer = cluster.get("/apis/apps/v1/deployments?labelSelector=app.kubernetes.io/component%3Dcontroller")
    found = answer.content.get("items") or [] if answer.ok else []
    templates = [part(one, "spec", "template", "spec") for one in found]
    return any("--grants" in (each.get("args") or []) for one in templates for each in one.get("containers") or [])


def _may(cluster: Cluster, of: Candidates, resource: str, verb: str) -> bool | str:
    accounts = "system:serviceaccounts"
    attributes = {
        "namespace": of.namespace,
        "verb": verb,
        "group": RESOURCES[resource][0],
        "resource": resource,
    }
    if verb != "create":  # whose name is not known to the authorizer
        attributes["name"] = of.election
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {
            "user": f"system:serviceaccount:{of.namespace}:{of.account}",
            "groups": [accounts, f"{accounts}:{of.namespace}", "system:authenticated"],
            "resourceAttributes": attributes,
        },
    }
    answer = cluster.post("/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
    return answer.message if not answer.ok else part(answer.content, "status").get("allowed") is True


def check_leader(cluster: Cluster, of: Candidates, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Iterator[Finding]:
    """Who leads by the lock, judged by this machine's clock."""
    for resource in of.resources:
        answer = cluster.get(of.path(resource))
        what = f"{resource} {of.election}"
        if answer.status == 404:
            yield note(f"nobody leads yet: there is no {what}")
        elif not answer.ok:
            yield unknown(f"who leads: {answer.message}")
        else:
            yield _leader(what, record_of(resource, answer.content), now())


def record_of(resource: str, content: dict[str, Any]) -> dict[str, Any]:
    """What a lock object says of its holder, in the words of the original's record; empty when it says nothing."""
    if resource == "leases":
        return part(content, "spec")
    try:
        record = json.loads(part(content, "metadata", "annotations").get(_RECORD, "{}"))
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}


def _leader(what: str, record: dict[str, Any], now: datetime) -> Finding:
    if "leaseDurationSeconds" not in record:
        return wrong(f"nobody leads: {what} has no record of an election, so it may belong to something else")
    holder = record.get("holderIdentity")
    if not holder:
        return note(f"nobody leads at the moment: {what} is free")
    try:
        age = (now - datetime.fromisoformat(str(record.get("renewTime")))).total_seconds()
        duration = float(record["leaseDurationSeconds"])
    except (ValueError, TypeError):
        return wrong(f"{what} has a record that cannot be read, with the holder {holder}")
    if age > duration:
        return wrong(f"nobody leads: {holder} did, but last renewed {what} {age:.0f} s ago, for {duration:.0f} s")
    return fine(f"{holder} leads, by {what}, renewed {max(0.0, age):.0f} s ago")
