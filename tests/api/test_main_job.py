"""The main job: annotated pods, admitted by a real API server, injected, and electing with what was injected.

Between the API server and the webhook stands a recorder, so that the AdmissionReviews are the API server's own.
"""

import base64
import http.client
import json
import ssl
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import Any
from urllib.parse import urlsplit

import jsonpatch
import kubernetes.client
import pytest
from kubernetes.client import ApiException

from sandbox import Program, Sandbox
from sandbox.injection import IMAGE, registration, start_webhook, stop_webhook
from sandbox.kubelet import Container, prepare
from tests.ports import free_pair
from tests.waiting import until
from webhook._review import answer
from webhook._settings import InjectionSettings

pytestmark = pytest.mark.api

ROOT = Path(__file__).resolve().parents[2]
RECORD = "control-plane.alpha.kubernetes.io/leader"
FIELDS = ["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaderTransitions"]
ELECTION = "example"
TTL = 4.0
SIDECAR = "leader-elector"
CREDENTIAL = "authentication.kubernetes.io/credential-id"

Json = dict[str, Any]


@dataclass
class Recorder:
    """Passes AdmissionReviews on to the webhook, and keeps them and their answers as they were."""

    webhook: str
    trust: ssl.SSLContext
    seen: list[tuple[bytes, bytes]] = field(default_factory=list)

    def pass_on(self, path: str, review: bytes) -> tuple[int, bytes]:
        where = urlsplit(self.webhook)
        assert where.hostname
        connection = http.client.HTTPSConnection(where.hostname, where.port, timeout=5, context=self.trust)
        try:
            connection.request("POST", path, review, {"content-type": "application/json"})
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        self.seen.append((review, body))
        return response.status, body

    def of(self, namespace: str) -> list[tuple[Json, Json]]:
        """The requests about that namespace, with their responses."""
        both = [(json.loads(review)["request"], json.loads(reply)["response"]) for review, reply in list(self.seen)]
        return [(request, response) for request, response in both if request["namespace"] == namespace]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    recorder: Recorder

    def do_POST(self) -> None:
        review = self.rfile.read(int(self.headers["content-length"]))
        status, body = self.recorder.pass_on(self.path, review)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        # The API server keeps its connections: without a limit the threads would outlive the test.
        connection, address = super().get_request()
        connection.settimeout(30)
        return connection, address


@pytest.fixture(scope="module")
def recorder(sandbox: Sandbox) -> Iterator[Recorder]:
    """The webhook, registered at the shared sandbox through a recorder; unregistered again at the end."""
    start_webhook(sandbox)
    try:
        api: Any = kubernetes.client.AdmissionregistrationV1Api(sandbox.api)
        stored = api.read_mutating_webhook_configuration("leader-election").webhooks[0].client_config
        authority = base64.b64decode(stored.ca_bundle)
        folder = sandbox.directory / "webhook"
        trust = ssl.create_default_context(cadata=authority.decode())
        recorder = Recorder(stored.url, trust)
        identity = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        identity.load_cert_chain(folder / "webhook.crt", folder / "webhook.key")
        with _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"recorder": recorder})) as server:
            server.socket = identity.wrap_socket(server.socket, server_side=True)
            serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
            serving.start()
            try:
                url = f"https://127.0.0.1:{server.server_address[1]}/mutate"
                api.patch_mutating_webhook_configuration("leader-election", registration(url, authority))
                core: Any = kubernetes.client.CoreV1Api(sandbox.api)

                def is_asked() -> bool:
                    core.create_namespaced_pod("default", pod("probe"), dry_run="All")
                    return bool(recorder.seen)

                until(is_asked, "the API server asks the recorder")
                yield recorder
            finally:
                server.shutdown()
                serving.join()
    finally:
        stop_webhook(sandbox)


