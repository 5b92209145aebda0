"""When which certificate is made, to the second."""

from dataclasses import replace

import pytest

from tests.unit.controller.fakes import DAY, RULES
from webhook.controller._certificates import ends, hosts_of, is_signed_by, make_issuer
from webhook.controller._errors import UnusableCertificate
from webhook.controller._rotation import Material, begin, next_step

NOW = 1_800_000_000.0


def test_the_first_certificate_can_be_served_at_once() -> None:
    first = begin(RULES, [], NOW)
    assert is_signed_by(first.served, first.newest)
    assert hosts_of(first.served) == set(RULES.hosts)
    assert ends(first.served) == NOW + 30 * DAY
    assert ends(first.newest) == NOW + 365 * DAY
    assert Material.read(first.data()) == first
    step = next_step(first, 0.0, RULES, NOW)
    assert (step.material, step.again) == (None, 20 * DAY)


def test_what_may_still_be_served_stays_trusted_when_starting_over() -> None:
    old, ended = make_issuer(NOW - 10 * DAY, 100 * DAY), make_issuer(NOW - 10 * DAY, 10 * DAY)
    first = begin(RULES, [old.certificate, ended.certificate], NOW)
    assert first.authorities[1:] == (old.certificate,)


def test_a_certificate_is_renewed_when_a_third_of_its_time_is_left() -> None:
    first = begin(RULES, [], NOW)
    assert next_step(first, 1e6, RULES, NOW + 20 * DAY - 1).material is None
    renewed = next_step(first, 1e6, RULES, NOW + 20 * DAY).material
    assert renewed is not None
    assert renewed.authorities == first.authorities
    assert ends(renewed.served) == NOW + 50 * DAY
    assert renewed.key != first.key


def test_an_authority_is_replaced_in_two_steps_with_the_settling_time_between() -> None:
    at = NOW + (365 - 60) * DAY
    # Its last certificate, renewed not long ago.
    before = next_step(begin(RULES, [], NOW), 1e6, RULES, at - 5 * DAY).material
    assert before is not None
    assert next_step(before, 1e6, RULES, at - 1).material is None
    published = next_step(before, 1e6, RULES, at).material
    assert published is not None
    assert published.authorities[1:] == before.authorities
    assert published.certificate == before.certificate
    for published_for, again in ((None, 30.0), (0.0, 30.0), (29.0, 1.0)):
        waiting = next_step(published, published_for, RULES, at)
        assert (waiting.material, waiting.again) == (None, again)
    switched = next_step(published, 30.0, RULES, at).material
    assert switched is not None
    assert is_signed_by(switched.served, published.newest)
    assert switched.authorities == published.authorities
    # The former authority is trusted until it ends, and no longer.
    former_end = NOW + 365 * DAY
    at_end = replace(switched, certificate=renewed(switched, former_end - DAY))
    assert next_step(at_end, 1e6, RULES, former_end - 1).material is None
    dropped = next_step(at_end, 1e6, RULES, former_end).material
    assert dropped is not None
    assert dropped.authorities == (switched.newest,)


def renewed(material: Material, at: float) -> bytes:
    step = next_step(material, 1e6, RULES, at)
    assert step.material is not None
    # The key does not matter here.
    return step.material.certificate


def test_nothing_that_is_signed_outlives_its_authority() -> None:
    issuer = make_issuer(NOW, 10 * DAY)
    certificate, _ = issuer.sign(["a.b.svc"], NOW + 5 * DAY, 30 * DAY)
    assert Material((issuer.certificate,), issuer.key_pem, certificate, b"").served.not_valid_after_utc == (
        issuer.certificate.not_valid_after_utc
    )


def test_other_host_names_are_a_reason() -> None:
    first = begin(RULES, [], NOW)
    moved = replace(RULES, hosts=("other.ns.svc",))
    step = next_step(first, 30.0, moved, NOW)
    assert step.material is not None
    assert hosts_of(step.material.served) == {"other.ns.svc"}
    assert step.why == "the certificate is for other host names"


def test_what_has_ended_is_replaced_without_waiting_but_not_before_it_is_trusted() -> None:
    first = begin(RULES, [], NOW)
    later = NOW + 31 * DAY
    assert next_step(first, None, RULES, later).material is None
    assert next_step(first, 0.0, RULES, later).material is not None


@pytest.mark.parametrize("key", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize("content", [None, b"", b"nonsense", "other's"])
def test_what_cannot_be_used_is_refused(key: str, content: bytes | str | None) -> None:
    data = begin(RULES, [], NOW).data()
    if content is None:
        del data[key]
    else:
        data[key] = begin(RULES, [], NOW).data()[key] if isinstance(content, str) else content
    with pytest.raises(UnusableCertificate):
        Material.read(data)
