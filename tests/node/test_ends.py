"""In which order a leader's application ends, its lock is released, and another one leads."""

from __future__ import annotations

import contextlib
import datetime
import json
import statistics
import threading
import time
from dataclasses import dataclass
from typing import Any

import kubernetes.watch
import pytest
import urllib3

from tests.node.cluster import PYTHON_IMAGE, Cluster, deployment, pod_spec
from tests.node.observer import Observer
from tests.waiting import until

TAKES = 2.0
"""Seconds that the application goes on working after SIGTERM."""

WITHIN = 1.0
"""Seconds from the end of a leader's application until another one leads, held by the median; with a native sidecar."""

APPLICATION = f"""
import signal, sys, time
def end(*_):
    print("told to end", flush=True)
    time.sleep({TAKES})
    print("application ends", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, end)
print("working", flush=True)
while True:
    time.sleep(1)
"""


class Lock:
    """Notes when the lock's holder changed, by this machine's wall clock, which is the containers' too."""

    def __init__(self, cluster: Cluster, namespace: str, election: str) -> None:
        self.holders: list[tuple[float, str]] = []
        watch: Any = kubernetes.watch.Watch
        self._watch = watch()
        self._cluster, self._namespace, self._election = cluster, namespace, election
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> Lock:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.stop()  # at its next event, of which there is one at each renewal
        self._thread.join(20)

    def _follow(self) -> None:
        events: Any = self._watch.stream(
            self._cluster.core.list_namespaced_endpoints,
            self._namespace,
            field_selector=f"metadata.name={self._election}",
            timeout_seconds=60,
        )
        with contextlib.suppress(urllib3.exceptions.HTTPError):  # nobody reads to its end
            for event in events:
                record = json.loads(event["object"].metadata.annotations["control-plane.alpha.kubernetes.io/leader"])
                if not self.holders or self.holders[-1][1] != record["holderIdentity"]:
                    self.holders.append((time.time(), record["holderIdentity"]))


def when(log: str, words: str) -> float:
    """When a line was written, by the time that the container runtime noted beside it."""
    line = next(line for line in log.splitlines() if words in line)
    stamp, _, fraction = line.split()[0].removesuffix("Z").partition(".")
    whole = datetime.datetime.fromisoformat(stamp).replace(tzinfo=datetime.UTC).timestamp()
    return whole + float(f"0.{fraction or 0}")


@dataclass(frozen=True)
class End:
    """When what happened, by the wall clock."""

    told: float
    application: float
    released: float
    taken: float
    led: float

    def __str__(self) -> str:
        return (
            f"application: {self.application - self.told:.3f} s after SIGTERM; lock released: "
            f"{self.released - self.application:.3f} s after that; taken: {self.taken - self.released:.3f} s after that;"
            f" another one says that it leads: {self.led - self.application:.3f} s after the application's end"
        )


def end_the_leader(cluster: Cluster, namespace: str, observer: Observer) -> End:
    """Delete the leader's pod, and wait until another one leads."""
    leader = observer.leader
    follow = ["--namespace", namespace, "logs", "--follow", "--timestamps", "--container=app", leader]
    # Programs of a sandbox have short names; the end of a pod's name is its own.
    logs = cluster.sandbox.run(
        f"logs-{leader[-5:]}", [cluster.kubectl_program, *follow], env=cluster.environment, cwd=cluster.scratch
    )
    until(lambda: "working" in logs.log.read_text(), "the log is followed", 30)
    with Lock(cluster, namespace, "app.leader") as lock:
        until(lambda: lock.holders, "the lock is watched", 10)
        cluster.kubectl("--namespace", namespace, "delete", "pod", leader, "--wait=false")
        until(lambda: observer.leader not in ("", leader), "another one leads", 60)
        successor = observer.leader
        until(lambda: "application ends" in logs.log.read_text(), "the log has the application's last line", 30)
    logs.stop()
    assert [holder for _, holder in lock.holders[:3]] == [leader, "", successor]
    wall = time.time() - time.monotonic()
    return End(
        told=when(logs.log.read_text(), "told to end"),
        application=when(logs.log.read_text(), "application ends"),
        released=lock.holders[1][0],
        taken=lock.holders[2][0],
        led=next(reign.first for reign in observer.reigns if reign.pod == successor) + wall,
    )


@pytest.mark.parametrize(
    ("annotations", "rounds"),
    [
        pytest.param({}, 3, id="native"),
        pytest.param({"leader-election/sidecar": "classic", "leader-election/drain": "4s"}, 1, id="classic with drain"),
    ],
)
def test_application_then_lock_then_the_next(cluster: Cluster, namespace: str, annotations: dict[str, str], rounds: int) -> None:
    spec = pod_spec(image=PYTHON_IMAGE, command=["python3", "-c", APPLICATION], grace=20)
    more = {"leader-election/listen": "all", "leader-election/ttl": "4s"}
    cluster.apply(namespace, deployment(spec=spec, annotations={**more, **annotations}))
    ends = []
    with Observer(cluster, namespace) as observer:
        for _ in range(rounds):
            cluster.rolled_out(namespace, "deployment/app")
            until(lambda: observer.leader, "somebody leads", 60)
            ends.append(end_the_leader(cluster, namespace, observer))
            print(ends[-1])
    for end in ends:
        assert end.application - end.told >= TAKES - 0.1
        assert end.told < end.application < end.released < end.taken
        assert end.led > end.released
    if not annotations:
        assert statistics.median(end.led - end.application for end in ends) < WITHIN
