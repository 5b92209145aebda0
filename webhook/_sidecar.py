"""The injected container itself, and the volume that it mounts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from webhook._settings import PullPolicy, Sidecar

__all__ = ["CONTAINER", "VOLUME", "Election", "container", "field_variable", "volume"]

CONTAINER = "leader-elector"
VOLUME = "leader-elector"

_CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where programs look, and where the ServiceAccount admission looks before it adds a token of its own."""


@dataclass(frozen=True, slots=True)
class Election:
    """All that decides what the injected container looks like."""

    name: str
    ttl: int
    """Seconds."""
    port: int
    everywhere: bool
    """Whether the elector answers on every address of the pod, instead of on loopback."""
    lock: str
    health_url: str | None
    drain: int | None
    """Seconds; for classic sidecars."""
    log_level: str | None
    image: str
    image_pull_policy: PullPolicy | None
    sidecar: Sidecar
    run_as_user: int | None
    """Its group too; None leaves both to the cluster."""
    resources: dict[str, dict[str, str]]
    host_network: bool
    """The ports are declared then, so that the scheduler keeps such pods apart."""

    @property
    def status_port(self) -> int:
        """The port of probes and metrics, which the kubelet has to reach, unlike the elector's own."""
        return self.port + 1


def container(election: Election) -> dict[str, Any]:
    """The elector's container, as it satisfies Pod Security `restricted`.

    See https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and KEP-753 for native ones.
    """
    native = election.sidecar == "native"
    result: dict[str, Any] = {
        "name": CONTAINER,
        "image": election.image,
        "args": _args(election),
        "env": [
            field_variable("POD_NAME", "metadata.name"),
            field_variable("POD_NAMESPACE", "metadata.namespace"),
            field_variable("POD_UID", "metadata.uid"),
        ],
        "resources": election.resources,
        "securityContext": _security_context(election.run_as_user),
        # As a native sidecar the elector holds up the pod's start until this passes: asked often, given up late.
        "startupProbe": _probe(election, period=1, failures=120),
        "livenessProbe": _probe(election, period=10, failures=3),
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": VOLUME, "mountPath": _CREDENTIALS, "readOnly": True}],
    }
    if native:
        result["restartPolicy"] = "Always"
    if election.image_pull_policy is not None:
        result["imagePullPolicy"] = election.image_pull_policy
    if election.host_network:
        result["ports"] = [
            _host_port("elector", election.port),
            _host_port("elector-status", election.status_port),
        ]
    return result


def volume() -> dict[str, Any]:
    """A projected volume with what the ServiceAccount admission would mount.

    So `automountServiceAccountToken: false` does not matter. The token is bound to the pod and names it.
    """
    return {
        "name": VOLUME,
        "projected": {
            "sources": [
                # 3607 s is what the ServiceAccount admission asks for; the kubelet renews the token.
                {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}]}},
            ]
        },
    }


def field_variable(name: str, path: str) -> dict[str, Any]:
    """An environment variable that holds a field of the pod (the downward API)."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _args(election: Election) -> list[str]:
    args = [
        f"--election={election.name}",
        "--election-namespace=$(POD_NAMESPACE)",
        "--id=$(POD_NAME)",
        f"--instance=$(POD_UID)/{CONTAINER}",
        f"--ttl={election.ttl}s",
        f"--http={'' if election.everywhere else 'localhost'}:{election.port}",
        f"--status-http=:{election.status_port}",
        f"--sidecar={election.sidecar}",
        "--use-cluster-credentials",
    ]
    if election.lock != "endpoints":
        args.append(f"--lock={election.lock}")
    if election.health_url is not None:
        # The kubelet replaces $(NAME) in arguments and reads $$ as $; nothing else in them comes unchecked from the pod.
        args.append(f"--health-url={election.health_url.replace('$', '$$')}")
    if election.drain is not None:
        args.append(f"--drain={election.drain}s")
    if election.log_level is not None:
        args.append(f"--log-level={election.log_level}")
    return args


def _security_context(user: int | None) -> dict[str, Any]:
    context: dict[str, Any] = {
        "runAsNonRoot": True,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if user is not None:
        context["runAsUser"] = context["runAsGroup"] = user
    return context


def _probe(election: Election, *, period: int, failures: int) -> dict[str, Any]:
    return {
        "httpGet": {"path": "/healthz", "port": election.status_port},
        "periodSeconds": period,
        "failureThreshold": failures,
    }


def _host_port(name: str, port: int) -> dict[str, Any]:
    return {"name": name, "containerPort": port, "hostPort": port, "protocol": "TCP"}
