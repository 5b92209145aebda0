"""A release with managed rights on a sandbox, the pods that it injects, and their electors with tokens bound to these pods."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kubernetes.client
from kubernetes.client import ApiException

from sandbox import Program, Sandbox
from sandbox.kubelet import prepare
from tests.api.electors import RECORD, ROOT, clean_environment
from tests.chart.release import Kubelet, Release
from tests.ports import free_port
from tests.waiting import until

__all__ = ["Managed", "Pod", "client_of", "managed"]

Json = dict[str, Any]


@dataclass
class Pod:
    """An injected pod as the API server has stored it."""

    stored: Json
    port: int

    @property
    def name(self) -> str:
        return str(self.stored["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.stored["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        return str(self.stored["metadata"]["uid"])

    @property
    def account(self) -> str:
        return str(self.stored["spec"]["serviceAccountName"])


@dataclass
class Managed:
    """The release, and what stands for election in it."""

    sandbox: Sandbox
    release: Release
    kubelet: Kubelet
    scratch: Path
    electors: dict[str, Program] = field(default_factory=dict)
    """By the uids of their pods."""

    def __post_init__(self) -> None:
        self.core: Any = self.release.core
        self.rbac: Any = kubernetes.client.RbacAuthorizationV1Api(self.sandbox.api)
        self.coordination: Any = kubernetes.client.CoordinationV1Api(self.sandbox.api)

    def json(self, thing: Any) -> Json:
        made: Json = self.sandbox.api.sanitize_for_serialization(thing)
        return made

    def namespace(self) -> str:
        """A new namespace that takes pods."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.core.create_namespace({"metadata": {"name": name}})
        self.account(name, "default", make=False)
        until(lambda: self._listed(self.core.list_namespaced_config_map, name, "kube-root-ca.crt"), "its CA is there")
        return name

    def account(self, namespace: str, name: str, *, make: bool = True) -> str:
        """A service account, once it is there."""
        if make:
            self.core.create_namespaced_service_account(namespace, {"metadata": {"name": name}})
        until(lambda: self._listed(self.core.list_namespaced_service_account, namespace, name), "the account is there")
        return name

    @staticmethod
    def _listed(listing: Any, namespace: str, name: str) -> bool:
        return any(one.metadata.name == name for one in listing(namespace).items)

    def pod(
        self,
        namespace: str,
        name: str,
        *,
        election: str = "orders.leader",
        account: str = "default",
        owner: Json | None = None,
        labels: dict[str, str] | None = None,
        node: str | None = None,
        **annotations: str,
    ) -> Pod:
        """Create an annotated pod; `annotations` without their prefix."""
        port = free_port()
        keys = {"enabled": "true", "name": election, "ttl": "2s", "port": str(port), **annotations}
        body = {
            "metadata": {
                "name": name,
                "annotations": {f"leader-election/{key}": value for key, value in keys.items()},
                "ownerReferences": [owner] if owner else [],
                "labels": labels or {},
            },
            "spec": {
                "serviceAccountName": account,
                "containers": [{"name": "main", "image": "none"}],
                **({"nodeName": node} if node else {}),
            },
        }
        return Pod(self.json(self.core.create_namespaced_pod(namespace, body)), port)

    def start(self, pod: Pod) -> Program:
        """Start the pod's elector, as the kubelet would."""
        folder = self.scratch / uuid.uuid4().hex
        folder.mkdir(parents=True)
        container = prepare(self.sandbox, pod.stored, "leader-elector", folder)
        # The status port of one pod is not to be another's port: all share one network here.
        args = [
            one if not one.startswith("--status-http=") else f"--status-http=127.0.0.1:{free_port()}" for one in container.args
        ]
        command = [sys.executable, "-m", "elector", *args]
        name = f"elector-{uuid.uuid4().hex[:8]}"
        program = self.sandbox.run(name, command, env=clean_environment(**container.env), cwd=ROOT)
        self.electors[pod.uid] = program
        return program

    def stop(self, pod: Pod, number: int = 15) -> None:
        """End the pod's elector."""
        self.electors.pop(pod.uid).stop(number)

    def delete(self, *pods: Pod) -> None:
        """Remove pods for good; there is no kubelet that would wait for them."""
        for pod in pods:
            if pod.uid in self.electors:
                self.stop(pod)
            self.core.delete_namespaced_pod(pod.name, pod.namespace, grace_period_seconds=0)

    def client(self, pod: Pod, *, bound: bool = True) -> Any:
        """An API client with a token of the pod's service account, bound to the pod or not."""
        of = {"pod": pod.name, "pod_uid": pod.stored["metadata"]["uid"]} if bound else {}
        return client_of(self.sandbox, self.sandbox.service_account_token(pod.namespace, pod.account, **of))

    def lock(self, namespace: str, name: str = "orders.leader", kind: str = "endpoints") -> Json | None:
        """The lock object."""
        read = self.core.read_namespaced_endpoints if kind == "endpoints" else self.coordination.read_namespaced_lease
        return self._found(read, name, namespace)

    def record(self, namespace: str, name: str = "orders.leader") -> Json:
        """The record of an Endpoints lock; empty while there is none."""
        found = self.lock(namespace, name)
        return dict(json.loads(found["metadata"].get("annotations", {}).get(RECORD, "{}"))) if found else {}

    def holder(self, namespace: str, name: str = "orders.leader") -> str:
        return str(self.record(namespace, name).get("holderIdentity", ""))

    def role(self, namespace: str, name: str = "orders.leader") -> Json | None:
        return self._found(self.rbac.read_namespaced_role, f"leader-election:{name}", namespace)

    def binding(self, namespace: str, name: str = "orders.leader") -> Json | None:
        return self._found(self.rbac.read_namespaced_role_binding, f"leader-election:{name}", namespace)

    def accounts(self, namespace: str, name: str = "orders.leader") -> list[str]:
        """Who is bound."""
        found = self.binding(namespace, name)
        return [subject["name"] for subject in found.get("subjects") or []] if found else []

    def labelled(self, namespace: str) -> list[str]:
        """The pods with the label of the leader."""
        return [
            one.metadata.name
            for one in self.core.list_namespaced_pod(namespace, label_selector="leader-election/leader=true").items
        ]

    def until_rights(self, *pods: Pod) -> None:
        """Wait until the API server lets the pods use their locks: it knows a RoleBinding a moment after it has stored it."""
        groups = {"endpoints": "", "leases": "coordination.k8s.io"}
        for pod in pods:
            annotations, client = pod.stored["metadata"]["annotations"], self.client(pod)
            name, lock = annotations["leader-election/name"], annotations.get("leader-election/lock", "endpoints")

            def may(pod: Pod = pod, client: Any = client, name: str = name, lock: str = lock) -> bool:
                kinds = [kind for kind in groups if kind in lock]
                return all(self.may(client, "update", kind, pod.namespace, name, groups[kind]) for kind in kinds)

            until(may, f"{pod.name} may use its lock")

    def events(self, namespace: str, reason: str) -> list[Json]:
        """Events with that reason, as core/v1 has them."""
        found = [self.json(one) for one in self.core.list_namespaced_event(namespace).items]
        return [one for one in found if one["reason"] == reason]

    def may(self, client: Any, verb: str, resource: str, namespace: str, name: str, group: str = "") -> bool:
        """Whether the API server would let it."""
        attributes = {"verb": verb, "resource": resource, "namespace": namespace, "name": name, "group": group}
        body = {"spec": {"resourceAttributes": attributes}}
        authorization: Any = kubernetes.client.AuthorizationV1Api(client)
        return bool(authorization.create_self_subject_access_review(body).status.allowed)

    def _found(self, read: Any, *arguments: str) -> Json | None:
        try:
            return self.json(read(*arguments))
        except ApiException as error:
            if error.status == 404:
                return None
            raise


