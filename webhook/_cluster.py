"""Looking at a cluster for `check` and `status`, and tidying it up for `cleanup`: few requests, each with a deadline.

Objects are read as plain JSON, so that all kinds go one way.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from webhook._errors import WebhookError

__all__ = ["Answer", "Cluster", "ClusterError", "connect"]

_CONNECT = 5.0
_READ = 10.0
"""Seconds for each request; the webhook itself may take 5 of these when the API server asks it."""


_NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class ClusterError(WebhookError):
    """The API server cannot be reached or understood; the message says in one line why."""


class Answer:
    """What the API server answered to one request."""

    def __init__(self, status: int, content: dict[str, Any]) -> None:
        self.status = status
        self.content = content

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def forbidden(self) -> bool:
        return self.status in (401, 403)

    @property
    def message(self) -> str:
        """The API server's words for what went wrong."""
        return str(self.content.get("message") or f"status {self.status}")


class Cluster:
    """An API server, by a client of the `kubernetes` package."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def get(self, path: str) -> Answer:
        """GET a path. Raises `ClusterError` when there is no answer."""
        return self._request("GET", path)

    def post(self, path: str, body: Mapping[str, Any]) -> Answer:
        """POST to a path: reviews and dry runs only. Raises `ClusterError` when there is no answer."""
        return self._request("POST", path, body)

    def delete(self, path: str, uid: str, version: str) -> Answer:
        """DELETE exactly that object at that version. Raises `ClusterError` when there is no answer."""
        return self._request("DELETE", path, {"preconditions": {"uid": uid, "resourceVersion": version}})

    def items(self, path: str, selector: str) -> list[dict[str, Any]] | Answer:
        """All objects of a list with a label; the `Answer` when it is refused. Raises `ClusterError` when there is no answer."""
        found: list[dict[str, Any]] = []
        more = ""
        while True:
            query = {"labelSelector": selector, "limit": "500", **({"continue": more} if more else {})}
            answer = self.get(f"{path}?{urlencode(query)}")
            if not answer.ok:
                return answer
            found += answer.content.get("items") or []
            more = str((answer.content.get("metadata") or {}).get("continue") or "")
            if not more:
                return found

    def close(self) -> None:
        self._client.rest_client.pool_manager.clear()
        self._client.close()

    def get_text(self, path: str) -> str | Answer:
        """GET what is not JSON; the `Answer` when it is refused. Raises `ClusterError` when there is no answer."""
        status, content = self._exchange("GET", path)
        return content.decode(errors="replace") if 200 <= status < 300 else _answer(status, content)

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Answer:
        return _answer(*self._exchange(method, path, body))

    def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> tuple[int, bytes]:
        import urllib3
        from kubernetes.client import ApiException

        headers = {"Accept": "application/json, */*", "Content-Type": "application/json"}
        try:
            parts = self._client.param_serialize(method, path, header_params=headers, body=body, auth_settings=["BearerToken"])
            response = self._client.call_api(*parts, _request_timeout=(_CONNECT, _READ))
            return int(response.status), bytes(response.read() or b"")
        except ApiException as error:
            if not error.status:
                raise ClusterError(f"cannot reach the API server {self._client.configuration.host}: {error.reason}") from error
            return int(error.status), str(error.body or "").encode()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise ClusterError(f"cannot reach the API server {self._client.configuration.host}: {_reason(error)}") from error


def _answer(status: int, content: bytes) -> Answer:
    try:
        document = json.loads(content or b"{}")
    except ValueError:
        document = {"message": " ".join(content.decode(errors="replace").split())[:200]}
    return Answer(status, document if isinstance(document, dict) else {})


def connect(kubeconfig: str | None, context: str | None) -> tuple[Cluster, str]:
    """The cluster of a kubeconfig (None: of KUBECONFIG, else ~/.kube/config, else the one this pod runs in), and the
    namespace that it is set to. Raises `ClusterError` when there is none."""
    import kubernetes.client
    import kubernetes.config
    from kubernetes.config.config_exception import ConfigException

    client: Any = kubernetes.client
    config: Any = kubernetes.config
    configuration = client.Configuration()
    namespace = "default"
    named = kubeconfig or context or os.environ.get("KUBECONFIG")
    try:
        if named or Path("~/.kube/config").expanduser().exists():
            config.load_kube_config(kubeconfig, context=context, client_configuration=configuration)
            contexts, active = config.list_kube_config_contexts(kubeconfig)
            chosen = next((one for one in contexts if one["name"] == context), active)
            namespace = chosen["context"].get("namespace") or namespace
        else:
            config.load_incluster_config(client_configuration=configuration)
            namespace = _NAMESPACE_FILE.read_text().strip() or namespace
    except (ConfigException, OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"no cluster to ask: {' '.join(str(error).split())}") from error
    configuration.retries = False  # one deadline for each request, not four
    return Cluster(client.ApiClient(configuration)), namespace


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())[:300]
