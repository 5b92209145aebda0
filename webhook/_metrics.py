"""What Prometheus can scrape from `GET /metrics`."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

__all__ = ["CERTIFICATE_END", "CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

CERTIFICATE_END = "leader_election_webhook_certificate_expiry_timestamp_seconds"

# Around what one review takes here, about 0.1 ms, and up to the 5 s that the API server waits.
_BUCKETS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0)

# A second series beside each of ours, with the time of its first value: nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """The metrics of one application, in a registry of their own. Labels have few values: no pod's text gets into one."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._reviews = Counter(
            "leader_election_webhook_reviews",
            "Reviews by result (injected, unchanged, denied, refused), reason, and whether it was a dry run",
            ["result", "reason", "dry_run"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "leader_election_webhook_review_duration_seconds",
            "From the headers of a review to its answer, the time that its body took to arrive included",
            registry=self._registry,
            buckets=_BUCKETS,
        )
        self._reloads = Counter(
            "leader_election_webhook_certificate_reloads",
            "Changes of the certificate's files: taken up, or failed and the old certificate kept",
            ["result"],
            registry=self._registry,
        )
        for result in ("taken", "failed"):
            self._reloads.labels(result)  # there from the start, so that the first failure is an increase

    def reviewed(self, result: str, reason: str, *, dry_run: bool, seconds: float) -> None:
        """Count a review that took so many seconds."""
        self._reviews.labels(result, reason, "true" if dry_run else "false").inc()
        self._seconds.observe(seconds)

    def show_certificate_end(self, ends: Callable[[], float]) -> None:
        """Show what `ends` returns, in seconds since 1970, as the end of the certificate in use."""
        gauge = Gauge(CERTIFICATE_END, "When the certificate in use ends, in seconds since 1970", registry=self._registry)
        gauge.set_function(ends)

    def reloaded(self, taken: bool) -> None:
        """Count a change of the certificate's files, and whether the new certificate was taken up."""
        self._reloads.labels("taken" if taken else "failed").inc()

    def text(self) -> bytes:
        """All of them in the text format, of the type `CONTENT_TYPE`."""
        return generate_latest(self._registry)
