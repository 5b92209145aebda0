"""The controller on a real API server, run as the chart describes it: many rotations under load, two that start at once, and
the active one killed."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography import x509
from kubernetes.client import ApiException

from elector._record import parse_record
from sandbox import Sandbox
from tests.chart.release import Kubelet, Release
from tests.waiting import until

pytestmark = [pytest.mark.api, pytest.mark.long, pytest.mark.timeout(300)]

LOCK = "leader-election-controller.leader"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Sandbox]:
    """A control plane of this module's own: a registration concerns the whole cluster."""
    with Sandbox.start(audit=True) as started:
        yield started


@pytest.fixture
def release(cluster: Sandbox, tmp_path: Path) -> Iterator[Release]:
    found = Release(cluster, tmp_path, "leader-election", "le-system")
    yield found
    found.helm("uninstall", found.name)
    until(lambda: found.secret() is None and not found.pods("controller"), "all is gone")
    locks = found.core.list_namespaced_endpoints
    until(lambda: not locks(found.namespace, field_selector=f"metadata.name={LOCK}").items, "the lock is gone")


@pytest.fixture
def kubelet(cluster: Sandbox, release: Release, tmp_path: Path) -> Iterator[Kubelet]:
    with Kubelet(cluster, release, tmp_path / "nodes") as running:
        yield running


def install(release: Release, kubelet: Kubelet, *options: str) -> None:
    url = f"--set=webhook.url=https://127.0.0.1:{kubelet.service.port}/mutate"
    release.install("--set=image.repository=registry.example.com/le", url, *options)


def holder(release: Release) -> str:
    """The controller that acts, by the lock; empty when there is none, or it is one of a former release."""
    found = release.core.list_namespaced_endpoints(release.namespace, field_selector=f"metadata.name={LOCK}").items
    text = (found[0].metadata.annotations or {}).get("control-plane.alpha.kubernetes.io/leader") if found else None
    name = parse_record(text).holder if text else ""
    return name if name in {pod["metadata"]["name"] for pod in release.pods("controller")} else ""


def created(release: Release, name: str) -> bool:
    """Whether an annotated pod is created, injected; it is removed again."""
    try:
        pod = release.create_pod(name)
    except ApiException:
        return False
    release.core.delete_namespaced_pod(name, "default", grace_period_seconds=0)
    return bool(pod["spec"].get("initContainers"))


class Repeated:
    """Does something again and again in a thread, until it fails or the block ends, which then raises."""

    def __init__(self, do: Callable[[int], None]) -> None:
        self._do = do
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="repeated")
        self.times = 0
        self.failure: BaseException | None = None

    def __enter__(self) -> "Repeated":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._ending.is_set():
                self._do(self.times)
                self.times += 1
        except BaseException as error:
            self.failure = error


def test_rotation_under_load(release: Release, kubelet: Kubelet) -> None:
    """Certificates that live for 18 s and authorities for 54 s, while pods are created all the time."""
    rotation = {"certificateLifetime": "18s", "caLifetime": "54s", "settle": "4s"}
    install(release, kubelet, *[f"--set=certificates.self.{key}={value}" for key, value in rotation.items()])
    until(lambda: created(release, "first"), "an annotated pod is created")
    served: set[int] = set()
    issuers: set[str] = set()

    def create(number: int) -> None:
        pod = release.create_pod(f"loaded-{number}")
        assert pod["spec"]["initContainers"]
        release.core.delete_namespaced_pod(f"loaded-{number}", "default", grace_period_seconds=0)

    def connect(_: int) -> None:
        """A connection of its own, as a second API server would open it: trusting what the registration says now."""
        context = ssl.create_default_context(cadata=release.bundle().decode())
        with (
            socket.create_connection(("127.0.0.1", kubelet.service.port), 5) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
        ):
            certificate = x509.load_der_x509_certificate(connection.getpeercert(binary_form=True) or b"")
        served.add(certificate.serial_number)
        issuers.add(certificate.issuer.rfc4514_string())
        time.sleep(0.1)

    with Repeated(create) as creating, Repeated(connect) as connecting:
        until(
            lambda: bool(creating.failure or connecting.failure) or (len(issuers) >= 4 and len(served) >= 6),
            "certificates of four authorities were served",
            seconds=200,
        )
    print(
        f"{creating.times} pods created, {connecting.times} connections, {len(served)} certificates, {len(issuers)} authorities"
    )
    assert creating.times > 50