@pytest.fixture
def namespace(sandbox: Sandbox, recorder: Recorder) -> Iterator[str]:
    """One whose pods may elect: get, create, update on endpoints, and nothing else."""
    name = f"job-{uuid.uuid4().hex[:8]}"
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    rbac: Any = kubernetes.client.RbacAuthorizationV1Api(sandbox.api)
    core.create_namespace({"metadata": {"name": name}})
    rules = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}]
    rbac.create_namespaced_role(name, {"metadata": {"name": "candidate"}, "rules": rules})
    binding = {
        "metadata": {"name": "candidate"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "candidate"},
        "subjects": [{"kind": "ServiceAccount", "name": "default", "namespace": name}],
    }
    rbac.create_namespaced_role_binding(name, binding)

    def has_account() -> bool:
        return any(account.metadata.name == "default" for account in core.list_namespaced_service_account(name).items)

    until(has_account, "the namespace has its ServiceAccount")
    yield name
    core.delete_namespace(name)


def pod(name: str, **annotations: str) -> Json:
    """Annotated, with `enabled`, the election's name and these; plain when they are `plain="..."`."""
    ours = {"enabled": "true", "name": ELECTION, **annotations}
    metadata: Json = {"name": name, "labels": {"app": "web"}}
    if "plain" not in annotations:
        metadata["annotations"] = {f"leader-election/{key}": value for key, value in ours.items()}
    return {"metadata": metadata, "spec": {"containers": [{"name": "app", "image": "app"}]}}


def create(sandbox: Sandbox, namespace: str, body: Json) -> Json:
    """The pod as the API server has stored it."""
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    name = core.create_namespaced_pod(namespace, body).metadata.name
    stored: Json = sandbox.api.sanitize_for_serialization(core.read_namespaced_pod(name, namespace))
    return stored


def sidecars(stored: Json) -> list[Json]:
    return [one for one in stored["spec"].get("initContainers", []) if one["name"] == SIDECAR]


@dataclass
class Injected:
    """One pod's injected container, running as a process."""

    name: str
    port: int
    container: Container
    program: Program

    @property
    def leader(self) -> str | None:
        """Whom it names, as its application would ask; None when it does not answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=5) as response:
                return str(json.loads(response.read())["name"])
        except (OSError, http.client.HTTPException):
            return None


@pytest.fixture
def run(sandbox: Sandbox, namespace: str, tmp_path: Path) -> Iterator[Callable[[str], Injected]]:
    """Creates an annotated pod through the API server and runs exactly what was injected."""
    started: list[Injected] = []

    def one(name: str) -> Injected:
        port = free_pair()
        stored = create(sandbox, namespace, pod(name, ttl=f"{TTL:g}s", port=str(port)))
        container = prepare(sandbox, stored, SIDECAR, tmp_path)
        command = [sys.executable, "-m", "elector", *container.args]
        program = sandbox.run(f"{namespace}-{name}", command, env=container.env, cwd=ROOT)
        started.append(Injected(name, port, container, program))
        return started[-1]

    yield one
    for injected in started:
        if injected.program.running:
            injected.program.stop(SIGKILL)


def agreed(electors: list[Injected], but: str = "") -> str:
    """Wait until all of them name the same leader, other than `but`, and return the name."""
    names: set[str | None] = set()

    def agree() -> bool:
        nonlocal names
        names = {elector.leader for elector in electors}
        return len(names) == 1 and not names & {None, "", but}

    until(agree, f"all of {[elector.name for elector in electors]} name the same leader")
    return str(names.pop())


def record_in(sandbox: Sandbox, namespace: str) -> Json:
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    lock = core.read_namespaced_endpoints(ELECTION, namespace)
    record: Json = json.loads(lock.metadata.annotations[RECORD])
    return record


def test_annotated_pods_elect_a_leader_and_hand_over(sandbox: Sandbox, namespace: str, run: Callable[[str], Injected]) -> None:
    electors = [run(f"pod-{letter}") for letter in "abc"]
    name = agreed(electors)
    leader = next(one for one in electors if one.name == name)
    assert list(record_in(sandbox, namespace)) == FIELDS
    assert record_in(sandbox, namespace)["holderIdentity"] == leader.name

    # As the kubelet ends a native sidecar, after its application: released at once, so nobody has to wait for the ttl.
    assert "--sidecar=native" in leader.container.args
    others = [one for one in electors if one is not leader]
    began = time.monotonic()
    leader.program.signal(SIGTERM)
    successor = agreed(others, but=leader.name)
    assert time.monotonic() - began < TTL
    assert leader.program.wait(30) == 0
    assert record_in(sandbox, namespace)["holderIdentity"] == successor


def test_a_rotated_token_is_used_while_the_leader_stays(sandbox: Sandbox, namespace: str, run: Callable[[str], Injected]) -> None:
    electors = [run(f"pod-{letter}") for letter in "ab"]
    leader = agreed(electors)
    transitions = record_in(sandbox, namespace)["leaderTransitions"]
    tokens = {one.name: one.container.refresh_token() for one in electors}

    def users() -> set[str]:
        """Who was served with the new token, by the audit log, which names each request's token by its number."""
        *lines, _ = (sandbox.directory / "audit.log").read_text().split("\n")
        entries = [json.loads(line) for line in lines if namespace in line and '"endpoints"' in line]
        served = [entry["user"]["extra"][CREDENTIAL] for entry in entries if entry.get("responseStatus", {}).get("code") == 200]
        return {name for name, token in tokens.items() if [f"JTI={number_of(token)}"] in served}

    until(lambda: users() == set(tokens), "both electors were served with their new tokens")
    assert agreed(electors) == leader
    assert record_in(sandbox, namespace)["leaderTransitions"] == transitions


