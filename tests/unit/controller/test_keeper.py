"""The keeper against a cluster in memory: whatever others do to Secret and registration, it ends right."""

import asyncio
import random
from dataclasses import replace

import pytest

from tests.unit.controller.fakes import DAY, RULES, FakeClock, FakeCluster
from webhook.controller._certificates import ends, fingerprint, is_signed_by, read_bundle
from webhook.controller._errors import ClusterError
from webhook.controller._keeper import Keeper
from webhook.controller._rotation import Material
from webhook.controller._settings import Rules


def look(keeper: Keeper) -> float:
    return asyncio.run(keeper.look())


def stored(cluster: FakeCluster) -> Material:
    assert cluster.secret is not None
    return Material.read(cluster.secret)


def test_a_fresh_install_needs_one_look_and_then_nothing() -> None:
    cluster, clock = FakeCluster(), FakeClock()
    keeper = Keeper(cluster, RULES, clock)
    again = look(keeper)
    assert cluster.writes == ["create", "publish"]
    assert cluster.bundle == stored(cluster).bundle
    assert again == pytest.approx(20 * DAY)
    look(keeper)
    assert cluster.writes == ["create", "publish"]
    assert keeper.published


def test_an_emptied_bundle_is_put_back() -> None:
    cluster, clock = FakeCluster(), FakeClock()
    keeper = Keeper(cluster, RULES, clock)
    look(keeper)
    for nonsense in (b"", b"nonsense"):
        cluster.bundle = nonsense
        cluster.version += 1
        look(keeper)
        assert cluster.bundle == stored(cluster).bundle


def test_two_that_start_at_once_without_a_secret_end_with_one_authority() -> None:
    """Both believe that they lead: the compare-and-swap alone has to settle it."""

    async def both() -> None:
        await asyncio.gather(*(Keeper(cluster, RULES, FakeClock()).look() for _ in range(2)))

    cluster = FakeCluster()
    asyncio.run(both())
    assert cluster.writes.count("create") == 1
    assert cluster.bundle == stored(cluster).bundle
    assert len(stored(cluster).authorities) == 1


def test_who_was_overtaken_writes_nothing() -> None:
    cluster = FakeCluster()
    keeper = Keeper(cluster, RULES, FakeClock(), lambda: False)
    look(keeper)
    assert cluster.writes == []


def test_a_lost_secret_is_announced_before_it_is_stored() -> None:
    cluster, clock = FakeCluster(), FakeClock()
    keeper = Keeper(cluster, RULES, clock)
    look(keeper)
    served = stored(cluster)
    cluster.secret = None
    assert look(keeper) == pytest.approx(RULES.settle)
    assert cluster.secret is None
    assert len(read_bundle(cluster.bundle or b"")) == 2
    clock.time += RULES.settle
    look(keeper)
    # What the webhook still serves stays trusted, what comes is trusted already.
    assert stored(cluster).authorities[1:] == served.authorities
    assert cluster.bundle == stored(cluster).bundle


def test_a_broken_secret_is_replaced() -> None:
    cluster = FakeCluster()
    cluster.secret = {"tls.crt": b"nonsense", "tls.key": b""}
    look(Keeper(cluster, RULES, FakeClock()))
    assert cluster.writes == ["replace", "publish"]
    assert cluster.bundle == stored(cluster).bundle


def test_without_a_registration_the_secret_is_kept_and_nothing_is_switched() -> None:
    cluster, clock = FakeCluster(), FakeClock()
    cluster.bundle = None
    keeper = Keeper(cluster, RULES, clock)
    look(keeper)
    first = stored(cluster)
    clock.time += 310 * DAY
    look(keeper)
    assert stored(cluster).certificate == first.certificate
    assert not keeper.published
    cluster.bundle = b""
    look(keeper)
    assert stored(cluster).certificate != first.certificate


def test_a_failure_is_told() -> None:
    cluster = FakeCluster()
    cluster.down = True
    with pytest.raises(ClusterError):
        look(Keeper(cluster, RULES, FakeClock()))


class Webhook:
    """Takes up what is stored some time later, as the kubelet and the webhook do."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.serving: Material | None = None
        self._coming: list[tuple[float, Material]] = []

    def tick(self, cluster: FakeCluster, now: float) -> None:
        if cluster.secret is not None:
            material = Material.read(cluster.secret)
            newest = self._coming[-1][1] if self._coming else self.serving
            if newest is None or newest.certificate != material.certificate:
                self._coming.append((now + self.delay, material))
        while self._coming and self._coming[0][0] <= now:
            self.serving = self._coming.pop(0)[1]

    def is_trusted(self, cluster: FakeCluster, now: float) -> bool:
        assert self.serving is not None
        trusted = [one for one in read_bundle(cluster.bundle or b"") if ends(one) > now]
        return ends(self.serving.served) > now and any(is_signed_by(self.serving.served, one) for one in trusted)


@pytest.mark.parametrize("seed", range(3))
def test_through_restarts_and_outages_whatever_is_served_is_trusted(seed: int) -> None:
    """Two months in which certificates live for three days and authorities for fifteen."""
    rules = replace(RULES, certificate_lifetime=3 * DAY, authority_lifetime=15 * DAY)
    authorities = asyncio.run(live(rules, random.Random(seed), 60 * DAY))
    assert authorities >= 5


async def live(rules: Rules, chance: random.Random, seconds: float) -> int:
    """Let time pass, and return how many authorities there were. Asserts at every moment that what is served is trusted."""
    cluster, clock = FakeCluster(), FakeClock()
    keeper = Keeper(cluster, rules, clock)
    due = clock.time + await keeper.look()
    webhooks = [Webhook(chance.uniform(0, 120)) for _ in range(2)]
    for webhook in webhooks:
        webhook.serving = stored(cluster)
    authorities, outage_until, end = set(), 0.0, clock.time + seconds
    while clock.time < end:
        # Half an hour, but ten seconds where something is under way.
        clock.time += 10.0 if due - clock.time < 600 or cluster.writes else 1800.0
        cluster.writes.clear()
        if chance.random() < 0.01:
            keeper = Keeper(cluster, rules, clock)
        if chance.random() < 0.005:
            outage_until = clock.time + chance.uniform(0, DAY / 2)
        cluster.down = clock.time < outage_until
        try:
            due = clock.time + await keeper.look()
        except ClusterError:
            due = clock.time + 3600
        for webhook in webhooks:
            webhook.tick(cluster, clock.time)
            assert webhook.is_trusted(cluster, clock.time)
        authorities.add(fingerprint(stored(cluster).newest))
        assert len(stored(cluster).authorities) <= 2
    return len(authorities)