def test_two_that_start_at_once_end_with_one_authority(release: Release, kubelet: Kubelet) -> None:
    install(release, kubelet)
    until(lambda: len(kubelet.programs("controller")) == 2, "two controllers run")
    until(lambda: created(release, "probe"), "an annotated pod is created")
    first = release.secret()
    assert first is not None
    assert len(x509.load_pem_x509_certificates(first["ca.crt"])) == 1
    assert release.bundle() == first["ca.crt"]
    logs = [program.log.read_text() for program in kubelet.programs("controller").values()]
    assert sorted(log.count("a new authority and a certificate: stored") for log in logs) == [0, 1]


def test_the_other_one_takes_over(release: Release, kubelet: Kubelet) -> None:
    install(release, kubelet)
    until(lambda: created(release, "probe"), "an annotated pod is created")
    first = release.secret()
    assert first is not None
    active = holder(release)
    kubelet.programs("controller")[active].signal(9)
    release.core.delete_namespaced_secret(f"{release.name}-webhook-tls", release.namespace)
    body = {"webhooks": [{"name": "inject.leader-election.io", "clientConfig": {"caBundle": None}}]}
    release.admission.patch_mutating_webhook_configuration(release.name, body)
    took = until(lambda: bool(release.bundle()) and release.secret() is not None, "the other one has put it right")
    print(f"the other controller had put everything right {took:.1f} s after the active one was killed")
    assert holder(release) not in ("", active)
    until(lambda: created(release, "after"), "annotated pods are created again")
    second = release.secret()
    assert second is not None
    assert release.bundle() == second["ca.crt"] != first["ca.crt"]


def test_who_is_told_to_end_hands_over_at_once(release: Release, kubelet: Kubelet) -> None:
    install(release, kubelet)
    until(lambda: created(release, "probe"), "an annotated pod is created")
    active = holder(release)
    program = kubelet.programs("controller")[active]
    program.signal(15)
    took = until(lambda: holder(release) not in ("", active), "the other one acts")
    print(f"handed over after {took:.2f} s")
    assert took < 5
    assert program.wait(5) == 0


def resident(pid: int) -> float:
    """MiB of memory that a process holds."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


def test_idle_controllers_ask_little(cluster: Sandbox, release: Release, kubelet: Kubelet) -> None:
    """What two controllers ask of the API server while nothing happens: renewals and watches."""
    install(release, kubelet)
    until(lambda: created(release, "probe"), "an annotated pod is created")
    account = f"system:serviceaccount:{release.namespace}:{release.name}-controller"
    log = cluster.directory / "audit.log"
    start = log.stat().st_size
    time.sleep(20)
    with log.open() as file:
        file.seek(start)
        entries = [json.loads(line) for line in file]
    asked = [one for one in entries if one["user"]["username"] == account and one["stage"] == "ResponseComplete"]
    verbs = sorted({(one["verb"], one["objectRef"]["resource"]) for one in asked})
    print(f"{len(asked) / 20:.2f} requests per second: {verbs}")
    assert len(asked) / 20 < 1.0
    for component, limit in (("webhook", 256), ("controller", 256)):
        held = [resident(program.pid) for program in kubelet.programs(component).values()]
        print(f"{component}: {max(held):.0f} MiB resident, the limit is {limit}")
        assert max(held) < limit / 2
