"""The times of an election and the rules between them."""

from __future__ import annotations

import pytest

from elector._errors import SettingsError
from elector._timing import Timing


def test_the_originals_proportions() -> None:
    timing = Timing.of(10.0)
    assert (timing.ttl, timing.renew_deadline, timing.retry_period) == (10.0, 5.0, 2.5)


@pytest.mark.parametrize("ttl", [1.0, 600.0])
def test_the_shortest_and_the_longest_ttl_are_allowed(ttl: float) -> None:
    assert Timing.of(ttl).ttl == ttl


@pytest.mark.parametrize("ttl", [0.0, 0.999, 600.001, -1.0, float("nan"), float("inf")])
def test_other_ttls_are_not(ttl: float) -> None:
    with pytest.raises((SettingsError, ValueError, OverflowError)):
        Timing(ttl, 0.5, 0.1)


def test_a_ttl_out_of_bounds_is_named() -> None:
    with pytest.raises(SettingsError, match=r"--ttl is 11m: allowed is 1s to 10m"):
        Timing.of(660.0)


@pytest.mark.parametrize("deadline", [0.0, 9.001, 10.0])
def test_a_claim_ends_before_others_may_take_over(deadline: float) -> None:
    with pytest.raises(
        SettingsError, match=r"--renew-deadline is .* at most 0.9 of the ttl of 10s.* before others may take over"
    ):
        Timing.of(10.0, deadline, 0.1)


@pytest.mark.parametrize("period", [0.0, 4.2, 5.0])
def test_a_claim_can_be_renewed_in_time(period: float) -> None:
    with pytest.raises(SettingsError, match=r"--retry-period is .* deadline of 5s divided by 1.2.* renewed in time"):
        Timing.of(10.0, None, period)


def test_the_limits_themselves_are_allowed() -> None:
    timing = Timing.of(10.0, 9.0, 7.5)
    assert timing.renew_deadline == 9.0
    assert timing.retry_period == 7.5


def test_a_longer_claim_leaves_less_time_to_readers_of_the_name() -> None:
    # Belief plus claim must end before a foreign take-over: the claim's end, plus 0.9 of what is left of the ttl.
    assert Timing.of(12.0).belief == pytest.approx(5.4)  # the post's application reads every 5 s
    assert Timing.of(10.0).belief == pytest.approx(4.5)
    assert Timing.of(10.0, 9.0).belief == pytest.approx(0.9)
    for ttl, deadline in [(1.0, 0.5), (10.0, 9.0), (600.0, 300.0)]:
        timing = Timing.of(ttl, deadline, deadline / 2)
        assert timing.renew_deadline + timing.belief < ttl


def test_the_spread_is_short() -> None:
    assert Timing.of(1.0).spread == pytest.approx(0.01)
    assert Timing.of(600.0).spread == 0.05