def number_of(token: str) -> str:
    """The claim `jti` of a token, by which the audit log knows it."""
    payload = token.split(".")[1]
    number: str = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["jti"]
    return number


def test_a_wrong_annotation_is_refused_with_what_is_allowed(sandbox: Sandbox, namespace: str) -> None:
    with pytest.raises(ApiException) as refused:
        create(sandbox, namespace, pod("wrong", ttl="0.5s", port="80"))
    assert refused.value.status == 422
    message = json.loads(str(refused.value.body))["message"]
    for part in ("leader-election/ttl", "0.5s", "leader-election/port", '"80"'):
        assert part in message
    core: Any = kubernetes.client.CoreV1Api(sandbox.api)
    assert core.list_namespaced_pod(namespace).items == []


def test_a_plain_pod_is_left_alone_and_nobody_is_asked(sandbox: Sandbox, namespace: str, recorder: Recorder) -> None:
    stored = create(sandbox, namespace, pod("plain", plain="yes"))
    injected = create(sandbox, namespace, pod("annotated"))
    assert [request["name"] for request, _ in recorder.of(namespace)] == ["annotated"]
    assert sidecars(injected)
    assert stored["metadata"]["labels"] == {"app": "web"}
    assert "annotations" not in stored["metadata"]
    assert "initContainers" not in stored["spec"]
    (container,) = stored["spec"]["containers"]
    assert "env" not in container
    # What is there beside the pod's own is the API server's.
    assert all(volume["name"].startswith("kube-api-access-") for volume in stored["spec"]["volumes"])


def test_real_reviews_are_answered_alike_by_program_and_function(sandbox: Sandbox, namespace: str, recorder: Recorder) -> None:
    body = pod("named")
    generated = pod("generated")
    generated["metadata"] = {**generated["metadata"], "name": None, "generateName": "web-"}
    stored = [create(sandbox, namespace, body), create(sandbox, namespace, generated)]
    with pytest.raises(ApiException):
        create(sandbox, namespace, pod("refused", ttl="1"))

    settings = InjectionSettings(image=IMAGE)
    for review, reply in recorder.seen:
        assert json.loads(answer(review, settings)[0]) == json.loads(reply)

    seen = recorder.of(namespace)
    assert [response["allowed"] for _, response in seen] == [True, True, False]
    for (request, response), pod_stored in zip(seen[:2], stored, strict=True):
        assert request["operation"] == "CREATE"
        assert request["kind"] == {"group": "", "version": "v1", "kind": "Pod"}
        patched = jsonpatch.apply_patch(request["object"], base64.b64decode(response["patch"]).decode())
        assert sidecars(patched)[0]["args"] == sidecars(pod_stored)[0]["args"]
    assert (seen[0][0]["object"]["metadata"]["name"], seen[0][0]["name"]) == ("named", "named")
    assert "name" not in seen[1][0]["object"]["metadata"]
    assert "name" not in seen[1][0]