def client_of(sandbox: Sandbox, token: str) -> Any:
    """An API client with a token."""
    configuration = kubernetes.client.Configuration()
    configuration.host, configuration.ssl_ca_cert = sandbox.url, str(sandbox.ca_file)
    configuration.api_key = {"BearerToken": f"Bearer {token}"}
    configuration.retries = False
    return kubernetes.client.ApiClient(configuration)


@contextmanager
def managed(sandbox: Sandbox, scratch: Path, options: Sequence[str] = ()) -> Iterator[Managed]:
    """Install the chart with managed rights, and run its pods; yields when a controller acts and annotated pods are taken."""
    release = Release(sandbox, scratch, "leader-election", "le-system")
    with Kubelet(sandbox, release, scratch / "nodes") as kubelet:
        url = f"--set=webhook.url=https://127.0.0.1:{kubelet.service.port}/mutate"
        release.install("--set=image.repository=registry.example.com/le", url, *options)
        found = Managed(sandbox, release, kubelet, scratch / "pods")

        def serves() -> bool:
            try:
                probe = found.pod("default", "probe", election="probe.leader")
            except ApiException as error:
                if "leader-election" not in str(error.body):
                    raise
                return False
            found.delete(probe)
            return True

        until(serves, "an annotated pod gets its elector")
        until(lambda: found.binding("default", "probe.leader") is not None, "the controller gives rights")
        yield found
        for program in found.electors.values():
            program.stop()
